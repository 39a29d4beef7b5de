package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

// takeControl takes in what came from servers: entries go into the cache,
// packets through the same steps as any other.
func (w *Worker) takeControl() (taken int) {
	h := w.handoff
	if h == nil {
		return 0
	}
	n := h.Back.PopBatch(w.in.frames[:])
	for _, f := range w.in.frames[:n] {
		w.frames.Push(f)
	}
	for n := h.Lend.Len(); n < lendFrames && w.frames.Len() > max(lendReserve, n); n++ {
		f, _ := w.frames.Pop()
		if !h.Lend.Push(f) {
			w.frames.Push(f)
			break
		}
	}
	n = h.In.PopBatch(w.in.control[:])
	if n == 0 {
		return 0
	}
	b := &w.main
	b.n = 0
	for i := range n {
		c := &w.in.control[i]
		if c.Kind == conntrack.GotEntry {
			if b.n > 0 && w.table.CacheFull() {
				// The entries of these packets must not make room for it first.
				w.process(b)
				b.n = 0
			}
			w.cache(c)
			continue
		}
		via := viaServer
		if c.Kind == conntrack.GotTranslated {
			via = viaServerDone
		}
		b.add(w.umem, ring.Desc{Addr: c.Addr, Len: uint32(c.Len)}, via)
		w.counters.Generated++
	}
	w.process(b)
	return n
}

// cache takes up an entry. One that finds no room is lost: the next packet
// asks again.
func (w *Worker) cache(c *conntrack.FromServer) {
	if w.shard.InsertEntry(c.Client, c.ClientPort, c.Server, c.Pool6, c.Own, c.MappedPort, w.now) != conntrack.OK {
		w.counters.EntryLost++
	}
}

// passOn sends a packet that the server has translated as it is (handoff
// draft §6 (a) and (b)): it only needs a route.
func (w *Worker) passOn(m *meta) {
	m.start, m.end = int(m.p.L3), int(m.p.End)
	side, reason := IPv6, DropTooBig4
	var i uint32
	if m.dir == V6ToV4 { // parsed as IPv6, so it leaves on the IPv6 side
		m.dir = V4ToV6
		m.v46.Client = conntrack.Addr6{Hi: m.p.DstHi, Lo: m.p.DstLo}
		i = w.snap.Lookup6(m.p.DstHi, m.p.DstLo)
	} else {
		m.dir, side, reason = V6ToV4, IPv4, DropTooBig6
		m.server = m.p.Dst4
		i = w.snap.Lookup4(m.p.Dst4)
	}
	m.hop = w.snap.Hops[i]
	switch {
	case m.hop.State != nexthop.Resolved && (side == IPv4 || !w.toHost(m.hop)):
		w.unroutable(m, side)
	case uint32(m.end-m.start) > w.mtuOf(side, m.hop):
		w.drop(m, reason)
	default:
		m.verdict = forward
	}
}
