package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

const (
	// parkSize is how many packets may wait for next hops at one time.
	parkSize = 512
	// parkTicks is how long the kernel has to resolve a neighbour: it asks three
	// times, a second apart (RFC 4861 §10, MAX_MULTICAST_SOLICIT and RETRANS_TIMER).
	parkTicks = 35
	// parkRetryTicks bounds how long a packet waits when the kernel's tables did
	// not change; a change retries at once.
	parkRetryTicks = 2
)

// park holds untranslated packets whose next hop the kernel is resolving. When
// the tables change they go through the steps again from the start.
type park struct {
	n     int
	slots [parkSize]parkedPacket
	again [parkSize]parkedPacket // what a retry works on while slots fills anew
	seen  *nexthop.Snapshot      // the tables at the last retry
	retry conntrack.Tick
}

type parkedPacket struct {
	desc  ring.Desc
	since conntrack.Tick
	via   via
	role  role
	what  decision
}

// hold parks the packet: the first one to a host must not be lost to address
// resolution.
func (w *Worker) hold(m *meta) {
	p := &w.parked
	switch {
	case m.waited && w.now-m.since > parkTicks:
		w.unreachable(m, true) // RFC 4861 §7.2.2
		w.drop(m, DropParkTimeout)
		return
	case p.n == parkSize:
		w.drop(m, DropParkFull)
		return
	case !m.waited:
		m.since = w.now
	}
	q := &p.slots[p.n]
	*q = parkedPacket{desc: ring.Desc{Addr: m.addr, Len: m.len}, since: m.since, via: m.via}
	if m.role != roleNone {
		// A fragment has been to its datagram: it must not be counted there again.
		q.role = roleFollower
		q.what = decision{state: translating, proto: m.p.Proto, srcPort: m.p.SrcPort, dstPort: m.p.DstPort, whole: m.p.Whole}
	}
	p.n++
	m.verdict, m.left = gone, LeftParked
}

// retryParked sends what waits through the steps once more.
func (w *Worker) retryParked() {
	p := &w.parked
	if p.n == 0 || (p.seen == w.snap && w.now-p.retry < parkRetryTicks) {
		return
	}
	p.seen, p.retry = w.snap, w.now
	waiting := copy(p.again[:], p.slots[:p.n])
	p.n = 0
	b := &w.main
	for first := 0; first < waiting; first += BurstSize {
		b.n = 0
		for _, q := range p.again[first:min(first+BurstSize, waiting)] {
			m := b.add(w.umem, q.desc, q.via)
			m.waited, m.since, m.role, m.what = true, q.since, q.role, q.what
		}
		w.process(b)
	}
}
