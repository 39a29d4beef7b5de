package conntrack

import (
	"fmt"
	"sync/atomic"
)

// ServerState is what the NAT64 knows of an IPv4 host (handoff draft §8).
type ServerState uint8

const (
	ServerUnknown ServerState = iota // never sent a valid control packet
	ServerHandoff                    // handoff-capable
	ServerDown                       // was, but its port is closed
)

// String gives the name that `nat64ctl servers` prints.
func (s ServerState) String() string {
	switch s {
	case ServerHandoff:
		return "handoff"
	case ServerDown:
		return "down"
	}
	return "unknown"
}

// Servers is the bounded table of handoff servers that workers look into for
// every packet without a session. One goroutine, the handoff worker, calls Set
// and Forget; State is for any goroutine, takes no lock and one cache line in
// most cases. Hosts that are not in it are unknown.
type Servers struct {
	hash  hasher
	words []atomic.Uint64 // address 32 | translates 1 | used 1 | state 8; open addressing, linear probing
	used  int
}

const (
	serverUsed       = 1 << 8
	serverTranslates = 1 << 9
)

// NewServers returns a table for up to capacity servers.
func NewServers(capacity int, secret [32]byte) (*Servers, error) {
	if capacity < 1 || capacity > 1<<24 {
		return nil, fmt.Errorf("handoff servers: capacity %d is not within 1 to %d", capacity, 1<<24)
	}
	return &Servers{hash: newHasher(seedFor(secret, 1<<32), 1), words: make([]atomic.Uint64, capacity*2)}, nil
}

func (s *Servers) home(addr uint32) int {
	return int(scale(fold(uint64(addr)^s.hash.s[0], s.hash.s[1]), uint64(len(s.words))))
}

// Foresee asks for the cache line that State is going to read. Any goroutine.
func (s *Servers) Foresee(addr uint32) { prefetchLine(&s.words[s.home(addr)]) }

// State is what is known of the host.
func (s *Servers) State(addr uint32) ServerState {
	for i := s.home(addr); ; i = s.after(i) {
		w := s.words[i].Load()
		if w == 0 {
			return ServerUnknown
		}
		if w>>32 == uint64(addr) {
			return ServerState(w)
		}
	}
}

// Set records the state of a host; false when the table is full.
func (s *Servers) Set(addr uint32, st ServerState) bool {
	for i := s.home(addr); ; i = s.after(i) {
		w := s.words[i].Load()
		if w != 0 && w>>32 != uint64(addr) {
			continue
		}
		if w == 0 {
			if s.used == len(s.words)/2 {
				return false
			}
			s.used++
		}
		s.words[i].Store(uint64(addr)<<32 | serverUsed | uint64(st))
		return true
	}
}

// SetTranslates records whether a host that is in the table translates for
// itself: what goes there over the control channel does not come back. Set
// forgets it.
func (s *Servers) SetTranslates(addr uint32, yes bool) {
	for i := s.home(addr); ; i = s.after(i) {
		w := s.words[i].Load()
		switch {
		case w == 0:
			return
		case w>>32 != uint64(addr):
			continue
		case yes:
			w |= serverTranslates
		default:
			w &^= serverTranslates
		}
		s.words[i].Store(w)
		return
	}
}

// Translates says what SetTranslates recorded. For any goroutine, like State.
func (s *Servers) Translates(addr uint32) bool {
	for i := s.home(addr); ; i = s.after(i) {
		w := s.words[i].Load()
		if w == 0 {
			return false
		}
		if w>>32 == uint64(addr) {
			return w&serverTranslates != 0
		}
	}
}

// Forget removes a host. What was pushed behind it moves up. For a moment a
// reader may take one of those for unknown, which costs at most a mapping of
// our own that the server did not need.
func (s *Servers) Forget(addr uint32) {
	at := s.home(addr)
	for ; ; at = s.after(at) {
		w := s.words[at].Load()
		if w == 0 {
			return
		}
		if w>>32 == uint64(addr) {
			break
		}
	}
	s.used--
	for hole, next := at, s.after(at); ; next = s.after(next) {
		w := s.words[next].Load()
		if w == 0 {
			s.words[hole].Store(0)
			return
		}
		if between(hole, s.home(uint32(w>>32)), next) {
			continue
		}
		s.words[hole].Store(w)
		hole = next
	}
}

// Len is the number of hosts recorded. For the goroutine that writes.
func (s *Servers) Len() int { return s.used }

func (s *Servers) after(i int) int {
	if i++; i == len(s.words) {
		return 0
	}
	return i
}
