package server

import (
	"net/netip"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// gre is a packet of a client's for the server.
func gre(client addr6) payload { return from6(ip6(client, embed(wellKnown, ownAddr), 47, numbers(8))) }

func clientNumber(n int) addr6 { return addr6{0: 0x20, 1: 1, 14: byte(n >> 8), 15: byte(n)} }

// addressOf is the address that a client's packet is delivered under.
func (x *localHarness) addressOf(from addr4, token []byte, client addr6) (addr4, outcome) {
	x.t.Helper()
	p := gre(client)
	p.token = token
	o, _ := x.give(ownAddr, from, nat64Port, p.bytes())
	got := x.commit()
	if o != delivered {
		return addr4{}, o
	}
	return addr4(got[0][packet.IPv4Src:]), o
}

func TestCheckPool(t *testing.T) {
	for p, ok := range map[string]bool{
		"100.64.0.0/16": true, "10.0.0.0/8": true, "172.16.0.0/12": true, "172.31.255.252/30": true, "192.168.7.0/24": true, "100.64.0.0/10": true,
		"100.64.0.0/9": false, "172.32.0.0/16": false, "11.0.0.0/8": false, "10.0.0.0/7": false, "192.0.2.0/24": false, "10.0.0.0/31": false,
		"10.0.0.1/24": false, "fd00::/64": false, "0.0.0.0/0": false,
	} {
		if err := CheckPool(netip.MustParsePrefix(p)); (err == nil) != ok {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// TestPoolGivesEveryAddress: all but the first two and the last, each once, and
// a client keeps its own.
func TestPoolGivesEveryAddress(t *testing.T) {
	x := newLocal(t, LocalNAT, netip.MustParsePrefix("10.7.0.0/27"), &fakeSockets{})
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	seen := map[addr4]addr6{}
	for round := range 2 {
		for n := range 29 {
			client := clientNumber(n)
			a, o := x.addressOf(nat64Addr, goodToken, client)
			if was, taken := seen[a]; o != delivered || taken && (round == 0 || was != client) {
				t.Fatalf("round %d, client %d: %v (%v), which %v had", round, n, a, o, was)
			}
			seen[a] = client
		}
	}
	for _, a := range []addr4{{10, 7, 0, 0}, {10, 7, 0, 1}, {10, 7, 0, 31}} {
		if _, given := seen[a]; given {
			t.Errorf("%v was given", a)
		}
	}
	if p := x.answer(x.want(gre(clientNumber(99)), noAddress)); p.Packet[40] != packet.ICMPv6Unreachable || p.Packet[41] != unreachableAddress {
		t.Errorf("the client without an address is told %x", p.Packet[40:48])
	}
}

// TestPoolRecycles: the client that has been silent for longest goes, unless a
// local socket speaks to it; the log says so, and answers find the new one.
func TestPoolRecycles(t *testing.T) {
	live := &frozen{liveSet{}}
	x := newLocal(t, LocalNAT, netip.MustParsePrefix("10.7.0.0/29"), live)
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	var first [5]addr4
	for n := range first {
		first[n], _ = x.addressOf(nat64Addr, goodToken, clientNumber(n))
	}
	x.h.now += minIdle
	x.addressOf(nat64Addr, goodToken, clientNumber(1)) // is in use
	live.live[peer{first[0], 0}] = struct{}{}
	x.out.reset()
	x.want(gre(clientNumber(50)), delivered)
	e := x.out.events
	if len(e) != 2 || e[0].Kind != Deleted || e[0].Client != clientNumber(2) || e[1].Kind != Created || e[1].Address != first[2] || e[1].Client != clientNumber(50) {
		t.Fatalf("events %+v", e)
	}
	x.commit()
	if b := x.h.nat.bindings.find(word4(first[2])); b == nil || b.Client != clientNumber(50) {
		t.Errorf("answers to %v go to %+v", first[2], b)
	}
	selfcheck(t, x.h.table)
}

// TestPoolIsShared: a NAT64 that takes all that there is gives up to others.
func TestPoolIsShared(t *testing.T) {
	x := newLocal(t, LocalNAT, netip.MustParsePrefix("10.7.0.0/28"), &fakeSockets{})
	greedy := addr4{192, 0, 2, 66}
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	x.authenticate(ownAddr, greedy, nat64Port, []byte("greedy"))
	x.addressOf(nat64Addr, goodToken, clientNumber(1))
	for n := range 200 {
		x.h.now += minIdle
		if _, o := x.addressOf(greedy, []byte("greedy"), clientNumber(n)); o != delivered {
			t.Fatal(o)
		}
	}
	if n := len(x.channel().leases.byKey); n != 1 {
		t.Errorf("the modest NAT64 has %d addresses left", n)
	}
	for n := range 5 {
		x.h.now += minIdle
		if _, o := x.addressOf(nat64Addr, goodToken, clientNumber(n)); o != delivered {
			t.Fatal(o)
		}
	}
	if n := len(x.channel().leases.byKey); n != 5 {
		t.Errorf("the modest NAT64 has %d addresses of the 5 that it needs", n)
	}
}

// TestProtocolTaken: in mixed mode a protocol without ports is one client's,
// until it is silent.
func TestProtocolTaken(t *testing.T) {
	x := known(t, Mixed)
	x.want(gre(clientNumber(1)), delivered)
	x.commit()
	if p := x.answer(x.want(gre(clientNumber(2)), protocolTaken)); p.Packet[40] != packet.ICMPv6Unreachable || p.Packet[41] != unreachableProhibited {
		t.Errorf("told %x", p.Packet[40:48])
	}
	x.h.now += minIdle
	x.want(gre(clientNumber(2)), delivered)
	if e := x.out.events; len(e) != 2 || e[0].Kind != Deleted || e[1].Client != clientNumber(2) || e[1].MappedPort != 47 || e[1].Address != nat64Addr {
		t.Errorf("events %+v", e)
	}
	x.commit()
	back := x.answer(x.want(payload{token: goodToken, packet: ip4(ownAddr, nat64Addr, 47, numbers(8))}, translated))
	if addr6(back.Packet[24:40]) != clientNumber(2) || string(back.Packet[40:]) != string(numbers(8)) {
		t.Errorf("the answer is %x", back.Packet)
	}
}

// TestMixedBothWays: octet for octet, with the ports of an entry.
func TestMixedBothWays(t *testing.T) {
	server6 := embed(wellKnown, ownAddr)
	for _, u := range uppers()[:2] {
		x := known(t, Mixed)
		got := x.delivered(from6(encode(clientAddr[:], server6[:], u.proto6, 60, u.six, u.pseudoAt)))
		mapped := x.channel().entries[x.channel().find(tuple{wellKnown, clientAddr, 53186})].mapped
		four := append([]byte{byte(mapped >> 8), byte(mapped)}, u.six[2:]...)
		want := encode(nat64Addr[:], ownAddr[:], u.proto4, 59, four, u.pseudoAt)
		if sameID4(got, want); string(got) != string(want) {
			t.Fatalf("%s: delivered\n%x, want\n%x", u.name, got, want)
		}
		reply := append([]byte{u.six[2], u.six[3], byte(mapped >> 8), byte(mapped)}, u.six[4:]...)
		p := x.answer(x.want(payload{token: goodToken, packet: encode(ownAddr[:], nat64Addr[:], u.proto4, 64, reply, u.pseudoAt)}, translated))
		reply6 := append([]byte{u.six[2], u.six[3], u.six[0], u.six[1]}, u.six[4:]...)
		want6 := encode(server6[:], clientAddr[:], u.proto6, 63, reply6, u.pseudoAt)
		if form, s := p.ToNAT64(); form != wire.FormIPv6 || s != wire.OK || string(p.Packet) != string(want6) {
			t.Fatalf("%s: answered (%v)\n%x, want\n%x", u.name, form, p.Packet, want6)
		}
	}
}

// TestModeChanges: a connection goes on under the address that local programs
// know it by.
func TestModeChanges(t *testing.T) {
	live := &frozen{liveSet{}}
	x := newLocal(t, Minimal, testPool, live)
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	server6 := embed(wellKnown, ownAddr)
	segment := func(port uint16, flags byte) payload {
		s := tcp(port, 22)
		s[packet.TCPFlags] = flags
		return from6(ip6(clientAddr, server6, packet.ProtoTCP, s))
	}
	const syn, ack = 2, 0x10
	x.want(segment(1000, syn), answered) // over an entry
	x.h.mode = LocalNAT
	x.want(segment(1000, ack), answered)
	x.want(segment(1001, syn), delivered)
	x.commit()
	address := x.h.table.channels[channelKey{ownAddr, nat64Addr}].findLease(wellKnown, clientAddr, 0).address
	live.live[peer{address, 1001}] = struct{}{}
	for _, m := range []Mode{Minimal, Mixed} {
		x.h.mode = m
		x.want(segment(1001, ack), delivered)
		if got := x.commit(); addr4(got[0][packet.IPv4Src:]) != address {
			t.Errorf("%v: from %v", m, got[0][12:16])
		}
	}
	x.h.mode = Minimal
	x.want(segment(1001, syn), answered) // begins anew
	x.want(segment(1002, ack), answered) // belongs to nothing
	if n := len(x.h.table.pool.byAddress); n != 1 {
		t.Errorf("%d leases", n)
	}
}

// TestLossRows: every loss has its row, under a name of its own.
func TestLossRows(t *testing.T) {
	names := map[string]bool{}
	for l := lostPacket; l < numLosses; l++ {
		if r := lossRows[l]; r.name == "" || r.meaning == "" || names[r.name] {
			t.Errorf("loss %d: %+v", l, r)
		}
		names[lossRows[l].name] = true
	}
}
