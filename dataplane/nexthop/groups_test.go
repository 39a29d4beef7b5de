package nexthop

import (
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// shares counts which gateways 10,000 destinations of a prefix go to.
func shares(s *Snapshot) map[string]int {
	n := make(map[string]int)
	for i := range uint64(10_000) {
		n[s.Hops[s.Lookup6(0x20010db800070000, i<<16)].Via.String()]++
	}
	return n
}

func about(got, want int) bool { return math.Abs(float64(got-want)) < 300 }

func TestGroups(t *testing.T) {
	f := testFIB(t)
	a, b, c := hop(index6, "fe80::a"), hop(index6, "fe80::b"), hop(index6, "fe80::c")
	c.weight = 2
	f.add(to("2001:db8:7::/48", 1024, a, b, c))
	s := f.publish()
	if n := shares(s); !about(n["fe80::a"], 2500) || !about(n["fe80::b"], 2500) || !about(n["fe80::c"], 5000) {
		t.Errorf("weights 1:1:2 spread as %v", n)
	}
	gen := s.Gen
	i, _ := find(s, "2001:db8:7::1")
	if j, _ := find(s, "2001:db8:7::1"); i != j || s.Word(i) == 0 {
		t.Errorf("a destination is not kept at its hop: %d then %d, word %#x", i, j, s.Word(i))
	}

	for _, x := range []struct {
		addr  string
		state uint16
		want  [3]int // a, b, c
	}{
		{"fe80::a", unix.NUD_REACHABLE, [3]int{2500, 2500, 5000}},
		{"fe80::b", unix.NUD_FAILED, [3]int{3333, 0, 6667}},
		{"fe80::c", unix.NUD_FAILED, [3]int{10000, 0, 0}},
		{"fe80::a", unix.NUD_FAILED, [3]int{2500, 2500, 5000}}, // hope is all that is left
		{"fe80::b", unix.NUD_REACHABLE, [3]int{0, 10000, 0}},
	} {
		f.setNeigh(t0, neighbour(index6, x.addr, x.state, 1))
		s = f.publish()
		if n := shares(s); !about(n["fe80::a"], x.want[0]) || !about(n["fe80::b"], x.want[1]) || !about(n["fe80::c"], x.want[2]) {
			t.Errorf("after %s became %#x: %v, want %v", x.addr, x.state, n, x.want)
		}
		if x.state == unix.NUD_FAILED && s.Gen == gen {
			t.Errorf("after %s failed: generation still %d", x.addr, gen)
		}
		gen = s.Gen
	}
	f.apply(to("2001:db8:7::/48", 1024, b), true, 0)
	if n := shares(f.publish()); n["fe80::b"] != 0 {
		t.Errorf("a next hop that was taken out is used: %v", n)
	}
	f.apply(to("2001:db8:7::/48", 1024, a, c), true, 0)
	if n := shares(f.publish()); n["invalid IP"] != 10_000 {
		t.Errorf("no route is left, and yet: %v", n)
	}
}

// TestGroupsOfRoutes: routers from advertisements share the load, and better
// preference goes first (RFC 4191); members on other links are left out; dead
// next hops too.
func TestGroupsOfRoutes(t *testing.T) {
	ra := func(via string, pref uint8) routeMsg {
		m := to("2001:db8:7::/48", 1024, hop(index6, via))
		m.protocol, m.pref = unix.RTPROT_RA, pref
		return m
	}
	dead := hop(index6, "fe80::d")
	dead.dead = true
	for name, c := range map[string]struct {
		routes []routeMsg
		want   map[string]int
	}{
		"two routers":      {[]routeMsg{ra("fe80::a", 1), ra("fe80::b", 1)}, map[string]int{"fe80::a": 5000, "fe80::b": 5000}},
		"one preferred":    {[]routeMsg{ra("fe80::a", 1), ra("fe80::b", 2)}, map[string]int{"fe80::b": 10000}},
		"another link":     {[]routeMsg{to("2001:db8:7::/48", 1024, hop(index6, "fe80::a"), hop(indexOther, "fe80::b"))}, map[string]int{"fe80::a": 10000}},
		"only another":     {[]routeMsg{to("2001:db8:7::/48", 1024, hop(indexOther, "fe80::a"), hop(indexOther, "fe80::b"))}, map[string]int{"invalid IP": 10000}},
		"one dead":         {[]routeMsg{to("2001:db8:7::/48", 1024, dead, hop(index6, "fe80::b"))}, map[string]int{"fe80::b": 10000}},
		"dead, then worse": {[]routeMsg{to("2001:db8:7::/48", 1, dead), to("2001:db8:7::/48", 9, hop(index6, "fe80::b"))}, map[string]int{"fe80::b": 10000}},
	} {
		f := testFIB(t)
		f.add(c.routes...)
		n := shares(f.publish())
		for via, want := range c.want {
			if !about(n[via], want) {
				t.Errorf("%s: %v, want %v", name, n, c.want)
			}
		}
		if len(n) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, n, c.want)
		}
	}
}

// TestGroupIndicesReturn: groups and hops of routes that come and go do not
// pile up.
func TestGroupIndicesReturn(t *testing.T) {
	f := testFIB(t)
	for range 1000 {
		r := to("2001:db8:7::/48", 1024, hop(index6, "fe80::a"), hop(index6, "fe80::b"))
		f.add(r)
		f.publish()
		f.apply(r, true, 0)
		f.publish()
	}
	if len(f.groups.all) > 1 || len(f.slots) > 3 || len(f.sets) != 0 || len(f.dests) != 0 {
		t.Errorf("left behind: %d groups, %d hops, %d sets, %d destinations", len(f.groups.all), len(f.slots), len(f.sets), len(f.dests))
	}
}
