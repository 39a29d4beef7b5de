package dataplane

import "handoff64/dataplane/nexthop"

// route64 finds where the packet leaves to. The session's slot remembers the
// hop, so that an established flow asks the routing table only after a change.
func (w *Worker) route64(m *meta) bool {
	i, ok := w.snap.Cached(m.v64.Hop)
	if !ok {
		i = w.snap.Lookup4(m.server)
		m.v64.SetHop(w.snap.Word(i))
	}
	m.hop = w.snap.Hops[i]
	return m.hop.State == nexthop.Resolved || w.unroutable(m, IPv4)
}

// route46 is route64 towards the client.
func (w *Worker) route46(m *meta) bool {
	i, ok := w.snap.Cached(m.v46.Hop)
	if !ok {
		i = w.snap.Lookup6(m.v46.Client.Hi, m.v46.Client.Lo)
		m.v46.SetHop(w.snap.Word(i))
	}
	m.hop = w.snap.Hops[i]
	return m.hop.State == nexthop.Resolved || w.toHost(m.hop) || w.unroutable(m, IPv6)
}

// unroutable parks a packet whose next hop the kernel can still find out, and
// answers and drops the others. It returns false: the packet is dealt with.
func (w *Worker) unroutable(m *meta, side Family) bool {
	switch m.hop.State {
	case nexthop.Unresolved, nexthop.Connected:
		if m.hop.Failed {
			w.unreachable(m, true)
			w.drop(m, DropNeighbourFailed)
			return false
		}
		if side == IPv4 {
			w.hops.Ask(nexthop.IPv4, 0, uint64(m.server))
		} else {
			w.hops.Ask(nexthop.IPv6, m.v46.Client.Hi, m.v46.Client.Lo)
		}
		w.hold(m)
	case nexthop.Elsewhere:
		w.unreachable(m, false)
		w.drop(m, DropRouteElsewhere)
	case nexthop.Local:
		w.prohibited(m)
		w.drop(m, DropRouteLocal)
	case nexthop.NoRoute:
		w.unreachable(m, false)
		w.drop(m, DropNoRoute)
	case nexthop.Prohibit:
		w.prohibited(m)
		w.drop(m, DropRouteProhibited)
	case nexthop.Unreachable:
		w.unreachable(m, true)
		w.drop(m, DropRouteProhibited)
	default: // a blackhole is silent, and so are broadcasts
		w.drop(m, DropRouteProhibited)
	}
	return false
}

// prohibited is the error for whatever no other is named for (RFC 7915 §4.4,
// §5.4).
func (w *Worker) prohibited(m *meta) {
	if m.dir == V6ToV4 {
		w.answer6(m, 1, 1, 0)
	} else {
		w.answer4(m, 3, 13, 0)
	}
}

// unreachable answers: no route to the destination, or a host on the link that
// does not answer (RFC 4443 §3.1, RFC 792).
func (w *Worker) unreachable(m *meta, host bool) {
	switch {
	case m.dir == V6ToV4 && host:
		w.answer6(m, 1, 3, 0)
	case m.dir == V6ToV4:
		w.answer6(m, 1, 0, 0)
	case host:
		w.answer4(m, 3, 1, 0)
	default:
		w.answer4(m, 3, 0, 0)
	}
}
