package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/dataplane/nexthop"
)

// syn6 is a SYN of clientA that announces the segment size.
func syn6(t testing.TB, server string, sport, mss int) []byte {
	ip := ip6(clientA, via6(server), layers.IPProtocolTCP)
	c := withMSS(tcpLayer(sport, 80, "S"), mss)
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv6), ip, c)
}

func withMSS(c *layers.TCP, mss int) *layers.TCP {
	value := binary.BigEndian.AppendUint16(nil, uint16(mss))
	c.Options = []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: value}}
	return c
}

// segment4 is a segment of the server's for a mapped port.
func segment4(t testing.TB, server string, mapped int, flags string, mss int) []byte {
	ip := ip4(server, mappedA, layers.IPProtocolTCP)
	ip.Flags = layers.IPv4DontFragment
	c := withMSS(tcpLayer(80, mapped, flags), mss)
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv4), ip, c)
}

// mssOf is what the packet announces; its checksums were verified.
func mssOf(t testing.TB, p gopacket.Packet) int {
	t.Helper()
	for _, o := range p.Layer(layers.LayerTypeTCP).(*layers.TCP).Options {
		if o.OptionType == layers.TCPOptionKindMSS {
			return int(binary.BigEndian.Uint16(o.OptionData))
		}
	}
	t.Fatalf("no MSS option: %s", p)
	return 0
}

// TestMSSClamp: SYN and SYN-ACK, both ways, are lowered to what both sides
// carry by what is known of their interfaces, routes and configured MTUs.
func TestMSSClamp(t *testing.T) {
	narrow := nexthop.StaticRoute{Prefix: netip.MustParsePrefix("203.0.113.0/24"),
		Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1400, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4)}}
	slow := nexthop.StaticRoute{Prefix: netip.MustParsePrefix("2001:db8::a/128"),
		Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1320, Side: nexthop.IPv6, Eth: eth(macRouter, macBox6)}}
	for _, c := range []struct {
		name   string
		clamp  MSSClamp
		mtu    [families]uint32
		routes []nexthop.StaticRoute
		server string
		mss    int
		want   int
	}{
		{"off", MSSOff, [families]uint32{}, nil, serverA, 9000, 9000},
		{"auto, both 1500", MSSAuto, [families]uint32{}, nil, serverA, 1460, 1440},
		{"auto, smaller already", MSSAuto, [families]uint32{}, nil, serverA, 1220, 1220},
		{"auto, mtu.ipv6 1400", MSSAuto, [families]uint32{IPv6: 1400}, nil, serverA, 1460, 1340},
		{"auto, mtu.ipv4 1300", MSSAuto, [families]uint32{IPv4: 1300}, nil, serverA, 1460, 1260},
		{"auto, route to the server", MSSAuto, [families]uint32{}, []nexthop.StaticRoute{narrow}, elsewhere, 1460, 1360},
		{"auto, that of others", MSSAuto, [families]uint32{}, []nexthop.StaticRoute{narrow}, serverA, 1460, 1440},
		{"auto, route to the client", MSSAuto, [families]uint32{}, []nexthop.StaticRoute{slow}, serverA, 1460, 1260},
		{"a number", 1000, [families]uint32{}, nil, serverA, 1460, 1000},
		{"a number, smaller already", 1000, [families]uint32{}, nil, serverA, 536, 536},
		{"a number above both MTUs", 9000, [families]uint32{}, nil, serverA, 8960, 8960},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, setup{hops: resolvedHops(c.routes...), rules: func(rs *Rules) { rs.MSS, rs.MTU = c.clamp, c.mtu }})
			_, out4 := r.from6(syn6(t, c.server, 5000, c.mss))
			p := one(t, out4)
			if got := mssOf(t, p); got != c.want {
				t.Errorf("the SYN announces %d, want %d", got, c.want)
			}
			_, _, mapped, _ := transport(t, p)
			for _, flags := range []string{"SA", "S"} {
				out6, _ := r.from4(segment4(t, c.server, mapped, flags, c.mss))
				if got := mssOf(t, one(t, out6)); got != c.want {
					t.Errorf("the %s from the IPv4 side announces %d, want %d", flags, got, c.want)
				}
			}
			out6, _ := r.from4(segment4(t, c.server, mapped, "A", c.mss))
			if got := mssOf(t, one(t, out6)); got != c.mss {
				t.Errorf("a segment without SYN was changed: %d", got)
			}
		})
	}
}

// TestMSSClampOfHairpins: both rounds of a hairpinned SYN count, and no IPv4
// link does.
func TestMSSClampOfHairpins(t *testing.T) {
	slow := nexthop.StaticRoute{Prefix: netip.MustParsePrefix("2001:db8::b/128"),
		Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1320, Side: nexthop.IPv6, Eth: eth(macRouter, macBox6)}}
	for _, c := range []struct {
		routes []nexthop.StaticRoute
		want   int
	}{{nil, 1440}, {[]nexthop.StaticRoute{slow}, 1260}} {
		r := newRig(t, setup{hops: resolvedHops(c.routes...), rules: func(rs *Rules) { rs.MSS, rs.MTU[IPv4] = MSSAuto, 576 }})
		_, out4 := r.from6(tcp6(t, clientB, 80, serverA, 80, "S"))
		_, _, mapped, _ := transport(t, one(t, out4))
		ip := ip6(clientA, via6(mappedA), layers.IPProtocolTCP)
		tcp := withMSS(tcpLayer(5000, mapped, "S"), 1460)
		tcp.SetNetworkLayerForChecksum(ip)
		out6, _ := r.from6(build(t, ether(layers.EthernetTypeIPv6), ip, tcp))
		if got := mssOf(t, one(t, out6)); got != c.want {
			t.Errorf("the hairpinned SYN announces %d, want %d", got, c.want)
		}
	}
}

// TestMSSClampChangesAtRunTime: new rules hold from the next round on.
func TestMSSClampChangesAtRunTime(t *testing.T) {
	r := newRig(t, setup{})
	for i, clamp := range []MSSClamp{MSSOff, 1111, MSSAuto} {
		rules := *r.rules
		rules.MSS = clamp
		r.workers[0].SetRules(&rules)
		_, out4 := r.from6(syn6(t, serverA, 5000+i, 1460))
		if got, want := mssOf(t, one(t, out4)), []int{1460, 1111, 1440}[i]; got != want {
			t.Errorf("round %d: the SYN announces %d, want %d", i, got, want)
		}
	}
}
