package nexthop

import (
	"net/netip"
	"testing"
)

func TestStatic(t *testing.T) {
	link6 := Link{Index: 1, Name: "six", MAC: mac6, MTU: 1500, Up: true}
	link4 := Link{Index: 2, Name: "four", MAC: mac4, MTU: 1400, Up: true}
	table := NewStatic(link6, link4,
		Hop{State: Resolved, Eth: [12]byte{2, 0, 0, 0, 0, 1}},
		Hop{State: Unresolved, MTU: 1280},
		StaticRoute{netip.MustParsePrefix("192.0.2.0/24"), Hop{State: Blackhole}},
		StaticRoute{netip.MustParsePrefix("2001:db8::1/128"), Hop{State: Local}},
	)
	s := table.Load()
	if s.IPv6 != link6 || s.IPv4 != link4 {
		t.Errorf("links %+v, %+v", s.IPv6, s.IPv4)
	}
	for dst, want := range map[string]Hop{
		"2001:db8::2": {State: Resolved, Eth: [12]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 6}, MTU: 1500},
		"2001:db8::1": {State: Local, Eth: [12]byte{6: 2, 11: 6}, MTU: 1500},
		"8.8.8.8":     {State: Unresolved, Side: IPv4, Eth: [12]byte{6: 2, 11: 4}, MTU: 1280},
		"192.0.2.1":   {State: Blackhole, Side: IPv4, Eth: [12]byte{6: 2, 11: 4}, MTU: 1400},
	} {
		i, h := find(s, dst)
		h.MarkUsed()
		if *h != want || i == 0 {
			t.Errorf("%s: index %d, %+v, want %+v", dst, i, *h, want)
		}
		if back, ok := s.Cached(s.Word(i)); !ok || back != i {
			t.Errorf("%s: index %d cached, %d (%v) read", dst, i, back, ok)
		}
	}
	if _, ok := s.Cached(0); ok {
		t.Error("the empty word names a hop")
	}
	if _, ok := s.Cached(s.Gen<<16 | uint32(len(s.Hops))); ok {
		t.Error("an index beyond the table is good")
	}

	for range 2 {
		if !table.Ask(IPv4, 0, 0x08080808) {
			t.Error("no room for a question")
		}
	}
	if q := table.Asked(); len(q) != 1 || q[0] != (Question{IPv4, 0, 0x08080808}) {
		t.Errorf("asked: %v", q)
	}
	i, _ := find(s, "8.8.8.8")
	table.Publish(s.WithHop(i, Hop{State: Resolved, Side: IPv4}))
	if _, h := find(table.Load(), "8.8.8.8"); h.State != Resolved || s.Hops[i].State != Unresolved {
		t.Errorf("after it is resolved: %v, the old snapshot says %v", h.State, s.Hops[i].State)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
}
