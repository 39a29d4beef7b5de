package handoff

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// quiet says that nothing has come of a payload.
func (r *rig) quiet() bool {
	for _, l := range r.cfg.Links {
		if l.In.Len() != 0 {
			return false
		}
	}
	return r.w.Stats().Replies == 0 && r.w.servers.index.used == 0
}

// A million payloads without a valid MAC: mutations of good ones, made for
// another server, and noise. All are refused; nothing else happens.
func TestGarbage(t *testing.T) {
	r := newRig(t)
	r.lend(1)
	var good [][]byte
	for _, c := range slices.Concat(r.spoofed(), r.genuine()) {
		good = append(good, c.payload)
	}
	g := rand.New(rand.NewPCG(64, 1))
	buf := make([]byte, 0, 2048)
	const payloads = 1_000_000
	for range payloads {
		buf = append(buf[:0], good[g.IntN(len(good))]...)
		for range g.IntN(8) {
			if len(buf) > 0 {
				buf[g.IntN(len(buf))] = byte(g.Uint32())
			}
		}
		switch g.IntN(8) {
		case 0:
			buf = buf[:g.IntN(len(buf)+1)]
		case 1:
			for range g.IntN(64) {
				buf = append(buf, byte(g.Uint32()))
			}
		}
		// Server 7 was given none of the tokens and authenticators in them.
		if refusal := r.w.accept(serverAddr(7), ownAddr, buf); refusal == Accepted || int(refusal) >= NumRefusals {
			t.Fatalf("%x: %s", buf, refusal)
		}
	}
	if !r.quiet() {
		t.Errorf("something came of it: %+v", r.w.Stats())
	}
	r.takeBack()
	r.census()
}

// FuzzReceive gives the worker any payload, with valid MACs put in where there
// is room for them, so that the checks behind them are reached. Whatever is
// accepted must be between the server and the client that it was
// authenticated for.
func FuzzReceive(f *testing.F) {
	r := newRig(f)
	for _, c := range slices.Concat(r.spoofed(), r.genuine()) {
		f.Add(c.payload, true)
		f.Add(c.payload, false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, valid bool) {
		r.TB = t
		s := serverAddr(1)
		if valid {
			payload = r.authenticated(s, payload)
		}
		r.lend(1)
		r.got = r.got[:0]
		refusal := r.w.accept(s, ownAddr, payload)
		r.takeBack()
		if refusal != Accepted && len(r.got) != 0 {
			t.Fatalf("refused as %s, and delivered as %+v", refusal, r.got)
		}
		var p wire.Payload
		if refusal == Accepted && wire.Decode(payload, &p) != wire.OK {
			t.Fatal("accepted what cannot be decoded")
		}
		for _, g := range r.got {
			r.mayDeliver(t, &g, &p, s)
		}
		r.census()
	})
}

// authenticated is the payload with our MACs in all tokens and authenticators.
func (r *rig) authenticated(server uint32, payload []byte) []byte {
	b := append([]byte(nil), payload...)
	var p wire.Payload
	if wire.Decode(b, &p) != wire.OK {
		return b
	}
	if len(p.Token) == wire.MACLen {
		copy(p.Token, r.token(server))
	}
	if len(p.Authenticator) != wire.MACLen {
		return b
	}
	switch {
	case p.Has(wire.TypeEntry):
		copy(p.Authenticator, r.auth(server, address6(p.Entry.Client[:])))
	case p.PacketVersion == 6:
		copy(p.Authenticator, r.auth(server, address6(p.Packet[24:])))
	}
	return b
}

// mayDeliver states the rule in another way than check.go does.
func (r *rig) mayDeliver(t *testing.T, g *conntrack.FromServer, p *wire.Payload, server uint32) {
	if g.Server != server || g.Own != ownAddr {
		t.Fatalf("%+v", g)
	}
	if g.Kind == conntrack.GotEntry {
		if !r.w.keys.CheckAuthenticator(octets4(server), octets6(g.Client), p.Authenticator) || g.MappedPort < 1024 || g.Pool6 != 0 {
			t.Fatalf("%+v", g)
		}
		return
	}
	packet := r.umem.Mem[g.Addr+ethernetHeader:][:g.Len-ethernetHeader]
	if g.Kind == conntrack.GotPacket && p.Has(wire.TypeEntry) {
		packet = unwrapped(packet, ownAddr, func(a [16]byte) bool { return a == within(server) || inside40(a, server) })
	}
	ours, theirs := octets4(ownAddr), octets4(server)
	if packet[0]>>4 == 4 {
		a, b := [4]byte(packet[12:]), [4]byte(packet[16:])
		if g.Kind == conntrack.GotTranslated {
			a, b = b, a
		}
		if a != theirs || b != ours {
			t.Fatalf("%+v %x", g, packet)
		}
		return
	}
	client, host := [16]byte(packet[8:]), [16]byte(packet[24:])
	if g.Kind == conntrack.GotTranslated {
		client, host = host, client
	}
	if !r.w.keys.CheckAuthenticator(octets4(server), client, p.Authenticator) || host != within(server) && !inside40(host, server) {
		t.Fatalf("%+v %x", g, packet)
	}
}

// unwrapped is the packet, or for an ICMP error that came to us or to the
// server's address the quoted one with its ends exchanged: it went the other
// way.
func unwrapped(packet []byte, own uint32, isHost func([16]byte) bool) []byte {
	if packet[0]>>4 == 4 && packet[9] == 1 && [4]byte(packet[16:]) == octets4(own) {
		quote := bytes.Clone(packet[int(packet[0]&15)*4:])
		if len(quote) >= 28 && slices.Contains([]byte{3, 4, 11, 12}, quote[0]) && quote[8]>>4 == 4 {
			quote = quote[8:]
			copy(quote[12:], append(bytes.Clone(quote[16:20]), quote[12:16]...))
			return quote
		}
	}
	if packet[0]>>4 == 6 && packet[6] == 58 && isHost([16]byte(packet[24:])) && len(packet) >= 88 && packet[40] < 128 && packet[48]>>4 == 6 {
		quote := bytes.Clone(packet[48:])
		copy(quote[8:], append(bytes.Clone(quote[24:40]), quote[8:24]...))
		return quote
	}
	return packet
}

// inside40 compares what the /40 prefix fixes: the suffix is free.
func inside40(a [16]byte, server uint32) bool {
	want := within40(server)
	a[8] = want[8]
	return string(a[:10]) == string(want[:10])
}
