package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/xlat"
)

// probes are those that wait for their client's next hop, as packets do in
// park.go. Owned by the worker.
type probes struct {
	n     int
	slots [probesAtMost]waitingProbe
	seen  *nexthop.Snapshot
	retry conntrack.Tick
}

type waitingProbe struct {
	session conntrack.Session
	since   conntrack.Tick
}

// probesAtMost wait at one time; what is beyond them is not sent.
const probesAtMost = 128

// probeIdle sends a probe to the client of each connection that has just been
// moved from ESTABLISHED to TRANS (RFC 6146 §3.5.2.2): if its TCP still knows
// the connection, it answers, and that brings the session back. When there is
// no frame or no route, none is sent, and the session takes its course.
func (w *Worker) probeIdle() (probed int) {
	idle := w.shard.Probes()
	for i := range idle {
		w.probe(&idle[i], w.now)
	}
	p := &w.probes
	if p.n == 0 || (p.seen == w.snap && w.now-p.retry < parkRetryTicks) {
		return len(idle)
	}
	p.seen, p.retry = w.snap, w.now
	waiting := p.n
	p.n = 0
	for i := range waiting { // those that wait on are written no further than has been read
		q := p.slots[i]
		if w.now-q.since <= parkTicks {
			w.probe(&q.session, q.since)
		}
	}
	return len(idle)
}

// probe sends a probe, or lets it wait for the client's next hop.
func (w *Worker) probe(s *conntrack.Session, since conntrack.Tick) {
	to := s.Key.Client
	hop := w.snap.Hops[w.snap.Lookup6(to.Hi, to.Lo)]
	switch {
	case hop.State == nexthop.Resolved, w.toHost(hop):
		w.sendProbe(s, hop)
	case hop.State == nexthop.Unresolved, hop.State == nexthop.Connected:
		if p := &w.probes; !hop.Failed && p.n < probesAtMost {
			w.hops.Ask(nexthop.IPv6, to.Hi, to.Lo)
			p.slots[p.n] = waitingProbe{*s, since}
			p.n++
		}
	}
}

// sendProbe makes the probe in a free frame, as if the server had sent it.
func (w *Worker) sendProbe(s *conntrack.Session, hop *nexthop.Hop) {
	addr, ok := w.frames.Pop()
	if !ok {
		return
	}
	frame := w.umem.Frame(addr)
	hi, lo := w.rules.Pool6[s.Key.Pool6].Embed(s.Key.Server)
	n := xlat.BuildProbe6(frame[answerL3:], hi, lo, s.Key.Client.Hi, s.Key.Client.Lo, s.Key.ServerPort, s.Key.ClientPort)
	hop.MarkUsed()
	writeEthernet(frame[answerL3-ethernetHeader:], hop, V4ToV6)
	w.counters.Generated++
	w.queue(hop, answerDesc(addr, n), V4ToV6)
}
