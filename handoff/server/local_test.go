package server

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
	"handoff64/handoff/localnat"
	"handoff64/handoff/tundev"
	"handoff64/handoff/wire"
)

// memoryDevice is a TUN device without a kernel: what is written to it can be
// looked at, what is put into in can be read.
type memoryDevice struct {
	mu      sync.Mutex
	written [][]byte
	in      chan []byte
	closed  sync.Once
}

func newMemoryDevice() *memoryDevice { return &memoryDevice{in: make(chan []byte, 16)} }

func (d *memoryDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	p, ok := <-d.in
	if !ok {
		return 0, os.ErrClosed
	}
	sizes[0] = copy(bufs[0][offset:], p)
	return 1, nil
}

func (d *memoryDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range bufs {
		d.written = append(d.written, bytes.Clone(b[offset:]))
	}
	return 0, nil
}

func (d *memoryDevice) Close() error   { d.closed.Do(func() { close(d.in) }); return nil }
func (d *memoryDevice) BatchSize() int { return 4 }

// take returns what was written and forgets it.
func (d *memoryDevice) take() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.written
	d.written = nil
	return w
}

var testPool = netip.MustParsePrefix("100.64.0.0/24")

// localHarness is a handler that translates.
type localHarness struct {
	*harness
	device *memoryDevice
}

func newLocal(t testing.TB, mode Mode, pool netip.Prefix, live liveness) *localHarness {
	x := &localHarness{newHarness(t, 40, live), newMemoryDevice()}
	x.h.table.pool.use(pool)
	x.h.nat = &nat{
		Translator: localnat.New(), now: newParcels(), bindings: newBindings(pool), committed: new(atomic.Uint64), mtu: 1424,
		device: x.device, counts: &x.h.counts.local,
	}
	x.h.mode = mode
	x.h.now = time.Date(2019, 4, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	return x
}

// known is newLocal with a NAT64 that has been authenticated.
func known(t testing.TB, mode Mode) *localHarness {
	x := newLocal(t, mode, testPool, &fakeSockets{})
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	x.path(1500)
	x.commit()
	return x
}

// path fixes what the way to the NAT64 carries.
func (x *localHarness) path(mtu uint32) {
	p := x.channel().path
	p.mtu.Store(mtu)
	p.asked.Store(1 << 62)
}

// commit makes all durable and returns what was delivered.
func (x *localHarness) commit() [][]byte {
	x.h.nat.now.write(x.device, x.h.nat.counts)
	x.out.handOver(x.device, x.h.nat.counts)
	x.out.parcels = nil
	x.h.nat.committed.Store(x.h.table.nextID - 1)
	return x.device.take()
}

// from6 is a client's packet in a payload.
func from6(pkt []byte) payload { return payload{token: goodToken, auth: goodAuth, packet: pkt} }

// delivered gives a payload and returns the packet that came of it.
func (x *localHarness) delivered(p payload) []byte {
	x.t.Helper()
	x.want(p, delivered)
	got := x.commit()
	if len(got) != 1 {
		x.t.Fatalf("%d packets delivered", len(got))
	}
	return got[0]
}

// upper is the upper layer of a protocol, with a right checksum once filled in.
type upper struct {
	name      string
	proto6    byte
	proto4    byte
	six, four []byte
	pseudoAt  int // offset of a checksum with a pseudo-header, or -1
}

func numbers(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}

func uppers() []upper {
	tcpSegment := append(tcp(53186, 22), numbers(11)...)
	tcpSegment[packet.TCPFlags] = 0x10
	lite := append(udp(53186, 53, ""), numbers(5)...)
	binary.BigEndian.PutUint16(lite[4:], 0) // coverage of all (RFC 3828 §3.1)
	return []upper{
		{name: "TCP", proto6: 6, proto4: 6, six: tcpSegment, pseudoAt: 16},
		{name: "UDP", proto6: 17, proto4: 17, six: udp(53186, 53, "hello"), pseudoAt: 6},
		{name: "echo", proto6: 58, proto4: 1, six: icmp(128, 0, 0x1234_0001, []byte("ping!")), four: icmp(8, 0, 0x1234_0001, []byte("ping!")), pseudoAt: -1},
		{name: "SCTP", proto6: 132, proto4: 132, six: numbers(28), pseudoAt: -1},
		{name: "GRE", proto6: 47, proto4: 47, six: numbers(33), pseudoAt: -1},
		{name: "ESP", proto6: 50, proto4: 50, six: numbers(44), pseudoAt: -1},
		{name: "DCCP", proto6: 33, proto4: 33, six: numbers(24), pseudoAt: 6},
		{name: "UDP-Lite", proto6: 136, proto4: 136, six: lite, pseudoAt: 6},
		{name: "IPv4 in IP", proto6: 4, proto4: 4, six: numbers(20), pseudoAt: -1},
		{name: "experiment", proto6: 253, proto4: 253, six: numbers(1), pseudoAt: -1},
	}
}

// encode writes a packet between two addresses, with every
// checksum computed from nothing.
func encode(src, dst []byte, proto byte, ttl byte, upperLayer []byte, pseudoAt int) []byte {
	m := reference.Packet{Src: src, Dst: dst, Proto: proto, TTL: ttl, Upper: bytes.Clone(upperLayer), Sent: len(upperLayer)}
	if pseudoAt >= 0 {
		binary.BigEndian.PutUint16(m.Upper[pseudoAt:], 0)
		ck := ^uint16(reference.Sum(m.Pseudo(), m.Upper))
		if ck == 0 && proto != 6 {
			ck = 0xffff
		}
		binary.BigEndian.PutUint16(m.Upper[pseudoAt:], ck)
	} else if proto == 58 || proto == 1 {
		m.Fill()
	}
	return m.Encode()
}

// sameID4 gives want the identification that got was given at random.
func sameID4(got, want []byte) {
	copy(want[packet.IPv4ID:], got[packet.IPv4ID:][:2])
	binary.BigEndian.PutUint16(want[packet.IPv4Checksum:], 0)
	binary.BigEndian.PutUint16(want[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(want[:20], 0)))
}

// TestEveryProtocolBothWays: octet for octet what local programs get, and what
// the NAT64 gets of their answers.
func TestEveryProtocolBothWays(t *testing.T) {
	server6 := embed(wellKnown, ownAddr)
	for _, u := range uppers() {
		t.Run(u.name, func(t *testing.T) {
			x := known(t, LocalNAT)
			got := x.delivered(from6(encode(clientAddr[:], server6[:], u.proto6, 60, u.six, u.pseudoAt)))
			address := addr4(got[packet.IPv4Src:])
			if x.h.table.pool.lessee(netip4(address)) == nil {
				t.Fatalf("from %v, which is nobody's", netip4(address))
			}
			four := u.six
			if u.four != nil {
				four = u.four
			}
			want := encode(address[:], ownAddr[:], u.proto4, 59, four, u.pseudoAt)
			if sameID4(got, want); !bytes.Equal(got, want) {
				t.Fatalf("delivered\n%x, want\n%x", got, want)
			}
			// The answer: the same octets the other way, which a reply of each of
			// these protocols could be.
			back := x.answers()
			pkt := encode(ownAddr[:], address[:], u.proto4, 64, four, u.pseudoAt)
			sent := back.take(pkt, notLost)
			if len(sent) != 1 {
				t.Fatalf("%d datagrams", len(sent))
			}
			want6 := encode(server6[:], clientAddr[:], u.proto6, 63, u.six, u.pseudoAt)
			var p wire.Payload
			if s := wire.Decode(sent[0], &p); s != wire.OK || !bytes.Equal(p.Authenticator, goodAuth) || !bytes.Equal(p.Packet, want6) {
				t.Fatalf("sent %v %x\n%x, want\n%x", s, p.Authenticator, p.Packet, want6)
			}
			if form, _ := p.ToNAT64(); form != wire.FormIPv6 {
				t.Errorf("form %v", form)
			}
		})
	}
}

// answersHarness is the way back, with the socket looked into.
type answersHarness struct {
	*answers
	x *localHarness
}

func (x *localHarness) answers() *answersHarness {
	return &answersHarness{newAnswers(x.h.nat, newSender(nil)), x}
}

// take answers one packet, wants an end, and returns the datagrams.
func (a *answersHarness) take(pkt []byte, want loss) (sent [][]byte) {
	a.x.t.Helper()
	copy(a.bufs[0][answerRoom:], pkt)
	a.pieces = a.pieces[:0]
	if l := a.answer(a.bufs[0], answerRoom+len(pkt)); l != want {
		a.x.t.Fatalf("%v, want %v", lossRows[l].name, lossRows[want].name)
	}
	for i := range a.out.n {
		k := a.out.dest[i]
		if k != (destinationKey{ownAddr, nat64Addr, nat64Port}) {
			a.x.t.Fatalf("a datagram goes to %v", k)
		}
		for _, b := range a.out.ms[i].Buffers {
			sent = append(sent, bytes.Clone(b))
		}
	}
	a.out.n = 0
	return sent
}

// TestDeliveredWhenDurable: the first packet waits for the disk, the next does
// not.
func TestDeliveredWhenDurable(t *testing.T) {
	x := known(t, LocalNAT)
	p := from6(ip6(clientAddr, embed(wellKnown, ownAddr), 47, numbers(4)))
	x.want(p, delivered)
	if len(x.out.parcels) != 1 || len(x.h.nat.now.bufs) != 0 || len(x.out.events) != 1 || x.out.events[0].Kind != Created {
		t.Fatalf("%d parcels wait, %d do not; events %+v", len(x.out.parcels), len(x.h.nat.now.bufs), x.out.events)
	}
	address := x.out.events[0].Address
	back := x.answers()
	back.take(ip4(ownAddr, address, 47, numbers(4)), lostEarly)
	x.commit()
	x.want(p, delivered)
	if len(x.out.parcels) != 0 || len(x.h.nat.now.bufs) != 1 || !x.out.idle() {
		t.Fatalf("%d parcels wait, %d do not", len(x.out.parcels), len(x.h.nat.now.bufs))
	}
	if sent := back.take(ip4(ownAddr, address, 47, numbers(4)), notLost); len(sent) != 1 {
		t.Fatalf("%d datagrams", len(sent))
	}
}

// TestAnswersRefused: what local programs send to the pool, and does not leave.
func TestAnswersRefused(t *testing.T) {
	x := known(t, LocalNAT)
	address := addr4(x.delivered(from6(ip6(clientAddr, embed(wellKnown, ownAddr), 17, udp(1, 2, "x"))))[packet.IPv4Src:])
	back := x.answers()
	good := ip4(ownAddr, address, 17, udp(2, 1, "y"))
	old := slices.Clone(good)
	old[packet.IPv4TTL] = 1
	binary.BigEndian.PutUint16(old[packet.IPv4Checksum:], 0)
	binary.BigEndian.PutUint16(old[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(old[:20], 0)))
	for _, c := range []struct {
		pkt  []byte
		want loss
	}{
		{good[:10], lostPacket}, {append([]byte{0x60}, good[1:]...), lostPacket}, {ip4(addr4{198, 51, 100, 2}, address, 17, udp(2, 1, "y")), lostForeign},
		{ip4(ownAddr, addr4{100, 64, 0, 200}, 17, udp(2, 1, "y")), lostNoClient}, {ip4(ownAddr, addr4{100, 65, 0, 1}, 17, udp(2, 1, "y")), lostNoClient},
		{old, lostHops}, {ip4(ownAddr, address, 1, icmp(13, 0, 0, numbers(12))), lostTranslation}, {ip4(ownAddr, address, 58, numbers(8)), lostTranslation},
		{ip4(ownAddr, address, 1, icmp(3, 3, 0, ip4(addr4{100, 64, 0, 99}, ownAddr, 17, udp(1, 2, "x")))), lostForeign},
	} {
		if sent := back.take(c.pkt, c.want); len(sent) != 0 {
			t.Errorf("%x left", c.pkt)
		}
	}
	if told := back.errors.bufs; len(told) != 1 || told[0][tundev.Offset+20] != packet.ICMPv4TimeExceeded {
		t.Errorf("the program was told %x", told)
	}
}

// TestSizes: a program's packet that one control datagram does not carry is
// refused with the size that it does carry, or cut before it is put into one.
func TestSizes(t *testing.T) {
	x := known(t, LocalNAT)
	first := tcp(1, 22) // a SYN, with an MSS option
	first = append(first, 2, 4, 0x05, 0xb4)
	first[packet.TCPOffset] = 0x60
	syn := x.delivered(from6(encode(clientAddr[:], func() []byte { a := embed(wellKnown, ownAddr); return a[:] }(), 6, 60, first, 16)))
	address := addr4(syn[packet.IPv4Src:])
	// 1500 - 28 - 20 (authenticator) - 20 (header) is 1432, the device has 1424.
	if mss := binary.BigEndian.Uint16(syn[42:]); mss != 1424-40 {
		t.Errorf("the client's SYN allows segments of %d", mss)
	}
	back := x.answers()
	synAck := slices.Clone(first)
	copy(synAck, []byte{0, 22, 0, 1})
	synAck[packet.TCPFlags] = 0x12
	sent := back.take(encode(ownAddr[:], address[:], 6, 64, synAck, 16), notLost)
	// 1500 - 28 - 2*20 (token, rotation) - 20 (authenticator) - 4 (hint) - 60.
	if mss := binary.BigEndian.Uint16(sent[0][20+40+22:]); mss != 1348 {
		t.Errorf("the server's SYN allows segments of %d", mss)
	}
	whole := ip4(ownAddr, address, 17, udp(22, 1, string(numbers(1404)))) // 1432
	if sent := back.take(whole, notLost); len(sent) != 1 || len(sent[0]) != 1500-28 {
		t.Fatalf("%d datagrams, the first of %d", len(sent), len(sent[0]))
	}
	x.path(1400)
	dont := ip4(ownAddr, address, 17, udp(22, 1, string(numbers(1404))))
	dont[packet.IPv4FlagsOff] = 0x40
	binary.BigEndian.PutUint16(dont[packet.IPv4Checksum:], 0)
	binary.BigEndian.PutUint16(dont[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(dont[:20], 0)))
	back.take(dont, lostTooBig)
	told := back.errors.bufs[0][tundev.Offset:]
	if told[20] != 3 || told[21] != 4 || binary.BigEndian.Uint16(told[26:]) != 1400-28-20-20 || addr4(told[12:]) != address || addr4(told[16:]) != ownAddr {
		t.Errorf("told %x", told[:28])
	}
	sent = back.take(whole, notLost)
	payloadOctets := 0
	for _, b := range sent {
		var p wire.Payload
		if s := wire.Decode(b, &p); s != wire.OK || len(b) > 1400-28 || p.Packet[6] != packet.ProtoFragment {
			t.Fatalf("a piece of %d octets (%v)", len(b), s)
		}
		payloadOctets += len(p.Packet) - 48
	}
	if len(sent) != 2 || payloadOctets != 1412 {
		t.Errorf("%d pieces with %d octets", len(sent), payloadOctets)
	}
}
