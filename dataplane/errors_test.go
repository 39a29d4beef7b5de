package dataplane

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/xlat"
)

const (
	router6 = "2001:db8:77::1"
	router4 = "203.0.113.254"
)

// errorFrom6 is an ICMPv6 error about a packet of the server's, from any
// address on the IPv6 side.
func errorFrom6(t testing.TB, src, dst string, typ, code uint8, rest uint32, quote []byte) []byte {
	ip := ip6(src, dst, layers.IPProtocolICMPv6)
	c := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, code)}
	c.SetNetworkLayerForChecksum(ip)
	word := []byte{byte(rest >> 24), byte(rest >> 16), byte(rest >> 8), byte(rest)}
	return build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(append(word, quote...)))
}

func errorFrom4(t testing.TB, src string, typ, code uint8, mtu uint16, quote []byte) []byte {
	c := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, code), Seq: mtu}
	return build(t, ether(layers.EthernetTypeIPv4), ip4(src, mappedA, layers.IPProtocolICMPv4), c, gopacket.Payload(quote))
}

func source(p gopacket.Packet) string { return p.NetworkLayer().NetworkFlow().Src().String() }

// TestErrorSourceTowardsIPv4: the client's errors come from its mapped
// address, a router's from the translator's own (RFC 6791 §3.2, RFC 5508
// REQ-5), or all from the mapped address (RFC 6146 §3.6.1).
func TestErrorSourceTowardsIPv4(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules func(*Rules)
		src   string
		want  string
	}{
		{"the client", func(*Rules) {}, clientA, mappedA},
		{"a router", func(*Rules) {}, router6, box4},
		{"another client", func(*Rules) {}, clientB, box4},
		{"a router, icmp_source", func(rs *Rules) { rs.ICMPSource4 = addr4("192.0.2.77") }, router6, "192.0.2.77"},
		{"the client, icmp_source", func(rs *Rules) { rs.ICMPSource4 = addr4("192.0.2.77") }, clientA, mappedA},
		{"a router, destination", func(rs *Rules) { rs.ErrorsFromDestination = true }, router6, mappedA},
		{"the client, destination", func(rs *Rules) { rs.ErrorsFromDestination = true }, clientA, mappedA},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, setup{rules: c.rules})
			out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil))
			_, out4 := r.from6(errorFrom6(t, c.src, via6(serverA), 3, 0, 0, out6[0][ethernetHeader:]))
			if got := source(one(t, out4)); got != c.want {
				t.Errorf("the error comes from %s, want %s", got, c.want)
			}
		})
	}
}

// TestErrorSourceWithoutInterfaceAddress: with nothing of its own the
// translator falls back to the mapped address.
func TestErrorSourceWithoutInterfaceAddress(t *testing.T) {
	hops := resolvedHops()
	s := *hops.Load()
	s.IPv4.Addr4 = 0
	hops.Publish(&s)
	r := newRig(t, setup{hops: hops})
	out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil))
	_, out4 := r.from6(errorFrom6(t, router6, via6(serverA), 3, 0, 0, out6[0][ethernetHeader:]))
	if got := source(one(t, out4)); got != mappedA {
		t.Errorf("the error comes from %s, want %s", got, mappedA)
	}
}

// TestErrorsFromIllegalSources6: an error from pool6 would choose its own IPv4
// source (RFC 6146 §3.5), the others can be nobody's (RFC 7915 §5.1).
func TestErrorsFromIllegalSources6(t *testing.T) {
	for src, want := range map[string]DropReason{
		"64:ff9b::203.0.113.9": DropSourceInPool6,
		"::1":                  DropBadSource,
		"::":                   DropBadSource,
		"ff02::1":              DropBadSource,
		"fe80::1":              DropBadSource,
	} {
		r := newRig(t, setup{})
		out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil))
		b := errorFrom6(t, src, via6(serverA), 3, 0, 0, out6[0][ethernetHeader:])
		out6, out4 := r.from6(b)
		none(t, append(out6, out4...))
		if n := r.drops(want); n != 1 {
			t.Errorf("%s: %d packets dropped as %s, want 1", src, n, want)
		}
	}
}

// TestErrorSourceTowardsIPv6: a router keeps its address inside the prefix,
// illegal ones too (RFC 7915 §4.1), or all errors come from the server.
func TestErrorSourceTowardsIPv6(t *testing.T) {
	destination := func(rs *Rules) { rs.ErrorsFromDestination = true }
	strict := func(rs *Rules) { rs.WellKnownStrict = true }
	for _, c := range []struct {
		name  string
		rules func(*Rules)
		src   string
		want  string
	}{
		{"router", func(*Rules) {}, router4, router4},
		{"router, denied", func(*Rules) {}, "169.254.9.9", "169.254.9.9"},
		{"router, loopback", func(*Rules) {}, "127.0.0.1", "127.0.0.1"},
		{"router, zero", func(*Rules) {}, "0.0.0.0", "0.0.0.0"},
		{"router, private", func(*Rules) {}, "10.1.2.3", "10.1.2.3"},
		{"destination", destination, router4, "9.9.9.9"},
		{"destination, private", destination, "10.1.2.3", "9.9.9.9"},
		{"strict, global", strict, "8.8.4.4", "8.8.4.4"},
		{"strict, private", strict, "10.1.2.3", "9.9.9.9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, setup{rules: c.rules})
			_, out4 := r.from6(udp6(t, clientA, 4000, "9.9.9.9", 4001, nil))
			out6, _ := r.from4(errorFrom4(t, c.src, 11, 0, 0, out4[0][ethernetHeader:]))
			if got, want := source(one(t, out6)), netip.MustParseAddr(via6(c.want)).String(); got != want {
				t.Errorf("the error comes from %s, want %s", got, want)
			}
		})
	}
}

// TestErrorAboutSomebodyElsesPacket: an error goes to the source of what it
// quotes (RFC 792, RFC 4443 §2.2); one that does not is not translated.
func TestErrorAboutSomebodyElsesPacket(t *testing.T) {
	r := newRig(t, setup{})
	mapped := r.mappedUDP(t, serverA)
	out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, mapped, nil))
	a, b := r.from6(errorFrom6(t, clientA, via6(elsewhere), 1, 4, 0, out6[0][ethernetHeader:]))
	none(t, append(a, b...))
	_, out4 := r.from6(udp6(t, clientA, 4000, serverA, 4001, nil))
	quote := append([]byte(nil), out4[0][ethernetHeader:]...)
	quote[15]++ // the source
	a, b = r.from4(errorFrom4(t, serverA, 3, 3, 0, quote))
	none(t, append(a, b...))
	if n := r.drops(DropQuote); n != 2 {
		t.Errorf("%d packets dropped as %s, want 2", n, DropQuote)
	}
}

// TestStrictWellKnownPrefixFromIPv4: a session that begins on the IPv4 side is
// shown in a prefix that may hold its server, or refused (RFC 6052 §3.1).
func TestStrictWellKnownPrefixFromIPv4(t *testing.T) {
	own, err := xlat.ParsePrefix(netip.MustParsePrefix("2001:db8:64::/48"))
	if err != nil {
		t.Fatal(err)
	}
	static := conntrack.Static{Proto: conntrack.UDP, ClientPort: 53, Mapped: addr4(mappedA), MappedPort: 5353}
	static.Client.Hi, static.Client.Lo = hiLo(clientB)
	for _, c := range []struct {
		prefixes []xlat.Prefix
		server   string
		want     string // the source that the client sees; "" when refused
	}{
		{nil, "10.0.0.1", ""},
		{nil, "9.9.9.9", "64:ff9b::909:909"},
		{[]xlat.Prefix{own}, "10.0.0.1", "2001:db8:64:a00:0:100::"},
		{[]xlat.Prefix{own}, "9.9.9.9", "64:ff9b::909:909"},
	} {
		r := newRig(t, setup{rules: func(rs *Rules) { rs.WellKnownStrict, rs.Pool6 = true, append(rs.Pool6, c.prefixes...) }})
		if err := r.table.AddStatic(static); err != nil {
			t.Fatal(err)
		}
		out6, _ := r.from4(udp4(t, c.server, 9, mappedA, 5353, nil))
		if c.want == "" {
			none(t, out6)
			if n := r.drops(DropWellKnownPrefix); n != 1 {
				t.Errorf("%s: %d packets dropped as %s, want 1", c.server, n, DropWellKnownPrefix)
			}
			continue
		}
		if got := source(one(t, out6)); got != c.want {
			t.Errorf("%s is seen as %s, want %s", c.server, got, c.want)
		}
	}
}

// TestMTUOfErrorsFollowsRoutes: what a translated Packet Too Big and
// Fragmentation Needed report is no more than the next hops to both ends carry
// (RFC 7915 §4.2, §5.2).
func TestMTUOfErrorsFollowsRoutes(t *testing.T) {
	narrow := nexthop.StaticRoute{Prefix: netip.MustParsePrefix("203.0.113.0/24"),
		Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1390, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4)}}
	slow := nexthop.StaticRoute{Prefix: netip.MustParsePrefix("2001:db8::a/128"),
		Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1400, Side: nexthop.IPv6, Eth: eth(macRouter, macBox6)}}
	for _, c := range []struct {
		name         string
		routes       []nexthop.StaticRoute
		mtu          [families]uint32
		server       string
		want6, want4 uint32 // reported on each side when the router reports 1480 or 1500
	}{
		{"interfaces", nil, [families]uint32{}, elsewhere, 1500, 1480},
		{"route to the server", []nexthop.StaticRoute{narrow}, [families]uint32{}, elsewhere, 1410, 1390},
		{"route to another server", []nexthop.StaticRoute{narrow}, [families]uint32{}, serverA, 1500, 1480},
		{"route to the client", []nexthop.StaticRoute{slow}, [families]uint32{}, elsewhere, 1400, 1380},
		{"configured", nil, [families]uint32{IPv6: 1450, IPv4: 1420}, elsewhere, 1440, 1420},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, setup{hops: resolvedHops(c.routes...), rules: func(rs *Rules) { rs.MTU = c.mtu }})
			_, out4 := r.from6(udp6(t, clientA, 4000, c.server, 4001, nil))
			out6, _ := r.from4(errorFrom4(t, router4, 3, 4, 1480, out4[0][ethernetHeader:]))
			p := one(t, out6).Layer(layers.LayerTypeICMPv6)
			if got := be32(p.LayerPayload()); got != c.want6 {
				t.Errorf("Packet Too Big reports %d, want %d", got, c.want6)
			}
			_, _, mapped, _ := transport(t, decode(t, out4[0]))
			out6, _ = r.from4(udp4(t, c.server, 4001, mappedA, mapped, nil))
			_, out4 = r.from6(errorFrom6(t, router6, via6(c.server), 2, 0, 1500, out6[0][ethernetHeader:]))
			if got := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4).Seq; uint32(got) != c.want4 {
				t.Errorf("Fragmentation Needed reports %d, want %d", got, c.want4)
			}
		})
	}
}
