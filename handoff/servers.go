package handoff

import (
	"sync/atomic"

	"handoff64/conntrack"
)

const (
	maxServers = 1 << 16
	// recentClients is how many clients are remembered that a server was told of.
	recentClients = 4
)

// server is what is known of one IPv4 host. The worker writes it; word and
// heard may be read by anybody.
type server struct {
	word   atomic.Uint64 // address<<8 | serverKnown | state
	heard  atomic.Int64  // when the last valid control packet came, Unix nanoseconds; 0 never
	recent [recentClients]conntrack.Addr6
	at     uint8 // next place in recent
	kept   uint8 // places of recent in use
	// translates: its last answer was a packet translated already, and not an entry.
	translates bool
}

const (
	serverKnown = 1 << 7
	stateMask   = serverKnown - 1
)

// servers is the bounded table of hosts that notifications went to or control
// packets came from. To make room, the unknown host that was least recently
// met goes; only if there is none, a server that is down; only then a capable
// one. Capable servers and those that are down are also in the table that packet
// workers read. Owned by the worker's goroutine, but for what info.go reads.
type servers struct {
	index  index[uint32]
	slots  []server
	places []place
	lists  [conntrack.ServerDown + 1]list // least recently met first
	shared *conntrack.Servers
	count  *counters
	dirty  bool // the state file is out of date
}

func newServers(capacity int, shared *conntrack.Servers, count *counters) *servers {
	s := &servers{index: newIndex[uint32](capacity), slots: make([]server, capacity), places: make([]place, capacity), shared: shared, count: count}
	for i := range s.lists {
		s.lists[i] = emptyList()
	}
	return s
}

// stateAt is the state of a slot that is in use.
func (s *servers) stateAt(i int32) conntrack.ServerState {
	return conntrack.ServerState(s.slots[i].word.Load() & stateMask)
}

// state is what is known of a host.
func (s *servers) state(addr uint32) conntrack.ServerState {
	if i := s.index.find(addr); i != none {
		return s.stateAt(i)
	}
	return conntrack.ServerUnknown
}

// touch gives the slot of a host, a new one if need be, and notes that the host
// was met just now.
func (s *servers) touch(addr uint32) int32 {
	i := s.index.find(addr)
	if i != none {
		l := &s.lists[s.stateAt(i)]
		if l.tail != i {
			l.remove(s.places, i)
			l.push(s.places, i)
		}
		return i
	}
	if s.index.full() {
		s.evict()
	}
	i = s.index.add(addr)
	v := &s.slots[i]
	v.heard.Store(0)
	v.at, v.kept, v.translates = 0, 0, false
	s.enter(i, addr, conntrack.ServerUnknown)
	return i
}

func (s *servers) enter(i int32, addr uint32, st conntrack.ServerState) {
	s.slots[i].word.Store(uint64(addr)<<8 | serverKnown | uint64(st))
	s.lists[st].push(s.places, i)
	s.count.servers[st].Add(1)
}

func (s *servers) leave(i int32) {
	st := s.stateAt(i)
	s.lists[st].remove(s.places, i)
	s.count.servers[st].Add(^uint64(0))
}

func (s *servers) evict() {
	for _, st := range [...]conntrack.ServerState{conntrack.ServerUnknown, conntrack.ServerDown, conntrack.ServerHandoff} {
		i := s.lists[st].head
		if i == none {
			continue
		}
		if st != conntrack.ServerUnknown {
			s.shared.Forget(s.index.keys[i])
			s.count.serversGone.Add(1)
			s.dirty = true
		}
		s.leave(i)
		s.slots[i].word.Store(0)
		s.index.remove(i)
		return
	}
}

// set changes the state of a slot to handoff or down. False when the table that
// packet workers read has no room: then the host stays unknown.
func (s *servers) set(i int32, st conntrack.ServerState) bool {
	addr := s.index.keys[i]
	if !s.shared.Set(addr, st) {
		s.count.serversFull.Add(1)
		return false
	}
	s.leave(i)
	s.enter(i, addr, st)
	s.slots[i].translates = false // as the shared table has it now
	s.dirty = true
	return true
}

// answered notes what kind of answer a capable server gives to queries: packets
// that it has translated (draft §11), or entries.
func (s *servers) answered(addr uint32, translated bool) {
	i := s.index.find(addr)
	if i == none || s.slots[i].translates == translated || s.stateAt(i) != conntrack.ServerHandoff {
		return
	}
	s.slots[i].translates = translated
	s.shared.SetTranslates(addr, translated)
}

// remember notes the first and the last client of what is sent to a server: a
// receiver may pick any one authenticator of a payload (draft §4).
func (s *servers) remember(addr uint32, first, last conntrack.Addr6) {
	i := s.index.find(addr)
	if i == none {
		return
	}
	v := &s.slots[i]
	v.note(first)
	v.note(last)
}

func (v *server) note(client conntrack.Addr6) {
	for i := range v.recent[:v.kept] {
		if v.recent[i] == client {
			return
		}
	}
	v.recent[v.at] = client
	v.at = (v.at + 1) % recentClients
	v.kept = min(v.kept+1, recentClients)
}

// remembered is the clients that a server was told of last.
func (s *servers) remembered(addr uint32) []conntrack.Addr6 {
	i := s.index.find(addr)
	if i == none {
		return nil
	}
	v := &s.slots[i]
	return v.recent[:v.kept]
}
