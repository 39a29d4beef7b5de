package server

import (
	"bytes"
	"slices"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// TestHandshake goes through draft §9 step by step.
func TestHandshake(t *testing.T) {
	x := newHarness(t, 100, noSockets{})
	first := notification(2000, clientAddr, 7)

	back := x.challenge(ownAddr, nat64Addr, nat64Port, first)
	if len(x.h.table.channels) != 0 || !x.out.empty() {
		t.Fatal("state was kept before the NAT64 proved its address")
	}
	var v wire.Payload
	if s := wire.Decode(back[packet.IPv4Len+packet.UDPLen:], &v); s != wire.OK {
		t.Fatal(s)
	}
	if !bytes.Equal(v.Authenticator, goodAuth) || v.Token != nil || v.PacketVersion != 6 || len(v.Packet) != 56 {
		t.Fatalf("the validation packet holds %+v", v)
	}

	o, as := x.give(ownAddr, nat64Addr, nat64Port, payload{token: goodToken, packet: back}.bytes())
	if o != returned {
		t.Fatalf("the returned validation packet ends as %v", o)
	}
	got := x.answer(as)
	if a := as[0]; a.own != ownAddr || a.to != nat64Addr || a.port != nat64Port {
		t.Fatalf("answer from %v to %v:%d", a.own, a.to, a.port)
	}
	if form, _ := got.ToNAT64(); form != wire.FormIPv4 || !bytes.Equal(got.Token, goodToken) || !bytes.Equal(got.Packet, back) {
		t.Fatalf("the answer is %+v, not format (a) with what came back", got)
	}
	if len(x.out.events) != 1 || x.out.events[0].Kind != Initialized || x.out.events[0].NAT64 != nat64Addr {
		t.Fatalf("events %v", x.out.events)
	}
	if x.h.counts.authenticated.Load() != 1 {
		t.Fatal("not counted")
	}
	x.want(first, notified) // the retry gets through
}

// TestHandshakeWithoutAuthenticator: then the validation packet holds the token.
func TestHandshakeWithoutAuthenticator(t *testing.T) {
	x := newHarness(t, 100, noSockets{})
	p := payload{token: goodToken, packet: ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(53, 5000, "a longer answer from a local program"))}
	back := x.challenge(ownAddr, nat64Addr, nat64Port, p)
	var v wire.Payload
	if s := wire.Decode(back[packet.IPv4Len+packet.UDPLen:], &v); s != wire.OK || !bytes.Equal(v.Token, goodToken) || v.Authenticator != nil {
		t.Fatalf("%v %+v", s, v)
	}
	if o, _ := x.give(ownAddr, nat64Addr, nat64Port, payload{token: goodToken, packet: back}.bytes()); o != returned {
		t.Fatal(o)
	}
}

// TestHandshakeWithEmptyToken: data of any even length counts (draft §4).
func TestHandshakeWithEmptyToken(t *testing.T) {
	for _, token := range [][]byte{{}, []byte("ab"), bytes.Repeat([]byte("x"), wire.MaxData)} {
		x := newHarness(t, 100, noSockets{})
		x.authenticate(ownAddr, nat64Addr, nat64Port, token)
		p := notification(2000, clientAddr, 7)
		p.token = token
		x.want(p, notified)
	}
}

// TestHandshakeBehindNAT: our address as the NAT64 sees it is another one than
// the one that its packets reach us under.
func TestHandshakeBehindNAT(t *testing.T) {
	private := addr4{10, 0, 0, 4}
	x := newHarness(t, 100, noSockets{})
	back := x.challenge(private, nat64Addr, nat64Port, notification(2000, clientAddr, 7))
	var p wire.Payload
	seen := ip4(ownAddr, nat64Addr, packet.ProtoUDP, back[packet.IPv4Len:])
	if o, _ := x.give(private, nat64Addr, nat64Port, payload{token: goodToken, packet: seen}.bytes()); o != returned {
		t.Fatal(o)
	}
	o, as := x.give(private, nat64Addr, nat64Port, query(clientAddr, 7, 0).bytes())
	if o != answered || as[0].own != private {
		t.Fatalf("%v from %v", o, as[0].own)
	}
	p = x.answer(as)
	if p.Entry.ClientPort != 7 {
		t.Fatalf("entry %+v", p.Entry)
	}
}

// TestValidationMACIsBound: a MAC is good for one token, address and port.
func TestValidationMACIsBound(t *testing.T) {
	x := newHarness(t, 100, noSockets{})
	back := x.challenge(ownAddr, nat64Addr, nat64Port, notification(2000, clientAddr, 7))
	other := addr4{192, 0, 2, 8}
	foreign := ip4(ownAddr, other, packet.ProtoUDP, back[packet.IPv4Len:])
	flipped := bytes.Clone(back)
	flipped[len(flipped)-1] ^= 1
	for name, try := range map[string]struct {
		from  addr4
		port  uint16
		token string
		pkt   []byte
	}{
		"another token":        {nat64Addr, nat64Port, "another, 18 octets", back},
		"another port":         {nat64Addr, nat64Port + 1, string(goodToken), back},
		"another address":      {other, nat64Port, string(goodToken), foreign},
		"to another address":   {nat64Addr, nat64Port, string(goodToken), foreign},
		"another MAC":          {nat64Addr, nat64Port, string(goodToken), flipped},
		"from no host's":       {nat64Addr, nat64Port, string(goodToken), ip4(addr4{}, nat64Addr, packet.ProtoUDP, back[packet.IPv4Len:])},
		"as TCP":               {nat64Addr, nat64Port, string(goodToken), ip4(ownAddr, nat64Addr, packet.ProtoTCP, back[packet.IPv4Len:])},
		"to another port":      {nat64Addr, nat64Port, string(goodToken), ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(serverPort, 10, string(back[28:])))},
		"the MAC and no more":  {nat64Addr, nat64Port, string(goodToken), ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(serverPort, 9, string(back[len(back)-16:])))},
		"what it was asked of": {nat64Addr, nat64Port, string(goodToken), ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(1, 2))},
	} {
		for range 3 {
			o, _ := x.give(ownAddr, try.from, try.port, payload{token: []byte(try.token), packet: try.pkt}.bytes())
			if o != challenged && o != refusedAttenuated && o != refusedLarger {
				t.Errorf("%s: %v", name, o)
			}
		}
		if len(x.h.table.channels) != 0 || !x.out.empty() {
			t.Fatalf("%s: taken for the NAT64", name)
		}
	}
	if o, _ := x.give(ownAddr, nat64Addr, nat64Port, payload{token: goodToken, packet: back}.bytes()); o != returned {
		t.Fatalf("the right one: %v", o)
	}
}

func TestAttenuation(t *testing.T) {
	a := newAttenuator(seeded())
	if first := []bool{a.pass(), a.pass(), a.pass()}; !slices.Equal(first, []bool{true, true, false}) {
		t.Fatalf("the first three: %v; the counter starts at two", first)
	}
	passed, run, runs := 0, 0, map[int]int{}
	const n = 100000
	for range n {
		if a.pass() {
			passed++
			run++
			continue
		}
		runs[run]++
		run = 0
	}
	if passed < n*59/100 || passed > n*61/100 {
		t.Errorf("%d of %d pass, want 60 %%", passed, n)
	}
	if len(runs) != 2 || runs[1] == 0 || runs[2] == 0 {
		t.Errorf("runs between two drops: %v, want only 1 and 2", runs)
	}
}

func TestTokenRotation(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	second := []byte("second of 18 octets"[:18])
	p := notification(2000, clientAddr, 7)
	p.token, p.rotation = second, goodToken
	x.want(p, notified)
	if x.h.counts.rotations.Load() != 1 || !bytes.Equal(x.channel().token, second) {
		t.Fatalf("token %q", x.channel().token)
	}
	x.want(p, notified) // the same again: type 5 is in every packet for a period
	if x.h.counts.rotations.Load() != 1 {
		t.Fatal("rotated twice")
	}
	p.token, p.rotation = goodToken, nil
	if o, _ := x.ask(p); o != challenged && o != refusedAttenuated {
		t.Fatalf("the old token: %v", o)
	}
	// The wrong old token, and the right one from the wrong place.
	p.token, p.rotation = []byte("third..18 octets.."), goodToken
	if o, _ := x.ask(p); o != challenged && o != refusedAttenuated {
		t.Fatalf("rotation from an old token: %v", o)
	}
	p.rotation = second
	if o, _ := x.give(ownAddr, nat64Addr, nat64Port+1, p.bytes()); o != challenged && o != refusedAttenuated {
		t.Fatalf("rotation from another port: %v", o)
	}
	if !bytes.Equal(x.channel().token, second) {
		t.Fatal("the token changed")
	}
}

// TestRotationInMultiEntry: a batch of notifications may be the first to carry it.
func TestRotationInMultiEntry(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	var m wire.MultiEntry
	m.Reset([]byte("second!18 octets!!"), goodToken)
	for port := range uint16(3) {
		m.AddEntry(goodAuth, entryOf(3000+port, clientAddr, 1+port))
	}
	if o, as := x.give(ownAddr, nat64Addr, nat64Port, m.Bytes()); o != notified || len(as) != 3 {
		t.Fatalf("%v with %d answers", o, len(as))
	}
}

// TestNewPort: a NAT64 whose port has changed proves its address anew and keeps
// its entries.
func TestNewPort(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	x.want(notification(2000, clientAddr, 7), notified)
	x.authenticate(ownAddr, nat64Addr, 2000, goodToken)
	if o, _ := x.ask(query(clientAddr, 7, 0)); o != challenged && o != refusedAttenuated {
		t.Fatalf("the old port: %v", o)
	}
	// The entry's mapped port is the control port now: it gets another.
	o, as := x.give(ownAddr, nat64Addr, 2000, query(clientAddr, 7, 2000).bytes())
	if o != answered {
		t.Fatal(o)
	}
	if p := x.answer(as); p.Entry.MappedPort == 2000 || p.Entry.ClientPort != 7 {
		t.Fatalf("entry %+v", p.Entry)
	}
}

// TestTooManyNAT64s: there is an end to what strangers can make us keep.
func TestTooManyNAT64s(t *testing.T) {
	x := newHarness(t, 100, noSockets{})
	for n := range maxChannels {
		k := channelKey{ownAddr, addr4{100, 64, byte(n >> 8), byte(n)}}
		x.h.table.channels[k] = newChannel(k)
	}
	back := x.challenge(ownAddr, nat64Addr, nat64Port, notification(2000, clientAddr, 7))
	if o, _ := x.give(ownAddr, nat64Addr, nat64Port, payload{token: goodToken, packet: back}.bytes()); o != refusedNAT64s {
		t.Fatal(o)
	}
}
