package dataplane

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"handoff64/conntrack"
	"handoff64/dataplane/reference"
)

// modelPackets is how many packets each set-up is given; make soak asks for more.
var modelPackets = flag.Int("model.packets", 100_000, "packets of TestWorkerAgainstModel, for each set-up")

// TestWorkerAgainstModel gives whole workers and the model the same random
// packets of a few hosts, and compares what leaves octet by octet, the drop
// reasons, the mappings and, as time passes, what ends.
func TestWorkerAgainstModel(t *testing.T) {
	for _, tc := range []struct {
		name      string
		workers   int
		dependent bool
	}{{"endpoint-independent", 1, false}, {"address-dependent", 1, true}, {"two workers", 2, false}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := *modelPackets
			if testing.Short() {
				n /= 10
			}
			d := newDuel(t, tc.workers, tc.dependent)
			for i := 0; i < n && !t.Failed(); i++ {
				d.turn()
			}
			t.Logf("%d packets, %d translated, %d of them by hairpinning; %d probes and errors as time passed; %d mappings where a SYN waited", n, d.translated, d.hairpins, d.timely, d.m.invitations)
			if d.translated < n/10 || d.hairpins < n/1000 || d.timely < n/10000 || d.m.invitations < n/10000 {
				t.Error("too little happened to show anything")
			}
		})
	}
}

const duelPool4 = "203.0.113.1"

// duel is the real one and the model, side by side.
type duel struct {
	t    *testing.T
	r    *rig
	m    *natModel
	rnd  *rand.Rand
	sent []byte // the packet of this turn

	translated, hairpins, timely int
}

func newDuel(t *testing.T, workers int, dependent bool) *duel {
	d := &duel{t: t, rnd: rand.New(rand.NewPCG(uint64(workers), 6146))}
	d.r = newRig(t, setup{
		workers: workers,
		rules: func(rs *Rules) {
			rs.Pool4 = NewRanges4([]netip.Prefix{netip.MustParsePrefix(duelPool4 + "/32")})
			rs.AddressDependent = dependent
			rs.ICMPErrorsPerSecond = 1_000_000
		},
		table: func(c *conntrack.Config) {
			c.Pool4 = []conntrack.Pool4Range{{Addr: addr4(duelPool4), First: 1024, Last: 65535}}
		},
	})
	d.m = newModel(dependent, duelPool4, d.mappedPort)
	d.m.now = int(d.r.now)
	return d
}

// mappedPort asks the real one for the port of a client's mapping.
func (d *duel) mappedPort(b bibKey) (port uint16, found bool) {
	d.r.table.BIB(func(i conntrack.BIBInfo) bool {
		if netip6(i.Client) == b.client && i.ClientPort == b.port && (i.Proto == conntrack.ICMP) == b.echo {
			port, found = i.MappedPort, true
		}
		return true
	})
	return port, found
}

// turn is one packet, or some time.
func (d *duel) turn() {
	switch n := d.rnd.IntN(100); {
	case n < 3:
		d.wait()
	case n < 50:
		d.packet(IPv6, d.packet6())
	case n < 88:
		d.packet(IPv4, d.packet4())
	case n < 94:
		d.packet(IPv4, d.error4())
	default:
		d.packet(IPv6, d.error6())
	}
}

// packet gives one to both, and compares.
func (d *duel) packet(side Family, pkt []byte) {
	d.sent = pkt
	if pkt == nil {
		return
	}
	before := d.drops()
	ports := d.r.in6
	if side == IPv4 {
		ports = d.r.in4
	}
	if !ports[queueOf(pkt)%len(ports)].Inject(append(ethernetTo(side), pkt...)) {
		d.t.Fatal("the port is full")
	}
	out6, out4 := d.r.from6()
	var want fate
	if side == IPv6 {
		want = d.m.from6(pkt)
	} else {
		want = d.m.from4(pkt, false)
	}
	d.compare(want, out6, out4)
	for r, n := range d.drops() {
		expected := before[r]
		for _, reason := range []DropReason{want.drop, want.also} {
			if reason != NotDropped && DropReason(r) == reason {
				expected++
			}
		}
		if n != expected {
			d.fail("%d packets dropped as %s, want %d", n-before[r], DropReason(r), expected-before[r])
		}
	}
	if d.rnd.IntN(16) == 0 { // a walk of all ports, so not each time
		if err := d.m.sameMappings(d.r.table); err != nil {
			d.fail("%v", err)
		}
	}
}

// queueOf spreads packets as an interface does: a flow stays on its queue.
func queueOf(pkt []byte) (n int) {
	p := reference.Decode(pkt)
	words := slices.Concat(p.Src, p.Dst)
	if p.Proto == 6 || p.Proto == 17 {
		words = append(words, p.Upper[:4]...)
	}
	for _, b := range words {
		n += int(b)
	}
	return n
}

func (d *duel) drops() (n [dropReasons]uint64) {
	for r := range n {
		n[r] = d.r.drops(DropReason(r))
	}
	return n
}

func (d *duel) fail(format string, args ...any) {
	d.t.Helper()
	d.t.Errorf("%s\nafter % x", fmt.Sprintf(format, args...), d.sent)
}

// compare holds what left to what the model expects. The identification of a
// translated IPv4 packet is drawn at random.
func (d *duel) compare(want fate, out6, out4 [][]byte) {
	d.t.Helper()
	expected := [2]int{}
	if want.out != nil {
		expected[IPv4] = 1
		if want.out.V6() {
			expected = [2]int{1, 0}
		}
	}
	if len(out6) != expected[IPv6] || len(out4) != expected[IPv4] {
		d.fail("%d packets left on the IPv6 side and %d on the IPv4 side, want %v: % x % x", len(out6), len(out4), expected, out6, out4)
		return
	}
	if want.out == nil {
		return
	}
	got := append(out6, out4...)[0][ethernetHeader:]
	w := *want.out
	if want.drop == NotDropped {
		d.translated++
		if !w.V6() {
			w.ID = uint32(binary.BigEndian.Uint16(got[4:]))
		} else if d.sent[0]>>4 == 6 {
			d.hairpins++
		}
	}
	if b := w.Encode(); !bytes.Equal(got, b) {
		d.fail("got  % x\nwant % x", got, b)
	}
}

// wait lets time pass, to a moment at which it is clear what has ended.
func (d *duel) wait() {
	steps := []int{1, 2, 4, 10, 15, 70, 300, 700, 1600}
	to := d.m.now + timeStep*steps[d.rnd.IntN(len(steps))]
	for !d.m.settled(to) {
		to += timeStep
	}
	d.sent = nil
	var got [][]byte
	for int(d.r.now) < to {
		d.r.now += timeStep
		out6, out4 := d.r.from6()
		got = append(append(got, out6...), out4...)
	}
	want := d.m.pass(to)
	if len(got) != len(want) {
		text := ""
		for _, w := range want {
			text += fmt.Sprintf("\n% x", w.Encode())
		}
		d.fail("%d packets left as time passed, want %d: % x; want%s", len(got), len(want), got, text)
		return
	}
	d.timely += len(got)
	for _, w := range want {
		b := w.Encode()
		if i := slices.IndexFunc(got, func(f []byte) bool { return sameButWindow(f[ethernetHeader:], b) }); i < 0 {
			d.fail("as time passed did not leave\n% x\nbut % x", b, got)
		}
	}
	if err := d.m.sameMappings(d.r.table); err != nil {
		d.fail("%v", err)
	}
}

// sameButWindow compares probes, whose window is nobody's business.
func sameButWindow(got, want []byte) bool {
	if len(got) != len(want) || got[0]>>4 == 4 {
		return bytes.Equal(got, want)
	}
	p, q := reference.Decode(got), reference.Decode(want)
	if len(p.Upper) < 20 || !p.Correct() {
		return false
	}
	copy(p.Upper[14:18], q.Upper[14:18])
	p.Fill()
	q.Fill()
	return bytes.Equal(p.Encode(), q.Encode())
}

func pick[T any](d *duel, from ...T) T { return from[d.rnd.IntN(len(from))] }

// client is one of few.
func (d *duel) client() bibKey {
	return bibKey{client: netip.MustParseAddr(pick(d, "2001:db8::17", "2001:db8::18", "2001:db8::19")), port: pick[uint16](d, 40000, 40001, 53, 1024)}
}

func (d *duel) server() (addr []byte, port uint16) {
	return netip.MustParseAddr(pick(d, "198.51.100.7", "198.51.100.8")).AsSlice(), pick[uint16](d, 80, 443)
}

// mapped is a port that is mapped, mostly.
func (d *duel) mapped(echo bool) uint16 {
	var some []uint16
	for b, port := range d.m.bib {
		if b.echo == echo {
			some = append(some, port)
		}
	}
	slices.Sort(some)
	if len(some) == 0 || d.rnd.IntN(8) == 0 {
		return 1024 + uint16(d.rnd.IntN(100))
	}
	return pick(d, some...)
}

// upper fills in TCP, UDP or an echo.
func (d *duel) upper(p *reference.Packet, src, dst uint16) {
	body := make([]byte, d.rnd.IntN(60))
	for i := range body {
		body[i] = byte(d.rnd.Uint32())
	}
	switch p.Proto {
	case 6:
		p.Upper = make([]byte, 20, 80)
		p.Upper[12] = 5 << 4
		p.Upper[13] = pick[byte](d, 0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x11, 0x04, 0x14, 0x00)
	case 17:
		p.Upper = make([]byte, 8, 80)
		binary.BigEndian.PutUint16(p.Upper[4:], uint16(8+len(body)))
	default:
		p.Upper = make([]byte, 8, 80)
		p.Upper[0] = pick[byte](d, 8, 8, 8, 0)
		if p.V6() {
			p.Upper[0] = pick[byte](d, 128, 128, 128, 129)
		}
		binary.BigEndian.PutUint16(p.Upper[4:], src)
	}
	if p.Proto == 6 || p.Proto == 17 {
		binary.BigEndian.PutUint16(p.Upper, src)
		binary.BigEndian.PutUint16(p.Upper[2:], dst)
	}
	p.Upper = append(p.Upper, body...)
	p.Sent = len(p.Upper)
	p.Fill()
	p.TOS, p.TTL = byte(d.rnd.Uint32()), byte(2+d.rnd.IntN(250))
	if d.rnd.IntN(16) == 0 {
		p.TTL = byte(d.rnd.IntN(3))
	}
}

func (d *duel) packet6() []byte {
	c := d.client()
	server, port := d.server()
	p := reference.Packet{Src: c.client.AsSlice(), Proto: pick[byte](d, 6, 6, 17, 58)}
	if p.Proto != 58 && d.rnd.IntN(5) == 0 {
		server, port = d.m.pool4, d.mapped(false)
	}
	p.Dst = embed(server)
	d.upper(&p, c.port, port)
	return p.Encode()
}

func (d *duel) packet4() []byte {
	server, port := d.server()
	p := reference.Packet{Src: server, Dst: d.m.pool4, Proto: pick[byte](d, 6, 6, 17, 1), ID: d.rnd.Uint32() & 0xffff, DF: d.rnd.IntN(2) == 0}
	mapped := d.mapped(p.Proto == 1)
	if p.Proto == 1 {
		d.upper(&p, mapped, mapped)
	} else {
		d.upper(&p, port, mapped)
	}
	if p.Proto == 17 && d.rnd.IntN(8) == 0 {
		p.Upper[6], p.Upper[7] = 0, 0 // no checksum
	}
	return p.Encode()
}

// session is one that has no client behind both its ends.
func (d *duel) session() (k flowKey, found bool) {
	var all []flowKey
	for k := range d.m.sessions {
		if !bytes.Equal(k.server.AsSlice(), d.m.pool4) {
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		return k, false
	}
	slices.SortFunc(all, func(a, b flowKey) int {
		return cmp.Or(a.client.Compare(b.client), cmp.Compare(a.port, b.port), a.server.Compare(b.server),
			cmp.Compare(a.serverPort, b.serverPort), cmp.Compare(a.proto, b.proto))
	})
	return pick(d, all...), true
}

// error4 quotes a packet that a client may have sent.
func (d *duel) error4() []byte {
	k, found := d.session()
	if !found {
		return nil
	}
	mapped := d.m.bib[k.bibKey]
	if d.rnd.IntN(8) == 0 {
		mapped ^= 0x4000
	}
	q := reference.Packet{Src: d.m.pool4, Dst: k.server.AsSlice(), Proto: k.proto}
	d.upper(&q, mapped, k.serverPort)
	return d.about(q, reference.ICMP46, netip.MustParseAddr("192.0.2.77").AsSlice(), 1, 28)
}

// error6 quotes a packet that a client was sent.
func (d *duel) error6() []byte {
	k, found := d.session()
	if !found {
		return nil
	}
	if d.rnd.IntN(8) == 0 {
		k.port ^= 0x4000
	}
	q := reference.Packet{Src: embed(k.server.AsSlice()), Dst: k.client.AsSlice(), Proto: k.proto}
	if k.proto == 1 {
		q.Proto = 58
		d.upper(&q, k.port, 0)
	} else {
		d.upper(&q, k.serverPort, k.port)
	}
	from := pick(d, q.Dst, netip.MustParseAddr("2001:db8:99::1").AsSlice())
	return d.about(q, reference.ICMP64, from, 58, 48)
}

// about wraps a packet into an error of a router's, cut somewhere.
func (d *duel) about(q reference.Packet, table map[[2]byte][2]byte, from []byte, proto byte, least int) []byte {
	var kinds [][2]byte
	for k := range table {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b [2]byte) int { return bytes.Compare(a[:], b[:]) })
	kind := pick(d, kinds...)
	quote := q.Encode()
	quote = quote[:min(len(quote), least+d.rnd.IntN(80))]
	p := reference.Packet{Src: from, Dst: q.Src, Proto: proto, TTL: byte(1 + d.rnd.IntN(200)), TOS: byte(d.rnd.Uint32())}
	p.Upper = append([]byte{kind[0], kind[1], 0, 0, 0, 0, 0, 0}, quote...)
	p.Sent = len(p.Upper)
	p.Fill()
	return p.Encode()
}
