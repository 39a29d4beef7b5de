package handoff

import (
	"net/netip"
	"time"

	"handoff64/conntrack"
)

// ServerInfo is a server as `nat64ctl servers` shows it.
type ServerInfo struct {
	Server    netip.Addr
	State     conntrack.ServerState
	Entries   int       // live entries used with it, whoever made them
	LastHeard time.Time // zero: never since the start
}

// entryKey is one entry of one server.
type entryKey struct {
	server, own uint32
	client      conntrack.Addr6
	clientPort  uint16
}

// ServersInfo calls yield with each server known until it says false. Any
// goroutine, while the worker works: a server that comes or goes meanwhile may
// be missed. It goes over the whole session table to count entries.
func (w *Worker) ServersInfo(yield func(ServerInfo) bool) {
	entries := w.countEntries()
	for i := range w.servers.slots {
		v := &w.servers.slots[i]
		word := v.word.Load()
		heard := v.heard.Load()
		if word&serverKnown == 0 || v.word.Load() != word {
			continue
		}
		addr := uint32(word >> 8)
		info := ServerInfo{Server: ipv4Address(addr), State: conntrack.ServerState(word & stateMask), Entries: entries[addr]}
		if heard != 0 {
			info.LastHeard = time.Unix(0, heard)
		}
		if !yield(info) {
			return
		}
	}
}

func (w *Worker) countEntries() map[uint32]int {
	seen := make(map[entryKey]struct{})
	count := make(map[uint32]int)
	w.walk(func(s conntrack.SessionInfo) bool {
		if s.Key.Proto == conntrack.ICMP {
			return true
		}
		k := entryKey{s.Key.Server, s.Mapped, s.Key.Client, s.Key.ClientPort}
		if _, ok := seen[k]; !ok {
			seen[k] = struct{}{}
			count[k.server]++
		}
		return true
	})
	return count
}
