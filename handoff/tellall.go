package handoff

import (
	"handoff64/conntrack"
)

// foundQueue is how many entries a walk may be ahead of the worker.
const foundQueue = 4096

// tellAll has a server told of all live entries of ours that are used with it,
// and, when it was down, also of those that it once gave and that are still
// cached (draft §8). A walk over the session table takes longer than the worker
// may pause, so another goroutine does it: one walk for all servers that were
// waiting for one.
func (w *Worker) tellAll(server uint32, alsoCached bool) {
	w.wanted[server] = w.wanted[server] || alsoCached
}

// startWalk begins a walk if one is needed and none is under way.
func (w *Worker) startWalk() {
	if len(w.wanted) == 0 || w.walking.Load() {
		return
	}
	wanted := w.wanted
	w.wanted = make(map[uint32]bool)
	w.walking.Store(true)
	w.background.Go(func() {
		w.walk(func(s conntrack.SessionInfo) bool { return w.consider(wanted, &s) })
		w.walking.Store(false)
		w.Wake() // another walk may be wanted by now
	})
}

// consider passes a session's entry to the worker if one of the servers is to be
// told of it. It waits for the worker, and returns false when that has ended.
// Several sessions of one entry pass it several times; the worker notices.
func (w *Worker) consider(wanted map[uint32]bool, s *conntrack.SessionInfo) bool {
	alsoCached, ok := wanted[s.Key.Server]
	if !ok || s.Key.Proto == conntrack.ICMP || s.Origin == conntrack.OriginHandoff && !alsoCached {
		return true
	}
	n := conntrack.ToServer{
		Kind: conntrack.Notify, Pool6: s.Key.Pool6, MappedPort: s.MappedPort, ClientPort: s.Key.ClientPort,
		Server: s.Key.Server, Own: s.Mapped, Client: s.Key.Client,
	}
	select {
	case w.found <- n:
		w.Wake()
		return true
	case <-w.ended:
		return false
	}
}

// takeFound tells servers of what a walk has found. While too many entries wait
// for their echo the walk waits, too: else it would push them out.
func (w *Worker) takeFound() (worked bool) {
	for range burst {
		if w.retries.crowded() {
			return worked
		}
		select {
		case n := <-w.found:
			w.notify(&n)
			worked = true
		default:
			return worked
		}
	}
	return worked
}
