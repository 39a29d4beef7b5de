package xlat

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"handoff64/dataplane/packet"
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
func (g generator) packet(v6, mayFragment bool) model {
	n := 4
	if v6 {
		n = 16
	}
	m := model{src: g.address(n), dst: g.address(n), tos: byte(g.Uint32()), ttl: byte(g.IntN(254) + 2)}
	body := g.octets(g.size())
	switch g.IntN(4) {
	case 0:
		m.proto = 6
		h := g.octets(20)
		h[12] = 0x50
		m.upper = slices.Concat(h, body)
	case 1:
		m.proto = 58
		m.upper = slices.Concat([]byte{128 + byte(g.IntN(2)), 0}, g.octets(6), body)
		if !v6 {
			m.proto = 1
			m.upper[0] = []byte{8, 0}[m.upper[0]-128]
		}
	default:
		m.proto = 17
		m.upper = slices.Concat(g.octets(8), body)
		binary.BigEndian.PutUint16(m.upper[4:], uint16(len(m.upper)))
	}
	m.sent = len(m.upper)
	m.fill()
	if v6 {
		m.id = g.Uint32()
		m.header = g.IntN(16) == 0 // atomic
	} else {
		m.id = uint32(uint16(g.Uint32()))
		m.df = g.IntN(2) == 0
		if m.proto == 17 && g.IntN(8) == 0 { // no checksum
			m.upper[6], m.upper[7] = 0, 0
		}
	}
	if mayFragment && m.proto != 1 && m.proto != 58 && m.sent > 40 && g.IntN(8) == 0 {
		g.fragment(&m)
	}
	return m
}

// fragment keeps a first or a later piece of m.
func (g generator) fragment(m *model) {
	m.header, m.df = m.v6(), false
	at := 24 + g.IntN(m.sent-32)&^7
	if g.IntN(2) == 0 {
		m.mf = true
		m.upper = m.upper[:at]
		if m.proto == 17 && m.upper[6] == 0 && m.upper[7] == 0 {
			m.upper[6] = 1 // a first fragment without a checksum is refused
		}
	} else {
		m.off = at
		m.upper = m.upper[at:]
	}
	m.sent = len(m.upper)
}

// dress writes m out, at times with extension headers or options that the
// translation has to drop.
func (g generator) dress(m model) []byte {
	pkt := m.encode()
	if g.IntN(4) != 0 {
		return pkt
	}
	if m.v6() {
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
	binary.BigEndian.PutUint16(pkt[10:], ^uint16(slowSum(pkt[:20+len(opt)])))
	return pkt
}

// endpoint makes what a session would say about a packet.
func (g generator) endpoint(v6 bool) endpoint {
	n := 4
	if v6 {
		n = 16
	}
	return endpoint{g.address(n), g.address(n), g.word(), g.word()}
}

func be64(b []byte) (hi, lo uint64) {
	return binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
}

func isEcho(p *packet.Parsed) bool {
	return p.Kind == packet.KindEchoRequest || p.Kind == packet.KindEchoReply
}

// flow64 gives e the form that the translator takes.
func (e endpoint) flow64(p *packet.Parsed) *Flow64 {
	f := &Flow64{Src: binary.BigEndian.Uint32(e.src), Dst: binary.BigEndian.Uint32(e.dst), SrcPort: e.srcPort, DstPort: e.dstPort}
	if isEcho(p) {
		f.Delta = EchoDelta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, f)
	} else {
		f.Delta = Delta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, p.DstPort, f)
	}
	return f
}

// flow46 is flow64 for the other direction.
func (e endpoint) flow46(p *packet.Parsed) *Flow46 {
	f := &Flow46{SrcPort: e.srcPort, DstPort: e.dstPort}
	f.SrcHi, f.SrcLo = be64(e.src)
	f.DstHi, f.DstLo = be64(e.dst)
	if isEcho(p) {
		f.DstPort = e.srcPort // the reference puts an identifier into srcPort
		f.Delta = EchoDelta46(p.SrcPort, f)
	} else {
		f.Delta = Delta46(p.Src4, p.Dst4, p.SrcPort, p.DstPort, f)
	}
	return f
}

// fast translates pkt in a frame as the data path does.
func fast(t testing.TB, pkt []byte, e endpoint, o *Options) ([]byte, Status) {
	t.Helper()
	b := frame(pkt)
	var p packet.Parsed
	if pkt[0]>>4 == 6 {
		if s := packet.Parse6(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
			t.Fatalf("refused when parsed: %v\n%x", s, pkt)
		}
		start, s := V6ToV4(b, &p, e.flow64(&p), o)
		return judgeFrame(t, b, pkt, start, int(p.End), headroom, s)
	}
	if s := packet.Parse4(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("refused when parsed: %v\n%x", s, pkt)
	}
	start, s := V4ToV6(b, &p, e.flow46(&p), o)
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
		want := refTranslate(decode(pkt), e, o.ID).encode()
		if compare(t, got, want); t.Failed() {
			t.Fatalf("packet %d: %x", i, pkt)
		}
		if err := checkSums(got); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
}

// refICMP64 and refICMP46 are the tables of RFC 7915 §5.2 and §4.2 for the
// errors whose header is all zeros behind the checksum.
var (
	refICMP64 = map[[2]byte][2]byte{
		{1, 0}: {3, 1}, {1, 1}: {3, 10}, {1, 2}: {3, 1}, {1, 3}: {3, 1}, {1, 4}: {3, 3},
		{3, 0}: {11, 0}, {3, 1}: {11, 1}, {4, 1}: {3, 2},
	}
	refICMP46 = map[[2]byte][2]byte{
		{3, 0}: {1, 0}, {3, 1}: {1, 0}, {3, 3}: {1, 4}, {3, 5}: {1, 0}, {3, 6}: {1, 0}, {3, 7}: {1, 0}, {3, 8}: {1, 0},
		{3, 9}: {1, 1}, {3, 10}: {1, 1}, {3, 11}: {1, 0}, {3, 12}: {1, 0}, {3, 13}: {1, 1}, {3, 15}: {1, 1},
		{11, 0}: {3, 0}, {11, 1}: {3, 1},
	}
)

// refError translates an ICMP error. unit and attr are the length attribute's
// unit and octet as it comes in, newUnit and newAttr as it goes out.
func refError(old model, outer, inner endpoint, id uint16) model {
	table, unit, attr, newUnit, newAttr, limit := refICMP64, 8, 4, 4, 5, 65535-20
	if len(old.src) == 4 {
		table, unit, attr, newUnit, newAttr, limit = refICMP46, 4, 5, 8, 4, 1280-40
	}
	to := table[[2]byte{old.upper[0], old.upper[1]}]
	quote, ext := old.upper[8:], []byte(nil)
	if n := int(old.upper[attr]) * unit; n > 0 && len(quote)-n >= 4 {
		quote, ext = quote[:n], quote[n:]
	}
	was := decode(quote)
	behind := quote[len(quote)-(len(quote)-was.headerLen(quote)-len(was.upper)):] // zeros behind a short packet
	now := refHeader(was, inner, 0)
	refUpper(was, &now, inner)
	now.adjust(was)
	quote = slices.Concat(now.encode(), behind)

	m := refHeader(old, outer, id)
	m.ttl--
	m.upper = []byte{to[0], to[1], 0, 0, 0, 0, 0, 0}
	carries := m.proto == 1 || to[0] == 1 || to[0] == 3
	if padded := max((len(quote)+newUnit-1)/newUnit*newUnit, 128); ext != nil && carries && 8+padded+len(ext) <= limit && padded/newUnit <= 255 {
		m.upper[newAttr] = byte(padded / newUnit)
		quote = slices.Concat(quote, make([]byte, padded-len(quote)), ext)
	}
	if to[0] == 4 {
		m.upper[7] = 6 // protocol unreachable points at the next header
	}
	m.upper = append(m.upper, quote[:min(len(quote), limit-8)]...)
	m.sent = len(m.upper)
	m.df = !m.v6() && m.sent+20 > 1260
	m.fill()
	return m
}

// headerLen is where the upper layer starts in the packet that m was decoded from.
func (m model) headerLen(pkt []byte) int {
	if !m.v6() {
		return int(pkt[0]&15) * 4
	}
	return 40 + int(binary.BigEndian.Uint16(pkt[4:])) - m.sent
}

// errorAbout wraps a quote of pkt into a random ICMP error.
func (g generator) errorAbout(pkt []byte, v6 bool, header int) model {
	quote := pkt[:min(len(pkt), header+8+g.IntN(1200))]
	if v6 {
		quote = quote[:min(len(quote), 1280-48)]
	}
	n, table, proto, unit, attr := 4, refICMP46, byte(1), 4, 5
	if v6 {
		n, table, proto, unit, attr = 16, refICMP64, 58, 8, 4
	}
	var keys [][2]byte
	for k := range table {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b [2]byte) int { return bytes.Compare(a[:], b[:]) })
	k := keys[g.IntN(len(keys))]
	m := model{src: g.address(n), dst: g.address(n), tos: byte(g.Uint32()), ttl: byte(g.IntN(254) + 2), proto: proto}
	m.upper = []byte{k[0], k[1], 0, 0, 0, 0, 0, 0}
	if k[0] != 4 && g.IntN(3) == 0 { // with an extension structure
		quote = quote[:min(len(quote), 250*unit)]
		padded := max(128, (len(quote)+unit-1)/unit*unit)
		m.upper[attr] = byte(padded / unit)
		quote = slices.Concat(quote, make([]byte, padded-len(quote)), g.octets(4+4*g.IntN(20)))
	}
	m.upper = append(m.upper, quote...)
	m.sent = len(m.upper)
	m.fill()
	return m
}

// TestErrorsAgainstReference compares ICMP errors about random packets, cut
// anywhere, with and without extension structures, both ways.
func TestErrorsAgainstReference(t *testing.T) {
	g := newGenerator(2)
	for i := range rounds(100_000) {
		v6 := i%2 == 0
		about := g.packet(v6, false)
		if about.v6() && g.IntN(8) == 0 && about.proto != 58 && about.sent >= 32 {
			about.header, about.mf = true, true
		}
		whole := g.dress(about)
		header := decode(whole).headerLen(whole)
		m := g.errorAbout(whole, v6, header)
		outer, inner := g.endpoint(!v6), g.endpoint(!v6)
		o := fixtureOptions()
		pkt := g.dress(m)
		got, s := fastError(t, pkt, outer, inner, o)
		if s != OK {
			t.Fatalf("packet %d refused: %v\n%x", i, s, pkt)
		}
		want := refError(decode(pkt), outer, inner, o.ID).encode()
		if compare(t, got, want); t.Failed() {
			t.Fatalf("packet %d: %x", i, pkt)
		}
	}
}

// fastError translates an ICMP error in a frame as the data path does.
func fastError(t testing.TB, pkt []byte, outer, inner endpoint, o *Options) ([]byte, Status) {
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
			Src: binary.BigEndian.Uint32(outer.src), Dst: binary.BigEndian.Uint32(outer.dst),
			InnerSrc: binary.BigEndian.Uint32(inner.src), InnerDst: binary.BigEndian.Uint32(inner.dst),
			InnerSrcPort: inner.srcPort, InnerDstPort: inner.dstPort,
		}, o)
		return judgeFrame(t, b, pkt, start, end, headroom, s)
	}
	if s := packet.Parse4(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("refused when parsed: %v\n%x", s, pkt)
	}
	if s := packet.ParseQuoted4(b, int(p.L4)+8, int(p.End), &q); s != packet.Good {
		t.Fatalf("quote refused when parsed: %v\n%x", s, pkt)
	}
	f := &ErrorFlow46{InnerSrcPort: inner.srcPort, InnerDstPort: inner.dstPort}
	f.SrcHi, f.SrcLo = be64(outer.src)
	f.DstHi, f.DstLo = be64(outer.dst)
	f.InnerSrcHi, f.InnerSrcLo = be64(inner.src)
	f.InnerDstHi, f.InnerDstLo = be64(inner.dst)
	start, end, s := Error4to6(b, &p, &q, f, o)
	return judgeFrame(t, b, pkt, start, end, start, s)
}
