package server

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// victim is a server with two authenticated NAT64s that have entries.
func victim(t testing.TB) *harness {
	x := newAuthenticated(t, 1000, noSockets{})
	x.authenticate(ownAddr, addr4{192, 0, 2, 8}, nat64Port, []byte("the other's token."))
	x.authenticate(addr4{198, 51, 100, 2}, nat64Addr, nat64Port, []byte("of another server!"))
	for n := range uint16(20) {
		x.want(notification(3000+n, clientAddr, 1+n), notified)
	}
	return x
}

// image is all that a spoofed packet must not change.
func image(tb *table) string {
	var b bytes.Buffer
	for _, k := range tb.keys(Filter{}) {
		c := tb.channels[k]
		fmt.Fprintf(&b, "%v %d %x %v\n", k, c.port, c.token, c.knownAs)
		for i := c.oldest(); i != 0; i = c.entries[i].newer {
			fmt.Fprintf(&b, "%v %x\n", c.entries[i], c.clientOf(i).auth)
		}
	}
	return b.String()
}

// spoofed is every kind of packet that somebody without a valid token can send,
// in every size.
func spoofed(r *rand.Rand) (own, from addr4, port uint16, b []byte) {
	own, from, port = ownAddr, nat64Addr, nat64Port
	server := embed(wellKnown, ownAddr)
	filler := string(make([]byte, r.IntN(1200)))
	p := payload{token: make([]byte, 2*r.IntN(40)), auth: make([]byte, 2*r.IntN(40))}
	for i := range p.token {
		p.token[i] = byte(r.Uint32())
	}
	switch r.IntN(9) {
	case 0:
		p.entry = entryOf(3000, addr6{0: 0x20, 15: 66}, 1) // an entry for another client
	case 1:
		p.packet = ip6(clientAddr, server, packet.ProtoUDP, udp(uint16(r.Uint32()), 53, filler))
	case 2:
		p.auth, p.packet = nil, ip4(own, from, packet.ProtoUDP, udp(53, 3000, filler))
	case 3:
		p.packet = ip6(clientAddr, server, packet.ProtoICMPv6, icmp(128, 0, 1, []byte(filler)))
	case 4:
		p.rotation, p.entry = []byte("guess!"), entryOf(3000, clientAddr, 99)
	case 5:
		p.token, p.entry = nil, entryOf(3000, clientAddr, 99)
	case 6:
		p.auth = nil
		mac := wire.AppendValidation(nil, wire.TypeAuthenticator, goodAuth, &[wire.ValidationMACLen]byte{byte(r.Uint32())})
		p.packet = ip4(own, from, packet.ProtoUDP, udp(serverPort, 9, string(mac)))
	case 7:
		var m wire.MultiEntry
		m.Reset(p.token, nil)
		for n := range uint16(1 + r.IntN(30)) {
			m.AddEntry(goodAuth, entryOf(3000+n, clientAddr, 99))
		}
		return own, from, port, m.Bytes()
	case 8:
		p.auth, p.packet = nil, ip4(own, from, uint8(r.Uint32()), []byte(filler[:min(len(filler), 8)]))
	}
	switch r.IntN(6) {
	case 0:
		p.token = []byte("of another server!") // valid, but on another channel
	case 1:
		p.token, port = goodToken, port+1 // valid, but from another port
	case 2:
		p.token, from = goodToken, addr4{203, 0, 113, byte(r.Uint32())}
	case 3:
		p.token, own = goodToken, addr4{198, 51, 100, 2}
	}
	return own, from, port, p.bytes()
}

// TestSpoofedPackets: nothing changes, everything is counted, and what is
// answered is fewer and smaller than what came, in every run of packets long
// enough to be worth an attack.
func TestSpoofedPackets(t *testing.T) {
	x := victim(t)
	before := image(x.h.table)
	random := rand.New(rand.NewPCG(3, 4))
	const n, headers = 100000, packet.IPv4Len + packet.UDPLen
	var in, inOctets, out, outOctets uint64
	for range n {
		own, from, port, b := spoofed(random)
		x.out.reset()
		x.h.begin(&x.out, x.h.clock)
		x.h.handle(&datagram{own: own, from: from, fromPort: port, data: b})
		if !x.out.empty() {
			t.Fatalf("a spoofed packet changes something: %x", b)
		}
		in, inOctets = in+1, inOctets+uint64(headers+len(b))
		for i := range x.out.answers {
			size := len(x.out.payload(&x.out.answers[i]))
			out, outOctets = out+1, outOctets+uint64(headers+size)
			if size > len(b) || len(x.out.answers) > 1 {
				t.Fatalf("%d octets are answered with %d packets, one of %d octets", len(b), len(x.out.answers), size)
			}
		}
	}
	if image(x.h.table) != before {
		t.Fatal("the table has changed")
	}
	t.Logf("reflection: %.3f of the packets, %.3f of the octets", float64(out)/float64(in), float64(outOctets)/float64(inOctets))
	if out*100 > in*61 || outOctets*100 > inOctets*61 || out == 0 {
		t.Errorf("%d packets (%d octets) are answered with %d (%d)", in, inOctets, out, outOctets)
	}
	var st Counters
	x.h.counts.describe(&st)
	total := uint64(0)
	for _, counts := range []map[string]uint64{st.Accepted, st.Refused} {
		for _, c := range counts {
			total += c
		}
	}
	if total != n || st.Accepted["validation"] != out || st.Refused["attenuated"] == 0 || st.Refused["no_token"] == 0 || st.Refused["answer_too_large"] == 0 {
		t.Errorf("%d of %d counted: %+v", total, n, st)
	}
}

// TestBadSources: nobody is answered who cannot be a NAT64.
func TestBadSources(t *testing.T) {
	x := newHarness(t, 100, noSockets{})
	for _, from := range []addr4{{}, {0, 1, 2, 3}, {224, 0, 0, 1}, {255, 255, 255, 255}, {240, 0, 0, 1}} {
		if o, as := x.give(ownAddr, from, nat64Port, notification(2000, clientAddr, 7).bytes()); o != refusedSource || len(as) != 0 {
			t.Errorf("%v: %v", from, o)
		}
	}
	if o, _ := x.give(ownAddr, nat64Addr, 0, notification(2000, clientAddr, 7).bytes()); o != refusedSource {
		t.Errorf("port 0: %v", o)
	}
	x.h.begin(&x.out, x.h.clock)
	d := datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: notification(2000, clientAddr, 7).bytes(), truncated: true}
	if o := x.h.receive(&d); o != refusedTruncated {
		t.Errorf("truncated: %v", o)
	}
}

// TestOneNAT64CannotReachAnothers: what one may do ends at its own channel.
func TestOneNAT64CannotReachAnothers(t *testing.T) {
	x := victim(t)
	before := image(x.h.table)
	other := addr4{192, 0, 2, 8}
	p := notification(3000, clientAddr, 1) // both as in the first one's table
	p.token = []byte("the other's token.")
	if o, _ := x.give(ownAddr, other, nat64Port, p.bytes()); o != notified {
		t.Fatal(o)
	}
	// Packets of the other's are not found in the first one's table.
	for _, pkt := range [][]byte{
		ip4(ownAddr, other, packet.ProtoTCP, tcp(80, 3001)),
		ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(80, 3001)),
	} {
		if o, _ := x.give(ownAddr, other, nat64Port, payload{token: p.token, packet: pkt}.bytes()); o != returned && o != refusedDestination {
			t.Error(o)
		}
	}
	c := x.h.table.channels[channelKey{ownAddr, other}]
	x.h.table.remove(c, c.findMapped(3000), 0, &x.out.changes)
	if image(x.h.table) != before {
		t.Fatal("the first one's entries have changed")
	}
}

// garbage is random octets, and valid payloads with some of them changed.
func garbage(r *rand.Rand, seeds [][]byte, dst []byte) []byte {
	if r.IntN(4) == 0 {
		dst = dst[:r.IntN(200)]
		for i := range dst {
			dst[i] = byte(r.Uint32())
		}
		return dst
	}
	dst = append(dst[:0], seeds[r.IntN(len(seeds))]...)
	for range 1 + r.IntN(4) {
		dst[r.IntN(len(dst))] = byte(r.Uint32())
	}
	return dst[:len(dst)-r.IntN(len(dst))*r.IntN(2)]
}

func seeds(token []byte) (out [][]byte) {
	server := embed(wellKnown, ownAddr)
	q := query(clientAddr, 7, 99)
	echo, host, n := q, q, notification(3000, clientAddr, 1)
	echo.packet = ip6(clientAddr, server, packet.ProtoICMPv6, icmp(128, 0, 1, []byte("ping")))
	host.auth, host.packet = nil, ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(53, 3000, "x"))
	both := q
	both.entry = entryOf(3000, clientAddr, 7)
	for _, p := range []payload{q, echo, host, n, both} {
		p.token = token
		out = append(out, p.bytes())
	}
	var m wire.MultiEntry
	m.Reset(token, nil)
	for k := range uint16(5) {
		m.AddEntry(goodAuth, entryOf(3000+k, clientAddr, 1+k))
	}
	return append(out, slices.Clone(m.Bytes()))
}

// TestGarbage: a million payloads without a valid token change nothing.
func TestGarbage(t *testing.T) {
	x := victim(t)
	before := image(x.h.table)
	random := rand.New(rand.NewPCG(5, 6))
	from := seeds([]byte("no token of anyone"))
	buf := make([]byte, 2048)
	for range 1_000_000 {
		x.out.reset()
		b := garbage(random, from, buf)
		x.h.receive(&datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: b})
		if !x.out.empty() {
			t.Fatalf("garbage changes something: %x", b)
		}
	}
	if image(x.h.table) != before {
		t.Fatal("the table has changed")
	}
	selfcheck(t, x.h.table)
}

// FuzzHandler: whatever an authenticated NAT64 sends, the table stays whole and
// every answer is one that a NAT64 may get.
func FuzzHandler(f *testing.F) {
	for _, s := range seeds(goodToken) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x := victim(t)
		o, as := x.give(ownAddr, nat64Addr, nat64Port, b)
		selfcheck(t, x.h.table)
		if o.refused() && len(as) > 0 || !o.refused() && len(as) == 0 {
			t.Fatalf("%v with %d answers", o, len(as))
		}
		for i := range as {
			var p wire.Payload
			if s := wire.Decode(x.out.payload(&as[i]), &p); s != wire.OK {
				t.Fatalf("%v: an answer is %v", o, s)
			}
			if form, s := p.ToNAT64(); form == wire.FormNone && o != challenged {
				t.Fatalf("%v: an answer is %v", o, s)
			}
		}
	})
}

// TestAuthenticatedGarbage runs the fuzz target's check over many mutations of
// what a NAT64 sends, its token kept.
func TestAuthenticatedGarbage(t *testing.T) {
	x := victim(t)
	random := rand.New(rand.NewPCG(7, 8))
	from := seeds(goodToken)
	buf := make([]byte, 2048)
	head := wire.AppendToken(nil, goodToken)
	for n := range 300_000 {
		x.out.reset()
		b := garbage(random, from, buf)
		copy(b, head)
		o := x.h.receive(&datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: b})
		if o.refused() && len(x.out.answers) > 0 {
			t.Fatalf("%v with %d answers to %x", o, len(x.out.answers), b)
		}
		if n%10000 == 0 {
			selfcheck(t, x.h.table)
		}
	}
}

// TestGarbageOverSocket: a server that garbage rains on goes on answering, and
// every datagram that it reads is counted once.
func TestGarbageOverSocket(t *testing.T) {
	f := newFakeNAT64(t)
	r := start(t, testConfig(t, f))
	server := r.at("127.0.0.1")
	f.authenticate(server)
	entry := f.ask(server, 7)
	random, from, buf := seeded(), seeds([]byte("no token of anyone")), make([]byte, 2048)
	for range 20000 {
		if _, err := f.control.WriteToUDPAddrPort(garbage(random, from, buf), server); err != nil {
			t.Fatal(err)
		}
	}
	// A full receive buffer may lose the next query: a NAT64 would repeat it.
	pkt := ip6(clientAddr, embed(wellKnown, server.Addr().As4()), packet.ProtoTCP, tcp(7, 80))
	var p wire.Payload
	for !p.Has(wire.TypeEntry) {
		f.send(server, payload{token: f.token, auth: goodAuth, packet: pkt})
		if b, _, ok := receive(t, f.control, 100*time.Millisecond); ok && wire.Decode(b, &p) != wire.OK {
			t.Fatalf("answer %x", b)
		}
	}
	if p.Entry != entry {
		t.Fatalf("afterwards: %+v", p.Entry)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	var st Counters
	r.counts.describe(&st)
	total := uint64(0)
	for _, counts := range []map[string]uint64{st.Accepted, st.Refused} {
		for _, n := range counts {
			total += n
		}
	}
	if total != st.Received || st.Received < 1000 || st.Created != 1 {
		t.Fatalf("%d received, %d counted: %+v", st.Received, total, st)
	}
}
