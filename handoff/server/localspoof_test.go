package server

import (
	"encoding/binary"
	"fmt"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// Nothing that a stranger sends to the control port reaches a local program, and
// of what a NAT64 sends only packets that its clients may have sent to the
// address that was asked.

// formats are payloads of every kind that there is, with a packet in each that
// would be delivered if its sender were known.
func formats(token []byte) map[string][]byte {
	server := embed(wellKnown, ownAddr)
	segment := ip6(clientAddr, server, packet.ProtoTCP, tcp(53186, 22))
	whole := ip6(clientAddr, server, 47, numbers(8))
	toServer := ip4(nat64Addr, ownAddr, packet.ProtoTCP, tcp(3719, 22))
	toNAT64 := ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(22, 3719))
	e := entryOf(3719, clientAddr, 53186)
	var m wire.MultiEntry
	m.Reset(token, nil)
	m.AddEntry(goodAuth, e)
	return map[string][]byte{
		"query":                    payload{token: token, auth: goodAuth, packet: segment}.bytes(),
		"query with a hint":        payload{token: token, auth: goodAuth, hint: 3719, packet: segment}.bytes(),
		"query of a protocol":      payload{token: token, auth: goodAuth, packet: whole}.bytes(),
		"query with a rotation":    payload{token: token, rotation: []byte("guess!"), auth: goodAuth, packet: segment}.bytes(),
		"entry and IPv6 packet":    payload{token: token, auth: goodAuth, entry: e, packet: segment}.bytes(),
		"entry and IPv4 packet":    payload{token: token, auth: goodAuth, entry: e, packet: toNAT64}.bytes(),
		"IPv4 packet":              payload{token: token, packet: toNAT64}.bytes(),
		"(a), after translation":   payload{token: token, packet: toServer}.bytes(),
		"(b)":                      payload{auth: goodAuth, packet: whole}.bytes(),
		"(b), after translation":   payload{auth: goodAuth, packet: ip6(server, clientAddr, 47, numbers(8))}.bytes(),
		"(c)":                      payload{auth: goodAuth, entry: e, bare: true}.bytes(),
		"(c) with IPv6 packet":     payload{auth: goodAuth, entry: e, bare: true, packet: segment}.bytes(),
		"(c) with IPv4 packet":     payload{auth: goodAuth, entry: e, bare: true, packet: toServer}.bytes(),
		"multi-entry":              m.Bytes(),
		"multi-entry with packet":  append(append([]byte{}, m.Bytes()...), segment...),
		"nothing but a packet":     segment,
		"nothing but IPv4":         toServer,
		"packet without authority": payload{token: token, packet: segment}.bytes(),
	}
}

// nothing fails if a payload had anything delivered.
func (x *localHarness) nothing(name string, from addr4, port uint16, b []byte) {
	x.t.Helper()
	o, _ := x.give(ownAddr, from, port, b)
	waiting := len(x.out.parcels)
	if got := x.commit(); waiting != 0 || len(got) != 0 {
		x.t.Errorf("%s (%v): delivered %x", name, o, got)
	}
}

// TestStrangersDeliverNothing: without a token that was validated for the very
// address and port, no format does anything.
func TestStrangersDeliverNothing(t *testing.T) {
	for _, mode := range []Mode{LocalNAT, Mixed} {
		for name, b := range formats([]byte("guess!")) {
			x := known(t, mode)
			x.nothing(name+", another token", nat64Addr, nat64Port, b)
			x.nothing(name+", of no NAT64", addr4{203, 0, 113, 9}, nat64Port, b)
		}
		for name, b := range formats(goodToken) { // overheard, maybe, but sent from elsewhere
			x := known(t, mode)
			x.nothing(name+", another port", nat64Addr, nat64Port+1, b)
			x.nothing(name+", another address", addr4{192, 0, 2, 8}, nat64Port, b)
			x.nothing(name+", from ourselves", ownAddr, serverPort, b)
		}
		// The same from the NAT64 itself: what a NAT64 may send is delivered, so the
		// payloads above are no harmless ones.
		count := 0
		for name, b := range formats(goodToken) {
			x := known(t, mode)
			o, _ := x.give(ownAddr, nat64Addr, nat64Port, b)
			if n := len(x.commit()); n != 0 {
				count++
			} else if o == delivered {
				t.Errorf("%s counts as delivered and was not", name)
			}
		}
		if count != 6 {
			t.Errorf("%v: of these formats the NAT64 itself has %d delivered, want 6", mode, count)
		}
	}
}

// TestPacketsThatNoClientSends are not delivered, whoever vouches for them.
func TestPacketsThatNoClientSends(t *testing.T) {
	server := embed(wellKnown, ownAddr)
	mapped := addr6{10: 0xff, 11: 0xff, 12: 192, 13: 0, 14: 2, 15: 5}
	pooled := embed(wellKnown, addr4{100, 64, 0, 7})
	for _, mode := range []Mode{LocalNAT, Mixed} {
		for name, p := range map[string]payload{
			"from ::":                       from6(ip6(addr6{}, server, 47, numbers(8))),
			"from ::1":                      from6(ip6(addr6{15: 1}, server, 47, numbers(8))),
			"from multicast":                from6(ip6(addr6{0: 0xff, 1: 2, 15: 1}, server, 47, numbers(8))),
			"from a link-local address":     from6(ip6(addr6{0: 0xfe, 1: 0x80, 15: 1}, server, 47, numbers(8))),
			"from an IPv4-mapped address":   from6(ip6(mapped, server, 47, numbers(8))),
			"from the prefix":               from6(ip6(embed(wellKnown, addr4{192, 0, 2, 5}), server, 47, numbers(8))),
			"from the pool":                 from6(ip6(pooled, server, 47, numbers(8))),
			"from ourselves":                from6(ip6(server, server, 47, numbers(8))),
			"to another server":             from6(ip6(clientAddr, embed(wellKnown, addr4{198, 51, 100, 2}), 47, numbers(8))),
			"to the pool":                   from6(ip6(clientAddr, pooled, 47, numbers(8))),
			"to loopback":                   from6(ip6(clientAddr, embed(wellKnown, addr4{127, 0, 0, 1}), 47, numbers(8))),
			"to itself":                     from6(ip6(clientAddr, clientAddr, 47, numbers(8))),
			"to us, after translation":      from6(ip6(server, clientAddr, 47, numbers(8))),
			"ICMPv4 in IPv6":                from6(ip6(clientAddr, server, packet.ProtoICMP, icmp(8, 0, 1, nil))),
			"router advertisement":          from6(ip6(clientAddr, server, packet.ProtoICMPv6, icmp(134, 0, 0, numbers(8)))),
			"redirect":                      from6(ip6(clientAddr, server, packet.ProtoICMPv6, icmp(137, 0, 0, numbers(32)))),
			"error about nothing":           from6(ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, ip6(server, clientAddr, 17, udp(53, 9, "x"))))),
			"error about another's packet":  from6(ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, ip6(pooled, clientAddr, 17, udp(53, 9, "x"))))),
			"IPv4 from the pool":            {token: goodToken, packet: ip4(addr4{100, 64, 0, 7}, nat64Addr, 17, udp(1, 2, "x"))},
			"IPv4 from the pool to us":      {token: goodToken, packet: ip4(addr4{100, 64, 0, 7}, ownAddr, 17, udp(1, 2, "x"))},
			"IPv4 from the NAT64 to us":     {token: goodToken, packet: ip4(nat64Addr, ownAddr, 17, udp(1, 2, "x"))},
			"IPv4 from a stranger":          {token: goodToken, packet: ip4(addr4{203, 0, 113, 1}, nat64Addr, 17, udp(1, 2, "x"))},
			"IPv4 from us to us":            {token: goodToken, packet: ip4(ownAddr, ownAddr, 17, udp(1, 2, "x"))},
			"IPv4 from us that fits no one": {token: goodToken, packet: ip4(ownAddr, nat64Addr, 17, udp(1, 2, "x"))},
		} {
			x := known(t, mode)
			x.nothing(fmt.Sprintf("%v: %s", mode, name), nat64Addr, nat64Port, p.bytes())
		}
	}
}

// TestHopLimitEnds: a packet that goes round comes to an end.
func TestHopLimitEnds(t *testing.T) {
	for _, mode := range []Mode{LocalNAT, Mixed} {
		x := known(t, mode)
		pkt := ip6(clientAddr, embed(wellKnown, ownAddr), 47, numbers(8))
		pkt[packet.IPv6HopLimit] = 1
		p := x.answer(x.want(from6(pkt), expired))
		if len(x.commit()) != 0 || p.Packet[40] != packet.ICMPv6TimeExceeded {
			t.Errorf("%v: answered %x", mode, p.Packet)
		}
	}
}

// TestNAT64sAreApart: one NAT64 cannot have anything delivered under an address
// of another's client, nor get the answers to it.
func TestNAT64sAreApart(t *testing.T) {
	x := known(t, LocalNAT)
	other := addr4{192, 0, 2, 99}
	first := x.delivered(from6(ip6(clientAddr, embed(wellKnown, ownAddr), 47, numbers(8))))
	x.authenticate(ownAddr, other, nat64Port, []byte("theirs"))
	x.commit()
	p := from6(ip6(clientAddr, embed(wellKnown, ownAddr), 47, numbers(8)))
	p.token = []byte("theirs")
	if o, _ := x.give(ownAddr, other, nat64Port, p.bytes()); o != delivered {
		t.Fatal(o)
	}
	second := x.commit()[0]
	if addr4(first[packet.IPv4Src:]) == addr4(second[packet.IPv4Src:]) {
		t.Errorf("clients of two NAT64s share %v", first[12:16])
	}
	if b := x.h.nat.bindings.find(binary.BigEndian.Uint32(first[packet.IPv4Src:])); b.path.nat64 != nat64Addr {
		t.Errorf("answers to the first one's client go to %v", b.path.nat64)
	}
}

// FuzzLocal: whatever an authenticated NAT64 sends, what is delivered is a whole
// IPv4 packet to our own address, from an address of the pool or from that of
// the NAT64; and what local programs send to the pool goes to the NAT64.
func FuzzLocal(f *testing.F) {
	i := byte(0)
	for _, b := range formats(goodToken) {
		f.Add(b, i%2)
		i++
	}
	f.Fuzz(func(t *testing.T, b []byte, mixed byte) {
		mode := LocalNAT
		if mixed%2 == 1 {
			mode = Mixed
		}
		x := known(t, mode)
		if o, _ := x.give(ownAddr, nat64Addr, nat64Port, b); o == delivered && len(x.out.parcels)+len(x.h.nat.now.bufs) != 1 {
			t.Fatalf("%v with %d and %d parcels", o, len(x.out.parcels), len(x.h.nat.now.bufs))
		}
		selfcheck(t, x.h.table)
		back := x.answers()
		for _, pkt := range x.commit() {
			var p packet.Parsed
			if s := packet.Parse4(pkt, 0, &p); s != packet.Good || int(p.End) != len(pkt) {
				t.Fatalf("delivered %x: %v", pkt, s)
			}
			src := addr4(pkt[packet.IPv4Src:])
			if addr4(pkt[packet.IPv4Dst:]) != ownAddr || !testPool.Contains(netip4(src)) && (mode != Mixed || src != nat64Addr) {
				t.Fatalf("delivered %x", pkt)
			}
			// As if a program sent it back: no panic, and only to the NAT64.
			copy(pkt[packet.IPv4Src:], ownAddr[:])
			copy(pkt[packet.IPv4Dst:], src[:])
			copy(back.bufs[0][answerRoom:], pkt)
			back.answer(back.bufs[0], answerRoom+len(pkt))
			for i := range back.out.n {
				if back.out.dest[i].to != nat64Addr {
					t.Fatalf("an answer goes to %v", back.out.dest[i])
				}
			}
		}
	})
}
