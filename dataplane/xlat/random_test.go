package xlat

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// generator makes random valid packets. One seed, one sequence.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, 64))}
}

func (g generator) octets(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// word is a port or identifier; the extremes come often.
func (g generator) word() uint16 {
	switch g.IntN(8) {
	case 0:
		return 0
	case 1:
		return 0xffff
	}
	return uint16(g.Uint32())
}

// address makes an address of 4 or 16 octets; runs of zeros and ones come often.
func (g generator) address(n int) []byte {
	switch g.IntN(8) {
	case 0:
		return make([]byte, n)
	case 1:
		return bytes.Repeat([]byte{0xff}, n)
	}
	return g.octets(n)
}

// size is a payload length: small ones mostly, now and then up to a full packet.
func (g generator) size() int {
	if g.IntN(4) == 0 {
		return g.IntN(1400)
	}
	return g.IntN(80)
}

// packet makes a packet that has a right checksum, as a model.
func (g generator) packet(v6, mayFragment bool) reference.Packet {
	n := 4
	if v6 {
		n = 16
	}
	m := reference.Packet{Src: g.address(n), Dst: g.address(n), TOS: byte(g.Uint32()), TTL: byte(g.IntN(254) + 2)}
	body := g.octets(g.size())
	switch g.IntN(4) {
	case 0:
		m.Proto = 6
		h := g.octets(20)
		h[12] = 0x50
		m.Upper = slices.Concat(h, body)
	case 1:
		m.Proto = 58
		m.Upper = slices.Concat([]byte{128 + byte(g.IntN(2)), 0}, g.octets(6), body)
		if !v6 {
			m.Proto = 1
			m.Upper[0] = []byte{8, 0}[m.Upper[0]-128]
		}
	default:
		m.Proto = 17
		m.Upper = slices.Concat(g.octets(8), body)
		binary.BigEndian.PutUint16(m.Upper[4:], uint16(len(m.Upper)))
	}
	m.Sent = len(m.Upper)
	m.Fill()
	if v6 {
		m.ID = g.Uint32()
		m.Header = g.IntN(16) == 0 // atomic
	} else {
		m.ID = uint32(uint16(g.Uint32()))
		m.DF = g.IntN(2) == 0
		if m.Proto == 17 && g.IntN(8) == 0 { // no checksum
			m.Upper[6], m.Upper[7] = 0, 0
		}
	}
	if mayFragment && m.Proto != 1 && m.Proto != 58 && m.Sent > 40 && g.IntN(8) == 0 {
		g.fragment(&m)
	}
	return m
}

// fragment keeps a first or a later piece of m.
func (g generator) fragment(m *reference.Packet) {
	m.Header, m.DF = m.V6(), false
	at := 24 + g.IntN(m.Sent-32)&^7
	if g.IntN(2) == 0 {
		m.MF = true
		m.Upper = m.Upper[:at]
		if m.Proto == 17 && m.Upper[6] == 0 && m.Upper[7] == 0 {
			m.Upper[6] = 1 // a first fragment without a checksum is refused
		}
	} else {
		m.Off = at
		m.Upper = m.Upper[at:]
	}
	m.Sent = len(m.Upper)
}

// dress writes m out, at times with extension headers or options that the
// translation has to drop.
func (g generator) dress(m reference.Packet) []byte {
	pkt := m.Encode()
	if g.IntN(4) != 0 {
		return pkt
	}
	if m.V6() {
		ext := g.octets(8 + 8*g.IntN(3))
		ext[0], ext[1] = pkt[6], byte(len(ext)/8-1)
		pkt[6] = 60
		pkt = slices.Concat(pkt[:40], ext, pkt[40:])
		binary.BigEndian.PutUint16(pkt[4:], uint16(len(ext))+binary.BigEndian.Uint16(pkt[4:]))
		return pkt
	}
	opt := bytes.Repeat([]byte{1}, 4*(1+g.IntN(10)))
	pkt = slices.Concat(pkt[:20], opt, pkt[20:])
	pkt[0] += byte(len(opt) / 4)
	binary.BigEndian.PutUint16(pkt[2:], uint16(len(opt))+binary.BigEndian.Uint16(pkt[2:]))
	pkt[10], pkt[11] = 0, 0
	binary.BigEndian.PutUint16(pkt[10:], ^uint16(reference.Sum(pkt[:20+len(opt)])))
	return pkt
}

// reference.Endpoint makes what a session would say about a packet.
func (g generator) endpoint(v6 bool) reference.Endpoint {
	n := 4
	if v6 {
		n = 16
	}
	return reference.Endpoint{Src: g.address(n), Dst: g.address(n), SrcPort: g.word(), DstPort: g.word()}
}

func be64(b []byte) (hi, lo uint64) {
	return binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
}

func isEcho(p *packet.Parsed) bool {
	return p.Kind == packet.KindEchoRequest || p.Kind == packet.KindEchoReply
}

// flow64 gives e the form that the translator takes.
func flow64Of(e reference.Endpoint, p *packet.Parsed) *Flow64 {
	f := &Flow64{Src: binary.BigEndian.Uint32(e.Src), Dst: binary.BigEndian.Uint32(e.Dst), SrcPort: e.SrcPort, DstPort: e.DstPort}
	if isEcho(p) {
		f.Delta = EchoDelta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, f)
	} else {
		f.Delta = Delta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, p.DstPort, f)
	}
	return f
}

// flow46 is flow64 for the other direction.
func flow46Of(e reference.Endpoint, p *packet.Parsed) *Flow46 {
	f := &Flow46{SrcPort: e.SrcPort, DstPort: e.DstPort}
	f.SrcHi, f.SrcLo = be64(e.Src)
	f.DstHi, f.DstLo = be64(e.Dst)
	if isEcho(p) {
		f.DstPort = e.SrcPort // the reference puts an identifier into srcPort
		f.Delta = EchoDelta46(p.SrcPort, f)
	} else {
		f.Delta = Delta46(p.Src4, p.Dst4, p.SrcPort, p.DstPort, f)
	}
	return f
}

// fast translates pkt in a frame as the data path does.
func fast(t testing.TB, pkt []byte, e reference.Endpoint, o *Options) ([]byte, Status) {
	t.Helper()
	b := frame(pkt)
	var p packet.Parsed
	if pkt[0]>>4 == 6 {
		if s := packet.Parse6(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
			t.Fatalf("refused when parsed: %v\n%x", s, pkt)
		}
		start, s := V6ToV4(b, &p, flow64Of(e, &p), o)
		return judgeFrame(t, b, pkt, start, int(p.End), headroom, s)
	}
	if s := packet.Parse4(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("refused when parsed: %v\n%x", s, pkt)
	}
	start, s := V4ToV6(b, &p, flow46Of(e, &p), o)
	return judgeFrame(t, b, pkt, start, int(p.End), start, s)
}

// rounds is how many random packets a test looks at.
func rounds(full int) int {
	if testing.Short() {
		return full / 10
	}
	return full
}

// TestAgainstReference compares the translator with the slow one on random
// packets of all kinds, both ways.
func TestAgainstReference(t *testing.T) {
	g := newGenerator(1)
	for i := range rounds(200_000) {
		v6 := i%2 == 0
		m := g.packet(v6, true)
		e := g.endpoint(!v6)
		o := fixtureOptions()
		o.ID = uint16(g.Uint32())
		pkt := g.dress(m)
		got, s := fast(t, pkt, e, o)
		if s != OK {
			t.Fatalf("packet %d refused: %v\n%x", i, s, pkt)
		}
		want := reference.Translate(reference.Decode(pkt), e, o.ID).Encode()
		if compare(t, got, want); t.Failed() {
			t.Fatalf("packet %d: %x", i, pkt)
		}
		if err := reference.CheckSums(got); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
}

// errorAbout wraps a quote of pkt into a random ICMP error.
func (g generator) errorAbout(pkt []byte, v6 bool, header int) reference.Packet {
	quote := pkt[:min(len(pkt), header+8+g.IntN(1200))]
	if v6 {
		quote = quote[:min(len(quote), 1280-48)]
	}
	n, table, proto, unit, attr := 4, reference.ICMP46, byte(1), 4, 5
	if v6 {
		n, table, proto, unit, attr = 16, reference.ICMP64, 58, 8, 4
	}
	var keys [][2]byte
	for k := range table {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]byte) int { return bytes.Compare(a[:], b[:]) })
	k := keys[g.IntN(len(keys))]
	m := reference.Packet{Src: g.address(n), Dst: g.address(n), TOS: byte(g.Uint32()), TTL: byte(g.IntN(254) + 2), Proto: proto}
	m.Upper = []byte{k[0], k[1], 0, 0, 0, 0, 0, 0}
	if k[0] != 4 && g.IntN(3) == 0 { // with an extension structure
		quote = quote[:min(len(quote), 250*unit)]
		padded := max(128, (len(quote)+unit-1)/unit*unit)
		m.Upper[attr] = byte(padded / unit)
		quote = slices.Concat(quote, make([]byte, padded-len(quote)), g.octets(4+4*g.IntN(20)))
	}
	m.Upper = append(m.Upper, quote...)
	m.Sent = len(m.Upper)
	m.Fill()
	return m
}

// TestErrorsAgainstReference compares ICMP errors about random packets, cut
// anywhere, with and without extension structures, both ways.
func TestErrorsAgainstReference(t *testing.T) {
	g := newGenerator(2)
	for i := range rounds(100_000) {
		v6 := i%2 == 0
		about := g.packet(v6, false)
		if about.V6() && g.IntN(8) == 0 && about.Proto != 58 && about.Sent >= 32 {
			about.Header, about.MF = true, true
		}
		whole := g.dress(about)
		header := reference.Decode(whole).HeaderLen(whole)
		m := g.errorAbout(whole, v6, header)
		outer, inner := g.endpoint(!v6), g.endpoint(!v6)
		o := fixtureOptions()
		pkt := g.dress(m)
		got, s := fastError(t, pkt, outer, inner, o)
		if s != OK {
			t.Fatalf("packet %d refused: %v\n%x", i, s, pkt)
		}
		want := reference.Error(reference.Decode(pkt), outer, inner, o.ID).Encode()
		if compare(t, got, want); t.Failed() {
			t.Fatalf("packet %d: %x", i, pkt)
		}
	}
}

// fastError translates an ICMP error in a frame as the data path does.
func fastError(t testing.TB, pkt []byte, outer, inner reference.Endpoint, o *Options) ([]byte, Status) {
	t.Helper()
	b := frame(pkt)
	var p, q packet.Parsed
	if pkt[0]>>4 == 6 {
		if s := packet.Parse6(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
			t.Fatalf("refused when parsed: %v\n%x", s, pkt)
		}
		if s := packet.ParseQuoted6(b, int(p.L4)+8, int(p.End), &q); s != packet.Good {
			t.Fatalf("quote refused when parsed: %v\n%x", s, pkt)
		}
		start, end, s := Error6to4(b, &p, &q, &ErrorFlow64{
			Src: binary.BigEndian.Uint32(outer.Src), Dst: binary.BigEndian.Uint32(outer.Dst),
			InnerSrc: binary.BigEndian.Uint32(inner.Src), InnerDst: binary.BigEndian.Uint32(inner.Dst),
			InnerSrcPort: inner.SrcPort, InnerDstPort: inner.DstPort,
		}, o)
		return judgeFrame(t, b, pkt, start, end, start, s) // an extension's padding may make it grow
	}
	if s := packet.Parse4(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("refused when parsed: %v\n%x", s, pkt)
	}
	if s := packet.ParseQuoted4(b, int(p.L4)+8, int(p.End), &q); s != packet.Good {
		t.Fatalf("quote refused when parsed: %v\n%x", s, pkt)
	}
	f := &ErrorFlow46{InnerSrcPort: inner.SrcPort, InnerDstPort: inner.DstPort}
	f.SrcHi, f.SrcLo = be64(outer.Src)
	f.DstHi, f.DstLo = be64(outer.Dst)
	f.InnerSrcHi, f.InnerSrcLo = be64(inner.Src)
	f.InnerDstHi, f.InnerDstLo = be64(inner.Dst)
	start, end, s := Error4to6(b, &p, &q, f, o)
	return judgeFrame(t, b, pkt, start, end, start, s)
}
