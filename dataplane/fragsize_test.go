package dataplane

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/dataplane/nexthop"
)

// narrow4 gives the servers a link of the MTU.
func narrow4(mtu uint32) setup {
	return setup{hops: resolvedHops(nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix("198.51.100.0/24"),
		Hop:    nexthop.Hop{State: nexthop.Resolved, MTU: mtu, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4)},
	})}
}

// TestFragmentsTowardsIPv4: what IPv6 cannot make smaller, and fragments, are
// fragmented for a small IPv4 link (RFC 7915 §5.1.1); what is bigger than 1280
// octets and whole gets Packet Too Big.
func TestFragmentsTowardsIPv4(t *testing.T) {
	for _, mtu := range []uint32{68, 576, 1000, 1259} {
		r := newRig(t, narrow4(mtu))
		data := random(1280 - 48)
		out6, out4 := r.from6(udp6(t, clientA, 4000, serverA, 4001, data))
		none(t, out6)
		if len(out4) < 2 {
			t.Fatalf("MTU %d: %d packets came out", mtu, len(out4))
		}
		for _, f := range out4 {
			if len(f)-ethernetHeader > int(mtu) {
				t.Errorf("MTU %d: %d octets", mtu, len(f)-ethernetHeader)
			}
		}
		_, _, id, _, _ := fragmentOf(t, out4[0])
		if upper := upperOf(t, whole(t, id, out4)); string(upper[8:]) != string(data) {
			t.Errorf("MTU %d: the payload differs", mtu)
		}
		out6, out4 = r.from6(udp6(t, clientA, 4000, serverA, 4001, random(1281-48)))
		none(t, out4)
		p := one(t, out6)
		if i, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || i.TypeCode.Type() != 2 || binary.BigEndian.Uint32(i.Payload) != 1280 {
			t.Errorf("MTU %d: %v", mtu, p)
		}
		out6, out4 = r.from6(pieces6(t, udp6(t, clientA, 4000, serverA, 4001, data), 0x12345678, 1000)...)
		none(t, out6)
		if upper := upperOf(t, whole(t, 0x5678, out4)); string(upper[8:]) != string(data) {
			t.Errorf("MTU %d: fragments of fragments differ", mtu)
		}
	}
}

// An atomic fragment leaves as one packet with DF clear and the fragment's
// identification (RFC 7915 §5.1.1), and may therefore be fragmented.
func TestAtomicFragment(t *testing.T) {
	r := newRig(t, narrow4(1400))
	for _, n := range []int{100, 1430} {
		data := random(n)
		atomic := pieces6(t, udp6(t, clientA, 4000, serverA, 4001, data), 0xabcd1234, 2000)
		if len(atomic) != 1 {
			t.Fatal("no atomic fragment")
		}
		out6, out4 := r.from6(atomic...)
		none(t, out6)
		if n == 100 {
			ip := one(t, out4).NetworkLayer().(*layers.IPv4)
			if ip.Flags != 0 || ip.FragOffset != 0 || ip.Id != 0x1234 {
				t.Errorf("%+v", ip)
			}
			continue
		}
		if upper := upperOf(t, whole(t, 0x1234, out4)); len(out4) != 2 || string(upper[8:]) != string(data) {
			t.Errorf("%d packets of an atomic fragment that is too big", len(out4))
		}
	}
	if n := r.workers[0].datagrams.lists[listSettled].n; n != 0 {
		t.Errorf("%d datagrams are remembered of atomic fragments", n)
	}
}

// TestFragmentIdentification: the low 16 bits of a fragment's identification
// go from end to end, the others are zero (RFC 7915 §4.1), for fragments that
// arrive and for those that are made here.
func TestFragmentIdentification(t *testing.T) {
	r := cutRig(t, setup{})
	data := random(2900)
	b := udp4(t, serverA, 4001, mappedA, 8080, data)
	out6, _ := r.from4(pieces4(t, b, 0xbeef, 1480)...)
	if upper := upperOf(t, whole(t, 0xbeef, out6)); string(upper[8:]) != string(data) {
		t.Error("the payload differs")
	}
	if len(out6) != 4 { // each of 1528 octets takes two of at most 1280; the second of 1476 as well
		t.Errorf("%d fragments", len(out6))
	}
	for _, f := range out6 {
		if len(f)-ethernetHeader > 1280 {
			t.Errorf("%d octets", len(f)-ethernetHeader)
		}
	}
	ip := ip4(serverA, mappedA, layers.IPProtocolUDP)
	ip.Id = 0xcafe
	u := &layers.UDP{SrcPort: 4001, DstPort: 8080}
	u.SetNetworkLayerForChecksum(ip)
	out6, _ = r.from4(build(t, ether(layers.EthernetTypeIPv4), ip, u, gopacket.Payload(random(1400))))
	upperOf(t, whole(t, 0xcafe, out6))
}

// A fragment with DF that is too big is answered, once, with an MTU that the
// translated fragment fits.
func TestFragmentWithDF(t *testing.T) {
	r := cutRig(t, setup{rules: func(rs *Rules) { rs.MTU[IPv6] = 1400 }})
	pieces := pieces4(t, udp4(t, serverA, 4001, mappedA, 8080, random(2900)), 7, 1480)
	for i := range pieces {
		pieces[i][ethernetHeader+6] |= 0x40
		pieces[i] = rechecksummed(pieces[i])
	}
	out6, out4 := r.from4(pieces...)
	none(t, out6)
	p := one(t, out4)
	i, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || i.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || i.Seq != 1372 {
		t.Fatalf("%v", p)
	}
	if n := r.drops(DropTooBig4); n != 2 {
		t.Errorf("%d dropped as too big", n)
	}
	pieces = pieces4(t, udp4(t, serverA, 4001, mappedA, 8080, random(2700)), 8, 1352)
	for i := range pieces {
		pieces[i][ethernetHeader+6] |= 0x40
		pieces[i] = rechecksummed(pieces[i])
	}
	out6, _ = r.from4(pieces...)
	upperOf(t, whole(t, 8, out6))
	if len(out6) != len(pieces) {
		t.Errorf("%d pieces with DF became %d", len(pieces), len(out6))
	}
}

// TestParkedFragments: fragments that waited for their next hop have been to
// their datagram already, and go on when the hop is known; so do echoes.
func TestParkedFragments(t *testing.T) {
	for _, f := range cutFlows()[:3] {
		hops := resolvedHops(nexthop.StaticRoute{
			Prefix: netip.MustParsePrefix("198.51.100.0/24"), Hop: nexthop.Hop{State: nexthop.Unresolved, MTU: 1500, Side: nexthop.IPv4},
		})
		r := cutRig(t, setup{hops: hops})
		data := random(300)
		pieces := f.cut(t, data, 6, 64)
		last := len(pieces) - 1
		if f.name == "echo from IPv6" {
			last++ // none of it goes before all of it is there
		}
		none(t, f.send(r, pieces[:last]...))
		if n := r.workers[0].parked.n; n != last {
			t.Errorf("%s: %d of %d fragments are parked", f.name, n, len(pieces))
		}
		known := r.hops.Load()
		r.hops.Publish(known.WithHop(known.Lookup4(addr4(serverA)), nexthop.Hop{
			State: nexthop.Resolved, MTU: 1500, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4),
		}))
		_, out4 := r.from6()
		out4 = append(out4, f.send(r, pieces[last:]...)...)
		f.check(t, out4, data, 6)
	}
}
