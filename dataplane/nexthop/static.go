package nexthop

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// StaticRoute is a route of a table without a kernel. A plain value.
type StaticRoute struct {
	Prefix netip.Prefix
	Hop    Hop
}

// NewStatic returns a table that follows nothing, for tests and for replays
// of captures: all IPv6 destinations have the hop hop6, all IPv4 destinations
// hop4, but for those of the routes. What a hop leaves out is taken from the
// link of its family: the MTU and the source MAC address.
func NewStatic(link6, link4 Link, hop6, hop4 Hop, routes ...StaticRoute) *Table {
	s := &Snapshot{
		Gen:      1,
		Hops:     []*Hop{{}},
		IPv6:     link6,
		IPv4:     link4,
		prefixes: new(bart.Table[uint32]),
		hosts:    new(bart.Table[uint32]),
	}
	all := append([]StaticRoute{
		{netip.PrefixFrom(netip.IPv6Unspecified(), 0), hop6},
		{netip.PrefixFrom(netip.IPv4Unspecified(), 0), hop4},
	}, routes...)
	for _, r := range all {
		link, h := link6, r.Hop
		h.Side = familySide(r.Prefix.Addr())
		if h.Side == IPv4 {
			link = link4
		}
		if h.MTU == 0 {
			h.MTU = link.MTU
		}
		if [6]byte(h.Eth[6:]) == [6]byte{} {
			copy(h.Eth[6:], link.MAC[:])
		}
		s.prefixes.Insert(r.Prefix.Masked(), uint32(len(s.Hops)))
		s.Hops = append(s.Hops, &h)
	}
	t := newTable()
	t.stop = func() error { return nil }
	t.current.Store(s)
	return t
}

// WithHop returns a snapshot of the same generation in which one index has
// another hop: what the kernel's table does when a neighbour is resolved, is
// lost, or changes its address.
func (s *Snapshot) WithHop(index uint32, h Hop) *Snapshot {
	c := *s
	c.Hops = append([]*Hop(nil), s.Hops...)
	c.Hops[index] = &h
	return &c
}

// Publish makes s the current snapshot of a table that follows nothing.
func (t *Table) Publish(s *Snapshot) { t.current.Store(s) }

// Asked hands out the questions that workers put to a table that follows
// nothing.
func (t *Table) Asked() (questions []Question) {
	t.asks.take(func(q Question) { questions = append(questions, q) })
	return questions
}
