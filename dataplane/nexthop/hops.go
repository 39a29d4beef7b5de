package nexthop

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// hopKey is what makes a hop: two routes through one gateway share it.
// Comparable.
type hopKey struct {
	state State // Unresolved for every hop through a neighbour
	side  Side
	addr  netip.Addr // the neighbour
	mtu   uint32     // the route's metric, 0 for none
}

// slot is one index of Snapshot.Hops. An index keeps its hop for as long as a
// route or a host entry leads to it; it is given to another hop only together
// with a new generation. Owned by the manager's goroutine.
type slot struct {
	key   hopKey
	neigh *neigh // nil when the hop is not a neighbour
	sets  int    // routes' hopSets that lead here
	host  bool   // the destination itself, in the hosts table
}

// hopTable numbers the hops. Owned by the manager's goroutine.
type hopTable struct {
	slots []slot
	byKey map[hopKey]uint32
	free  []uint32

	hops       []*Hop   // as published last, with those of stale to be made anew
	stale      []uint32 // indices whose Hop is out of date
	renumbered bool     // an index changed its meaning: a new generation is due
}

func newHopTable() hopTable {
	t := hopTable{byKey: make(map[hopKey]uint32)}
	t.index(hopKey{state: NoRoute})
	t.slots[0].sets = 1 // never given back: index 0 stays the NoRoute hop
	return t
}

// index returns the index of the hop with this key, made if need be.
func (t *hopTable) index(key hopKey) uint32 {
	if i, ok := t.byKey[key]; ok {
		return i
	}
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = uint32(len(t.slots))
		t.slots = append(t.slots, slot{})
		t.hops = append(t.hops, nil)
	}
	t.slots[i] = slot{key: key}
	t.byKey[key] = i
	t.stale = append(t.stale, i)
	return i
}

// drop gives an index back if nothing leads there any more.
func (t *hopTable) drop(i uint32) {
	s := &t.slots[i]
	if s.sets > 0 || s.host {
		return
	}
	if s.neigh != nil {
		s.neigh.slots = slices.DeleteFunc(s.neigh.slots, func(o uint32) bool { return o == i })
	}
	delete(t.byKey, s.key)
	*s = slot{}
	t.free = append(t.free, i)
	t.stale = append(t.stale, i)
	t.renumbered = true
}

// stateOf says what becomes of packets to a route that is not unicast.
// Directed broadcasts are not forwarded (RFC 2644); multicast is not ours.
func stateOf(kind uint8) State {
	switch kind {
	case unix.RTN_LOCAL, unix.RTN_ANYCAST:
		return Local
	case unix.RTN_BROADCAST, unix.RTN_MULTICAST, unix.RTN_BLACKHOLE:
		return Blackhole
	case unix.RTN_UNREACHABLE:
		return Unreachable
	case unix.RTN_PROHIBIT:
		return Prohibit
	}
	return NoRoute // throw among them: no table comes after main
}

// hopOf makes the Hop of an index from what is known now.
func (f *fib) hopOf(i uint32) *Hop {
	s := &f.slots[i]
	link := &f.links[s.key.side]
	h := &Hop{State: s.key.state, Side: s.key.side, MTU: link.mtu, Via: s.key.addr}
	if s.key.mtu != 0 {
		h.MTU = min(h.MTU, s.key.mtu)
	}
	n := s.neigh
	if n == nil {
		return h
	}
	h.used = &n.used
	if n.valid() {
		h.State = Resolved
		copy(h.Eth[:6], n.mac[:])
		copy(h.Eth[6:], link.mac[:])
		return h
	}
	h.Failed = n.failed
	return h
}

// via returns the index of the hop through a neighbour.
func (f *fib) via(side Side, addr netip.Addr, mtu uint32) uint32 {
	i := f.index(hopKey{state: Unresolved, side: side, addr: addr, mtu: mtu})
	if s := &f.slots[i]; s.neigh == nil {
		s.neigh = f.neighbour(neighKey{f.ifindex[side], addr})
		s.neigh.slots = append(s.neigh.slots, i)
	}
	return i
}

// place works out what the prefix table says for a hopSet, and keeps its
// hops.
func (f *fib) place(s *hopSet) uint32 {
	if s.placed {
		return s.value
	}
	s.placed = true
	side := IPv4
	if s.v6 {
		side = IPv6
	}
	values, weights := f.candidates(s, side)
	for _, v := range values {
		i := v & indexMask
		f.slots[i].sets++
		s.slots = append(s.slots, i)
	}
	s.value = values[0]
	if len(values) > 1 {
		s.value = groupFlag | f.groups.add(s, values, weights)
	}
	return s.value
}

// candidates lists the hops of a set that lead through our interface, or the
// one that says what else becomes of its packets.
func (f *fib) candidates(s *hopSet, side Side) (values []uint32, weights []uint16) {
	if s.kind != unix.RTN_UNICAST {
		return []uint32{f.index(hopKey{state: stateOf(s.kind), side: side})}, nil
	}
	for _, h := range s.hops {
		switch {
		case h.dead || s.opaque || h.ifindex != f.ifindex[side]:
			continue
		case h.via.IsValid():
			i := f.via(side, h.via, s.mtu)
			if n := f.slots[i].neigh; !n.valid() && !n.pending {
				f.probes = append(f.probes, probe{key: n.key}) // the first packet need not wait for it
			}
			values = append(values, i)
		default:
			values = append(values, onLinkFlag|f.index(hopKey{state: Connected, side: side, mtu: s.mtu}))
		}
		weights = append(weights, h.weight)
	}
	if len(values) == 0 {
		values = append(values, f.index(hopKey{state: Elsewhere, side: side}))
	}
	return values, weights
}

// displace gives back the hops of a hopSet without users.
func (f *fib) displace(s *hopSet) {
	if s.value&groupFlag != 0 {
		f.groups.remove(s.value & indexMask)
	}
	for _, i := range s.slots {
		f.slots[i].sets--
		f.drop(i)
	}
}
