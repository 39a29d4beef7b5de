package nexthop

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// route is one route to a prefix; the prefix's routes are kept best first.
type route struct {
	main   bool // of table main: table local goes first, whatever the metric
	ra     bool // made from a router advertisement: never part of an ECMP route of the kernel's
	pref   uint8
	metric uint32
	set    *hopSet
}

// order compares the way the kernel chooses: negative if r is better.
func (r route) order(o route) int {
	switch {
	case r.main != o.main:
		if o.main {
			return -1
		}
		return 1
	case r.metric != o.metric:
		if r.metric < o.metric {
			return -1
		}
		return 1
	}
	return int(o.pref) - int(r.pref)
}

// level tells whether two routes have the same table and metric, which is
// what an update or a deletion names.
func (r route) level(o route) bool { return r.main == o.main && r.metric == o.metric }

// ecmp tells whether an IPv6 route is one that the kernel joins with others
// of its metric into one multipath route (rt6_qualify_for_ecmp).
func (r route) ecmp() bool {
	return !r.ra && r.set.kind == unix.RTN_UNICAST && len(r.set.hops) > 0 && r.set.hops[0].via.IsValid()
}

// setKey is what makes two routes go the same way. Comparable.
type setKey struct {
	kind   uint8
	v6     bool
	opaque bool
	mtu    uint32
	first  nextHop
	rest   string // the other next hops, written out
}

// hopSet is where routes lead, shared by all that lead there: a full routing
// table has a million routes and a handful of these. Owned by the manager's
// goroutine.
type hopSet struct {
	setKey
	hops []nextHop
	refs int // routes, and prefixes that this is the choice for

	placed bool     // the rest is valid
	value  uint32   // what the prefix table says
	slots  []uint32 // the hops it keeps alive
}

// usable tells whether packets can take this route at all.
func (s *hopSet) usable() bool {
	return s.kind != unix.RTN_UNICAST || s.opaque || slices.ContainsFunc(s.hops, func(h nextHop) bool { return !h.dead })
}

// destination is all that is known of one prefix.
type destination struct {
	routes []route
	chosen *hopSet // as it stands in the prefix table
	dirty  bool    // listed in rib.dirty
}

// rib holds the routes of the tables local and main, both families. Owned by
// the manager's goroutine.
type rib struct {
	dests map[netip.Prefix]*destination
	sets  map[setKey]*hopSet
	dirty []netip.Prefix // whose choice may have changed
	freed []*hopSet      // sets without users whose slots are to be given back
}

func newRIB() *rib {
	return &rib{dests: make(map[netip.Prefix]*destination), sets: make(map[setKey]*hopSet)}
}

// apply takes one RTM_NEWROUTE (flags are its NLM_F_*) or RTM_DELROUTE.
func (b *rib) apply(m routeMsg, deleted bool, flags uint16) {
	d := b.touch(m.prefix)
	r := route{
		main:   m.table == unix.RT_TABLE_MAIN,
		ra:     m.protocol == unix.RTPROT_RA,
		pref:   m.pref,
		metric: m.metric,
		set:    b.intern(m.prefix.Addr().Is6(), m.kind, m.opaque, m.mtu, m.hops),
	}
	switch {
	case deleted && r.set.v6:
		b.delete6(d, r)
	case deleted:
		b.delete4(d, r)
	case r.set.v6:
		b.add6(d, r, flags)
	default:
		b.add4(d, r, flags)
	}
	b.release(r.set)
}

// touch returns the prefix's record, made if need be, and notes it as dirty.
func (b *rib) touch(p netip.Prefix) *destination {
	d := b.dests[p]
	if d == nil {
		d = new(destination)
		b.dests[p] = d
	}
	if !d.dirty {
		d.dirty = true
		b.dirty = append(b.dirty, p)
	}
	return d
}

// forget drops all routes of a family, before a dump brings them back. What
// was chosen stays until the next choice, so that a dump that brings nothing
// new changes nothing.
func (b *rib) forget(v6 bool) {
	for p, d := range b.dests {
		if p.Addr().Is6() != v6 {
			continue
		}
		b.touch(p)
		b.removeIf(d, func(route) bool { return true })
	}
}

// add4 follows fib_table_insert: a new route goes before those of its metric
// unless it is appended, a replacement takes the place of the first.
func (b *rib) add4(d *destination, r route, flags uint16) {
	at := slices.IndexFunc(d.routes, func(o route) bool { return o.level(r) })
	switch {
	case flags&unix.NLM_F_REPLACE != 0 && at >= 0:
		b.removeAt(d, at)
		b.removeIf(d, func(o route) bool { return o.level(r) && o.set == r.set })
	case flags&unix.NLM_F_APPEND == 0 && at >= 0:
		if slices.ContainsFunc(d.routes, func(o route) bool { return o.level(r) && o.set == r.set }) {
			return // told twice: by a dump, then by the event before it
		}
	default:
		b.removeIf(d, func(o route) bool { return o.level(r) && o.set == r.set })
		at = after(d.routes, r)
	}
	b.insert(d, at, r)
}

// after returns where r goes, behind all that are better or equal.
func after(routes []route, r route) int {
	at := slices.IndexFunc(routes, func(o route) bool { return o.order(r) > 0 })
	if at < 0 {
		return len(routes)
	}
	return at
}

// add6 follows fib6_add_rt2node. The notification of a route with a gateway
// lists all the next hops that its metric now has; device routes and those
// from router advertisements stand for themselves.
func (b *rib) add6(d *destination, r route, flags uint16) {
	if r.ecmp() {
		b.removeIf(d, func(o route) bool { return o.level(r) && o.ecmp() })
	} else {
		b.removeIf(d, func(o route) bool {
			return o.level(r) && o.ra == r.ra && !o.ecmp() && sameHops(o.set, r.set)
		})
		if flags&unix.NLM_F_REPLACE != 0 {
			if at := slices.IndexFunc(d.routes, func(o route) bool { return o.level(r) && !o.ecmp() }); at >= 0 {
				b.removeAt(d, at)
			}
		}
	}
	b.insert(d, after(d.routes, r), r)
}

// delete4 takes the route that is just the one named, or else, as flags may
// have changed meanwhile, the one with these next hops.
func (b *rib) delete4(d *destination, r route) {
	at := slices.IndexFunc(d.routes, func(o route) bool { return o.level(r) && o.set == r.set })
	if at < 0 {
		at = slices.IndexFunc(d.routes, func(o route) bool { return o.level(r) && sameHops(o.set, r.set) })
	}
	if at >= 0 {
		b.removeAt(d, at)
	}
}

// delete6 also takes single next hops out of a multipath route: the kernel
// names just those that go.
func (b *rib) delete6(d *destination, r route) {
	at := slices.IndexFunc(d.routes, func(o route) bool {
		if !o.level(r) || o.ra != r.ra || o.set.kind != r.set.kind || o.ecmp() != r.ecmp() {
			return false
		}
		return r.ecmp() || sameHops(o.set, r.set)
	})
	if at < 0 {
		return
	}
	old := d.routes[at]
	left := slices.DeleteFunc(slices.Clone(old.set.hops), func(h nextHop) bool {
		return slices.ContainsFunc(r.set.hops, h.same)
	})
	if r.ecmp() && len(left) > 0 {
		d.routes[at].set = b.intern(true, old.set.kind, old.set.opaque, old.set.mtu, left)
		b.release(old.set)
		return
	}
	b.removeAt(d, at)
}

// sameHops compares without weights and flags; routes that lead nowhere have
// no next hops worth comparing.
func sameHops(a, b *hopSet) bool {
	if a.kind != unix.RTN_UNICAST || b.kind != unix.RTN_UNICAST {
		return a.kind == b.kind
	}
	return slices.EqualFunc(a.hops, b.hops, nextHop.same)
}

func (b *rib) insert(d *destination, at int, r route) {
	r.set.refs++
	d.routes = slices.Insert(d.routes, at, r)
}

func (b *rib) removeAt(d *destination, at int) {
	b.release(d.routes[at].set)
	d.routes = slices.Delete(d.routes, at, at+1)
}

func (b *rib) removeIf(d *destination, match func(route) bool) {
	d.routes = slices.DeleteFunc(d.routes, func(r route) bool {
		if match(r) {
			b.release(r.set)
			return true
		}
		return false
	})
}

// intern returns the one hopSet with this content; the caller releases it.
func (b *rib) intern(v6 bool, kind uint8, opaque bool, mtu uint32, hops []nextHop) *hopSet {
	key := setKey{kind: kind, v6: v6, opaque: opaque, mtu: mtu}
	if len(hops) > 0 {
		key.first = hops[0]
	}
	for i := 1; i < len(hops); i++ { // multipath is rare among a million routes
		h := hops[i]
		key.rest += fmt.Sprintf("%d %v %d %t;", h.ifindex, h.via, h.weight, h.dead)
	}
	s := b.sets[key]
	if s == nil {
		s = &hopSet{setKey: key, hops: hops}
		b.sets[key] = s
	}
	s.refs++
	return s
}

func (b *rib) release(s *hopSet) {
	if s.refs--; s.refs > 0 {
		return
	}
	delete(b.sets, s.setKey)
	if s.placed {
		b.freed = append(b.freed, s)
	}
}

// best returns where packets to the destination go by now; the caller
// releases it. It is nil when there is no usable route left. IPv6 routes of
// equal standing share the load, routers from advertisements included
// (RFC 4311 §2); of equal IPv4 routes the first is used.
func (b *rib) best(d *destination) *hopSet {
	at := slices.IndexFunc(d.routes, func(r route) bool { return r.set.usable() })
	if at < 0 {
		return nil
	}
	first := d.routes[at]
	first.set.refs++
	if !first.set.v6 || first.set.kind != unix.RTN_UNICAST || first.set.opaque {
		return first.set
	}
	all := first.set.hops
	for _, r := range d.routes[at+1:] {
		if r.order(first) == 0 && r.set.kind == unix.RTN_UNICAST && !r.set.opaque {
			all = append(all[:len(all):len(all)], r.set.hops...)
		}
	}
	if len(all) == len(first.set.hops) {
		return first.set
	}
	b.release(first.set)
	return b.intern(true, unix.RTN_UNICAST, false, first.set.mtu, all)
}
