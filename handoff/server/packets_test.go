package server

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// The cast of the tests.
//
//	client 2001:db8::17 ── NAT64 192.0.2.7:40000 ── server 198.51.100.1:64064
//	                       prefix 64:ff9b::/96      (knownAs: the same)
var (
	ownAddr    = addr4{198, 51, 100, 1}
	nat64Addr  = addr4{192, 0, 2, 7}
	clientAddr = netip.MustParseAddr("2001:db8::17").As16()
	wellKnown  = prefix96{0: 0x00, 1: 0x64, 2: 0xff, 3: 0x9b}
	goodToken  = []byte("token of 18 octets")
	goodAuth   = []byte("auth'r of 18 octet")
)

const (
	nat64Port  = 40000
	serverPort = wire.Port
)

// ip4 makes an IPv4 packet.
func ip4(src, dst addr4, proto uint8, upper []byte) []byte {
	b := make([]byte, packet.IPv4Len, packet.IPv4Len+len(upper))
	b[0], b[packet.IPv4TTL], b[packet.IPv4Proto] = 0x45, 60, proto
	binary.BigEndian.PutUint16(b[packet.IPv4TotalLen:], uint16(len(b)+len(upper)))
	copy(b[packet.IPv4Src:], src[:])
	copy(b[packet.IPv4Dst:], dst[:])
	binary.BigEndian.PutUint16(b[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(b, 0)))
	return append(b, upper...)
}

// ip6 makes an IPv6 packet. An ICMPv6 one gets its checksum.
func ip6(src, dst addr6, next uint8, upper []byte) []byte {
	b := make([]byte, packet.IPv6Len, packet.IPv6Len+len(upper))
	b[0], b[packet.IPv6NextHeader], b[packet.IPv6HopLimit] = 0x60, next, 60
	binary.BigEndian.PutUint16(b[packet.IPv6PayloadLen:], uint16(len(upper)))
	copy(b[packet.IPv6Src:], src[:])
	copy(b[packet.IPv6Dst:], dst[:])
	b = append(b, upper...)
	if next == packet.ProtoICMPv6 {
		setICMP6Checksum(b)
	}
	return b
}

func udp(src, dst uint16, payload string) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(packet.UDPLen+len(payload)))
	b = binary.BigEndian.AppendUint16(b, 0xbeef) // nobody here checks it
	return append(b, payload...)
}

func tcp(src, dst uint16) []byte {
	b := make([]byte, packet.TCPLen)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[packet.TCPOffset], b[packet.TCPFlags] = 0x50, 0x02
	return b
}

// icmp makes a message; IPv4's checksum is put in, ip6 puts in IPv6's.
func icmp(typ, code uint8, rest uint32, body []byte) []byte {
	b := []byte{typ, code, 0, 0}
	b = append(binary.BigEndian.AppendUint32(b, rest), body...)
	binary.BigEndian.PutUint16(b[packet.ICMPChecksum:], ^packet.Fold(packet.Sum(b, 0)))
	return b
}

// payload makes what a NAT64 sends.
type payload struct {
	token, rotation, auth []byte
	entry                 *wire.Entry
	hint                  uint16
	packet                []byte
	bare                  bool // leave out the identifier that an entry needs
}

func (p payload) bytes() (b []byte) {
	if p.token != nil {
		b = wire.AppendToken(b, p.token)
	}
	if p.rotation != nil {
		b = wire.AppendRotation(b, p.rotation)
	}
	if p.auth != nil {
		b = wire.AppendAuthenticator(b, p.auth)
	}
	if p.entry != nil {
		if !p.bare {
			b = wire.AppendIdentifier(b)
		}
		b = wire.AppendEntry(b, p.entry)
	}
	if p.hint != 0 {
		b = wire.AppendHint(b, p.hint)
	}
	if p.packet != nil {
		b = wire.AppendPacket(b, p.packet)
	}
	return b
}

func entryOf(mapped uint16, client addr6, port uint16) *wire.Entry {
	return &wire.Entry{MappedPort: mapped, Prefix: wellKnown, Client: client, ClientPort: port}
}

// query is a client's TCP segment on its way to the server.
func query(client addr6, port, hint uint16) payload {
	return payload{token: goodToken, auth: goodAuth, hint: hint, packet: ip6(client, embed(wellKnown, ownAddr), packet.ProtoTCP, tcp(port, 80))}
}

func notification(mapped uint16, client addr6, port uint16) payload {
	return payload{token: goodToken, auth: goodAuth, entry: entryOf(mapped, client, port)}
}

// noSockets is a host without any.
type noSockets struct{}

func (noSockets) view(int64) (liveSet, uint64, error) { return nil, 1, nil }

// seeded makes tests repeatable.
func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// harness drives a handler without socket and disk. Used by one goroutine.
type harness struct {
	t   testing.TB
	h   *handler
	out batch
}

func newHarness(t testing.TB, maxEntries int, live liveness) *harness {
	x := &harness{t: t}
	x.h = &handler{
		table: newTable(maxEntries, serverPort, live, seeded()), key: wire.NewValidationKey(),
		attenuation: newAttenuator(seeded()), discardPort: 9, counts: &counters{},
	}
	return x
}

// give hands over one datagram and returns what became of it.
func (x *harness) give(own, from addr4, port uint16, b []byte) (outcome, []answer) {
	x.t.Helper()
	x.out.reset()
	x.h.begin(&x.out, time.UnixMicro(x.h.now+1))
	o := x.h.receive(&datagram{own: own, from: from, fromPort: port, data: b})
	x.check()
	return o, x.out.answers
}

// ask is give from the NAT64 of the cast.
func (x *harness) ask(p payload) (outcome, []answer) {
	x.t.Helper()
	return x.give(ownAddr, nat64Addr, nat64Port, p.bytes())
}

// answer decodes the only answer.
func (x *harness) answer(as []answer) (p wire.Payload) {
	x.t.Helper()
	if len(as) != 1 {
		x.t.Fatalf("%d answers, not one", len(as))
	}
	if s := wire.Decode(x.out.payload(&as[0]), &p); s != wire.OK {
		x.t.Fatalf("the answer is no valid payload: %v", s)
	}
	return p
}

// want gives a payload and checks what became of it.
func (x *harness) want(p payload, o outcome) []answer {
	x.t.Helper()
	got, as := x.ask(p)
	if got != o {
		x.t.Fatalf("outcome %v, want %v", got, o)
	}
	if o.refused() && len(as) != 0 {
		x.t.Fatalf("%v and still %d answers", o, len(as))
	}
	return as
}

// challenge sends p until attenuation lets a validation packet through, and
// returns that as the NAT64 sees it: an IPv4 packet.
func (x *harness) challenge(own, from addr4, port uint16, p payload) []byte {
	x.t.Helper()
	for range 4 {
		o, as := x.give(own, from, port, p.bytes())
		if o == refusedAttenuated {
			continue
		}
		if o != challenged || len(as) != 1 {
			x.t.Fatalf("outcome %v with %d answers, want a validation packet", o, len(as))
		}
		a := as[0]
		if a.own != own || a.to != from || a.port != 9 {
			x.t.Fatalf("validation packet from %v to %v:%d", a.own, a.to, a.port)
		}
		return ip4(own, from, packet.ProtoUDP, udp(serverPort, 9, string(x.out.payload(&a))))
	}
	x.t.Fatal("four packets in a row were attenuated")
	return nil
}

// authenticate does the whole handshake of draft §9.
func (x *harness) authenticate(own, from addr4, port uint16, token []byte) {
	x.t.Helper()
	first := notification(2000, clientAddr, 7)
	first.token = token
	back := x.challenge(own, from, port, first)
	o, as := x.give(own, from, port, payload{token: token, packet: back}.bytes())
	if o != returned || len(as) != 1 {
		x.t.Fatalf("the returned validation packet ends as %v with %d answers", o, len(as))
	}
}

func newAuthenticated(t testing.TB, maxEntries int, live liveness) *harness {
	x := newHarness(t, maxEntries, live)
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	return x
}

func (x *harness) channel() *channel { return x.h.table.channels[channelKey{ownAddr, nat64Addr}] }

// check holds the table to its invariants, now and then.
func (x *harness) check() {
	if x.h.now%16 == 0 {
		selfcheck(x.t, x.h.table)
	}
}
