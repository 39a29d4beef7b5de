package nexthop

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Interfaces of the tests: 6 is the IPv6 side, 4 the IPv4 side, 9 another.
const (
	index6     = 6
	index4     = 4
	indexOther = 9
)

var (
	mac6 = [6]byte{2, 0, 0, 0, 0, 6}
	mac4 = [6]byte{2, 0, 0, 0, 0, 4}
	t0   = time.Unix(1_000_000, 0)
)

// testFIB is a fib with both links up and nothing else.
func testFIB(t testing.TB) *fib {
	t.Helper()
	f := newFIB(index6, index4, 0)
	up := uint32(unix.IFF_UP | unix.IFF_LOWER_UP)
	f.setLink(linkMsg{ifindex: index6, name: "six", mac: mac6, mtu: 1500, flags: up})
	f.setLink(linkMsg{ifindex: index4, name: "four", mac: mac4, mtu: 1400, flags: up})
	f.publish()
	return f
}

func hop(ifindex int32, via string) nextHop {
	h := nextHop{ifindex: ifindex, weight: 1}
	if via != "" {
		h.via = netip.MustParseAddr(via)
	}
	return h
}

// to makes a unicast route of table main.
func to(prefix string, metric uint32, hops ...nextHop) routeMsg {
	return routeMsg{
		prefix: netip.MustParsePrefix(prefix), table: unix.RT_TABLE_MAIN, metric: metric,
		kind: unix.RTN_UNICAST, pref: 1, hops: hops,
	}
}

func (m routeMsg) as(kind uint8) routeMsg { m.kind = kind; return m }

func (m routeMsg) withMTU(mtu uint32) routeMsg { m.mtu = mtu; return m }

func (m routeMsg) local() routeMsg {
	m.table, m.kind = unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
	return m
}

func (f *fib) add(routes ...routeMsg) {
	for _, r := range routes {
		f.apply(r, false, unix.NLM_F_CREATE)
	}
}

func neighbour(ifindex int32, addr string, state uint16, mac byte) neighMsg {
	m := neighMsg{key: neighKey{ifindex, netip.MustParseAddr(addr)}, state: state}
	if state&nudValid != 0 {
		m.mac, m.isMAC = [6]byte{2, 0xaa, 0, 0, 0, mac}, true
	}
	return m
}

// find looks an address up in a snapshot.
func find(s *Snapshot, addr string) (uint32, *Hop) {
	a := netip.MustParseAddr(addr)
	var i uint32
	if a.Is4() {
		i = s.Lookup4(as4(a))
	} else {
		i = s.Lookup6(as6(a))
	}
	return i, s.Hops[i]
}

func TestLookup(t *testing.T) {
	f := testFIB(t)
	f.add(
		to("0.0.0.0/0", 100, hop(index4, "192.0.2.1")),
		to("0.0.0.0/0", 200, hop(index4, "192.0.2.2")),
		to("192.0.2.0/24", 0, hop(index4, "")),
		to("198.51.100.0/24", 0, hop(index4, "192.0.2.2")).withMTU(1300),
		to("198.51.100.128/25", 0, hop(indexOther, "10.9.9.9")),
		to("203.0.113.0/26", 0).as(unix.RTN_BLACKHOLE),
		to("203.0.113.64/26", 0).as(unix.RTN_UNREACHABLE),
		to("203.0.113.128/26", 0).as(unix.RTN_PROHIBIT),
		to("203.0.113.192/26", 0).as(unix.RTN_THROW),
		to("192.0.2.9/32", 0).local(),
		to("192.0.2.255/32", 0).as(unix.RTN_BROADCAST),
		to("192.0.2.77/32", 0, hop(index4, "192.0.2.2")),
		to("2001:db8::/64", 256, hop(index6, "")),
		to("2001:db8:1::/48", 1024, hop(index6, "fe80::1")),
		to("2001:db8:2::/48", 1024, hop(index4, "fe80::1")),
		to("2001:db8::9/128", 0).local(),
		to("100.64.0.0/10", 0, hop(index4, "fe80::4")), // RFC 8950
	)
	for _, n := range []neighMsg{
		neighbour(index4, "192.0.2.1", unix.NUD_STALE, 1),
		neighbour(index4, "192.0.2.10", unix.NUD_REACHABLE, 10),
		neighbour(index4, "192.0.2.77", unix.NUD_REACHABLE, 77), // behind a /32 route: must not be used
		neighbour(index4, "192.0.2.9", unix.NUD_PERMANENT, 99),  // our own address, of all things
		neighbour(index4, "fe80::4", unix.NUD_NOARP, 4),
		neighbour(index6, "2001:db8::5", unix.NUD_PROBE, 5),
		neighbour(index6, "fe80::1", unix.NUD_DELAY, 61),
		neighbour(indexOther, "192.0.2.11", unix.NUD_REACHABLE, 11), // on another link
	} {
		f.setNeigh(t0, n)
	}
	s := f.publish()
	for _, c := range []struct {
		dst   string
		state State
		via   string
		mac   byte
		mtu   uint32
	}{
		{"8.8.8.8", Resolved, "192.0.2.1", 1, 1400},
		{"192.0.2.10", Resolved, "192.0.2.10", 10, 1400},
		{"192.0.2.11", Connected, "", 0, 1400},
		{"192.0.2.77", Unresolved, "192.0.2.2", 0, 1400},
		{"192.0.2.9", Local, "", 0, 1400},
		{"192.0.2.255", Blackhole, "", 0, 1400},
		{"198.51.100.1", Unresolved, "192.0.2.2", 0, 1300},
		{"198.51.100.200", Elsewhere, "", 0, 1400},
		{"203.0.113.1", Blackhole, "", 0, 1400},
		{"203.0.113.65", Unreachable, "", 0, 1400},
		{"203.0.113.129", Prohibit, "", 0, 1400},
		{"203.0.113.193", NoRoute, "", 0, 1400},
		{"100.64.1.1", Resolved, "fe80::4", 4, 1400},
		{"2001:db8::5", Resolved, "2001:db8::5", 5, 1500},
		{"2001:db8::6", Connected, "", 0, 1500},
		{"2001:db8::9", Local, "", 0, 1500},
		{"2001:db8:1::1", Resolved, "fe80::1", 61, 1500},
		{"2001:db8:2::1", Elsewhere, "", 0, 1500},
		{"2001:db8:3::1", NoRoute, "", 0, 1500},
	} {
		i, h := find(s, c.dst)
		var via netip.Addr
		if c.via != "" {
			via = netip.MustParseAddr(c.via)
		}
		if h.State != c.state || h.Via != via || h.MTU != c.mtu && i != 0 {
			t.Errorf("%s: hop %+v, want %v via %q, MTU %d", c.dst, *h, c.state, c.via, c.mtu)
		}
		var eth [12]byte
		if c.state == Resolved {
			own := mac4
			if netip.MustParseAddr(c.dst).Is6() {
				own = mac6
			}
			eth = [12]byte{2, 0xaa, 0, 0, 0, c.mac, 2, 0, 0, 0, 0, own[5]}
		}
		if h.Eth != eth {
			t.Errorf("%s: Ethernet header %x, want %x", c.dst, h.Eth, eth)
		}
		if c.state == NoRoute && i != 0 && c.dst != "203.0.113.193" {
			t.Errorf("%s: index %d, want 0", c.dst, i)
		}
	}
}

// TestStableIndex: what happens to neighbours leaves generation and index
// alone; what happens to routes does not.
func TestStableIndex(t *testing.T) {
	f := testFIB(t)
	f.add(to("0.0.0.0/0", 0, hop(index4, "192.0.2.1")), to("192.0.2.0/24", 0, hop(index4, "")))
	s := f.publish()
	gateway, h := find(s, "8.8.8.8")
	if h.State != Unresolved || h.Failed {
		t.Fatalf("gateway before it is known: %+v", *h)
	}
	if want := (probe{key: neighKey{index4, netip.MustParseAddr("192.0.2.1")}}); len(f.probes) != 1 || f.probes[0] != want {
		t.Errorf("probes %v: want the gateway, unasked", f.probes)
	}
	if i, h := find(s, "192.0.2.50"); h.State != Connected || s.Word(i) != 0 {
		t.Errorf("on-link destination: %v, cached as %#x; want connected and not to be cached", h.State, s.Word(i))
	}
	f.setNeigh(t0, neighbour(index4, "192.0.2.50", unix.NUD_REACHABLE, 50))
	host, _ := find(f.publish(), "192.0.2.50")
	cachedHost, cachedGW := f.last.Word(host), f.last.Word(gateway)
	gen := f.last.Gen

	type step struct {
		msg   neighMsg
		gone  bool
		state State
		mac   byte
		fails bool
	}
	for _, x := range []step{
		{neighbour(index4, "192.0.2.1", unix.NUD_REACHABLE, 1), false, Resolved, 1, false},
		{neighbour(index4, "192.0.2.1", unix.NUD_REACHABLE, 2), false, Resolved, 2, false},
		{neighbour(index4, "192.0.2.1", unix.NUD_FAILED, 0), false, Unresolved, 0, true},
		{neighbour(index4, "192.0.2.1", unix.NUD_STALE, 3), false, Resolved, 3, false},
		{neighbour(index4, "192.0.2.1", 0, 0), true, Unresolved, 0, false},
	} {
		if x.gone {
			f.probes = nil
			f.delNeigh(x.msg.key)
			if len(f.probes) != 1 {
				t.Errorf("the gateway is gone, and probes are %v", f.probes)
			}
		} else {
			f.setNeigh(t0, x.msg)
		}
		s = f.publish()
		i, h := find(s, "8.8.8.8")
		if i != gateway || s.Gen != gen {
			t.Errorf("%+v: index %d generation %d, want %d and %d", x, i, s.Gen, gateway, gen)
		}
		if h.State != x.state || h.Eth[5] != x.mac || h.Failed != x.fails {
			t.Errorf("%+v: hop %+v", x, *h)
		}
	}
	f.delNeigh(neighKey{index4, netip.MustParseAddr("192.0.2.50")})
	s = f.publish()
	if i, ok := s.Cached(cachedHost); !ok || i != host || s.Hops[i].State != Unresolved {
		t.Errorf("cached host after its neighbour went: index %d, %v, %v; want %d, unresolved", i, ok, s.Hops[i].State, host)
	}
	f.add(to("198.51.100.0/24", 0, hop(index4, "192.0.2.1")))
	s = f.publish()
	if _, ok := s.Cached(cachedGW); ok || s.Gen == gen {
		t.Errorf("a new route left generation %d as it was", s.Gen)
	}
}

func TestLinkChanges(t *testing.T) {
	f := testFIB(t)
	f.add(to("::/0", 1024, hop(index6, "fe80::1")))
	f.setNeigh(t0, neighbour(index6, "fe80::1", unix.NUD_REACHABLE, 1))
	before := f.publish()
	if f.lost != [2]bool{} {
		t.Fatalf("routes taken for lost without a reason: %v", f.lost)
	}
	m := f.links[IPv6]
	m.mtu, m.mac, m.flags = 9000, [6]byte{2, 1, 1, 1, 1, 1}, unix.IFF_UP
	f.setLink(m)
	s := f.publish()
	_, h := find(s, "2001:db8::1")
	if h.MTU != 9000 || [6]byte(h.Eth[6:]) != m.mac || s.IPv6.MTU != 9000 || s.IPv6.MAC != m.mac || s.IPv6.Up {
		t.Errorf("after the link changed: hop %+v, link %+v", *h, s.IPv6)
	}
	if s.Gen != before.Gen {
		t.Errorf("generation %d, want %d: no index changed its meaning", s.Gen, before.Gen)
	}
	if !f.lost[IPv6] || !f.lost[IPv4] {
		t.Errorf("a link lost its carrier, and the routes are not read anew: %v", f.lost)
	}
	if _, old := find(before, "2001:db8::1"); old.MTU != 1500 {
		t.Errorf("the old snapshot changed: %+v", *old)
	}
}

func TestAddresses(t *testing.T) {
	const global, link = unix.RT_SCOPE_UNIVERSE, unix.RT_SCOPE_LINK
	addr := func(ifindex int32, prefix string, scope uint8, flags uint32) addrMsg {
		p := netip.MustParsePrefix(prefix)
		return addrMsg{ifindex, p.Addr(), uint8(p.Bits()), scope, flags}
	}
	f := testFIB(t)
	for _, x := range []struct {
		add    addrMsg
		v6, v4 string
	}{
		{addr(indexOther, "192.0.2.1/24", global, 0), "::", "0.0.0.0"},
		{addr(index6, "fe80::2/64", link, unix.IFA_F_TENTATIVE), "::", "0.0.0.0"},
		{addr(index6, "fe80::2/64", link, 0), "fe80::2", "0.0.0.0"},
		{addr(index6, "2001:db8::2/64", global, unix.IFA_F_DEPRECATED), "2001:db8::2", "0.0.0.0"},
		{addr(index6, "fd00::2/64", global, 0), "fd00::2", "0.0.0.0"},
		{addr(index6, "2001:db8::3/64", global, unix.IFA_F_TEMPORARY), "2001:db8::3", "0.0.0.0"},
		{addr(index6, "2001:db8::4/64", global, 0), "2001:db8::4", "0.0.0.0"},
		{addr(index6, "2001:db8::5/64", global, unix.IFA_F_DADFAILED|unix.IFA_F_TENTATIVE), "2001:db8::4", "0.0.0.0"},
		{addr(index4, "198.51.100.7/32", global, 0), "2001:db8::4", "198.51.100.7"},
		{addr(index4, "192.0.2.2/24", global, unix.IFA_F_SECONDARY), "2001:db8::4", "192.0.2.2"},
		{addr(index4, "192.0.2.3/24", global, 0), "2001:db8::4", "192.0.2.3"},
		{addr(index4, "192.0.2.4/24", global, 0), "2001:db8::4", "192.0.2.3"},
	} {
		f.setAddr(x.add)
		s := f.publish()
		if got := addr6(s.IPv6.Addr6Hi, s.IPv6.Addr6Lo).String(); got != x.v6 {
			t.Errorf("with %v: IPv6 address %s, want %s", x.add, got, x.v6)
		}
		if got := addr4(s.IPv4.Addr4).String(); got != x.v4 {
			t.Errorf("with %v: IPv4 address %s, want %s", x.add, got, x.v4)
		}
	}
	f.delAddr(addr(index4, "192.0.2.3/24", global, 0))
	if got := addr4(f.publish().IPv4.Addr4).String(); got != "192.0.2.4" || !f.lost[IPv4] {
		t.Errorf("after a deletion: address %s, routes to be read anew: %v", got, f.lost[IPv4])
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	f := testFIB(t)
	f.add(to("0.0.0.0/0", 0, hop(index4, "192.0.2.1")), to("192.0.2.0/24", 0, hop(index4, "")),
		to("2001:db8::/32", 0, hop(index6, "fe80::1"), hop(index6, "fe80::2")))
	f.setNeigh(t0, neighbour(index4, "192.0.2.5", unix.NUD_REACHABLE, 5))
	s := f.publish()
	var sum uint32
	allocs := testing.AllocsPerRun(1000, func() {
		i := s.Lookup4(0xc0000205)
		s.Hops[i].MarkUsed()
		sum += i + s.Lookup4(0x08080808) + s.Lookup6(0x20010db800000000, 1)
	})
	if allocs != 0 || sum == 0 {
		t.Errorf("%v allocations per lookup, want none (sum %d)", allocs, sum)
	}
}
