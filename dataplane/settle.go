package dataplane

import "handoff64/ring"

// A first fragment takes the steps as any packet. What becomes of it is noted
// here for the rest of its datagram.
//
// The worker that has the datagram need not be the one that may open its
// session. Then the first fragment goes there, opens the session, and comes
// back untranslated, so that all fragments leave through one worker, in order:
//
//	owner of the datagram ── first ──► owner of the client ── opens the session
//	        ▲◄──────────── first, or only what became of it ────────┘
//
// Every step is a ring that may be full, which loses the packet under
// worker_ring_full; a datagram that hears nothing more ends with its time.

// outcome is what became of a first fragment.
type outcome uint8

const (
	outcomeSent      outcome = iota // translated, or waiting for its next hop
	outcomeGiven                    // with another worker
	outcomeTunnelled                // with a handoff server, which decides
	outcomeAsked                    // the same, and it comes back
	outcomePassed                   // with the kernel
	outcomeDropped
)

// fragmentNote is what the rings between workers carry of a fragment beside
// its packet.
type fragmentNote struct {
	role    role
	home    uint8 // roleForeign: the worker that has the datagram
	outcome outcome
	reason  DropReason
	ref     datagramRef
	whole   uint16
	peer    uint32
}

// noteOf is the note that goes with a packet to another worker.
func (w *Worker) noteOf(m *meta) (n fragmentNote) {
	switch m.role {
	case roleFirst:
		return fragmentNote{role: roleForeign, home: uint8(w.id), ref: m.ref, whole: m.p.Whole}
	case roleForeign:
		return fragmentNote{role: roleForeign, home: m.home, ref: m.ref, whole: m.what.whole}
	}
	return fragmentNote{}
}

// noted restores what a note says.
func (m *meta) noted(n *fragmentNote) {
	m.role, m.home, m.ref, m.what = n.role, n.home, n.ref, decision{whole: n.whole}
}

// sendHome returns first fragments of others' datagrams whose sessions have
// been looked for here, or says what became of them.
func (w *Worker) sendHome(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		if m.role != roleForeign {
			continue
		}
		if m.verdict == undecided {
			note := fragmentNote{role: roleFirst, ref: m.ref, whole: m.what.whole}
			w.push(int(m.home), m, note)
			continue
		}
		if m.outcome == outcomeGiven {
			continue
		}
		note := fragmentNote{role: roleVerdict, outcome: m.outcome, reason: m.reason, ref: m.ref, peer: m.what.peer}
		if w.group.rings[w.id][m.home].Push(handover{note: note}) {
			w.gave |= 1 << m.home
		}
	}
}

// settle tells the datagrams of this burst's first fragments what became of
// them, and keeps to the limit of held ones.
func (w *Worker) settle(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		if m.role == roleFirst {
			w.decided(m.ref, m.outcome, m.reason, m.what.peer)
		}
	}
	t := w.datagrams
	for t.waiting > t.limit {
		w.evict(&t.all[t.lists[listHolding].first])
	}
}

// decided notes what became of a datagram's first fragment.
func (w *Worker) decided(ref datagramRef, o outcome, reason DropReason, peer uint32) {
	t := w.datagrams
	d := t.deref(ref)
	if d == nil || d.state != deciding {
		return
	}
	switch o {
	case outcomeGiven:
		return
	case outcomeAsked:
		t.become(d, asking, w.now)
		d.peer = peer
		return
	case outcomeDropped:
		w.refuse(d, reason)
		return
	case outcomeTunnelled:
		d.peer = peer
		t.become(d, tunnelling, w.now)
	case outcomePassed:
		t.become(d, passing, w.now)
	default:
		t.become(d, translating, w.now)
	}
	t.release(d)
	if d.complete() {
		t.close(d)
	}
}

// push hands a packet and its note to another worker.
func (w *Worker) push(to int, m *meta, note fragmentNote) {
	if !w.group.rings[w.id][to].Push(handover{ring.Desc{Addr: m.addr, Len: m.len}, m.via, note}) {
		w.drop(m, DropHandoverFull)
		return
	}
	m.verdict = gone
	m.outcome, m.left = outcomeGiven, LeftGiven
	w.given++
	w.gave |= 1 << to
}
