package xlat

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// Any octets at all, through the parsers and the translators, against the slow
// translator, which also says what must be refused and why.

// checkAny holds one string of octets to the reference.
func checkAny(t testing.TB, pkt []byte, seed uint64) (translated bool, why string) {
	t.Helper()
	g := newGenerator(seed)
	o := fixtureOptions()
	o.ID, o.TrafficClassFromTOS, o.UDPZeroCompute = uint16(g.Uint32()), g.IntN(4) != 0, g.IntN(4) != 0
	o.MTU6, o.MTU4 = 1280+uint32(g.IntN(8000)), 68+uint32(g.IntN(9000))
	mss := uint16(0)
	if g.IntN(2) == 0 {
		mss = uint16(g.IntN(1500))
	}
	by := &reference.Options{
		ID: o.ID, TrafficClass: o.TrafficClassFromTOS, ComputeUDP: o.UDPZeroCompute, MTU6: int(o.MTU6), MTU4: int(o.MTU4), MSS: mss,
	}
	v := reference.Read(pkt)
	outer, inner := g.endpoint(!v.V6() && v.End > 0), g.endpoint(!v.V6() && v.End > 0)
	var want []byte
	if v.Refuse == "" && reference.IsError(v.Packet) {
		want, v.Refuse = reference.TranslateAnyError(v, outer, inner, by)
	} else if v.Refuse == "" {
		if v.Refuse = reference.Refuses(v.Packet, by); v.Refuse == "" {
			want = reference.TranslateAny(v.Packet, outer, by).Encode()
		}
	}
	got, refused := fastAny(t, pkt, outer, inner, o, mss)
	if refused != v.Refuse {
		t.Fatalf("refused as %q, want %q\n%x", refused, v.Refuse, pkt)
	}
	if v.Refuse != "" {
		return false, v.Refuse
	}
	sameButZero(got, want)
	if compare(t, got, want); t.Failed() {
		t.Fatalf("packet %x", pkt)
	}
	return true, ""
}

// sameButZero gives want got's checksum where one is zero and the other ffff:
// in ones' complement they are the same number.
func sameButZero(got, want []byte) {
	if len(got) != len(want) || len(got) == 0 {
		return
	}
	m := reference.Decode(want)
	at := len(want) - len(m.Upper) + m.ChecksumAt()
	if m.ChecksumAt() < 0 || m.Off != 0 || at+2 > len(want) {
		return
	}
	g, w := got[at:at+2], want[at:at+2]
	if reference.Sum(g)%0xffff == 0 && reference.Sum(w)%0xffff == 0 && !(m.Proto == 17 && reference.Sum(g) == 0) {
		copy(w, g)
	}
}

// fastAny takes the octets through the functions of the data path and names
// their refusal in the reference's words.
func fastAny(t testing.TB, pkt []byte, outer, inner reference.Endpoint, o *Options, mss uint16) ([]byte, string) {
	t.Helper()
	b := frame(pkt)
	var p, q packet.Parsed
	parse, parseQuoted := packet.Parse4, packet.ParseQuoted4
	v6 := len(pkt) > 0 && pkt[0]>>4 == 6
	if v6 {
		parse, parseQuoted = packet.Parse6, packet.ParseQuoted6
	}
	switch s := parse(b[:headroom+len(pkt)], headroom, &p); s {
	case packet.Good:
	case packet.SourceRoute, packet.SegmentsLeft:
		return nil, s.String()
	default:
		return nil, reference.Malformed
	}
	if p.Kind == packet.KindICMPError {
		if parseQuoted(b, int(p.L4)+8, int(p.End), &q) != packet.Good {
			return nil, reference.Quoteless
		}
		got, s := fastError(t, pkt, outer, inner, o)
		return got, refusal(s)
	}
	var start int
	var s Status
	if v6 {
		start, s = V6ToV4(b, &p, flow64Of(outer, &p), o)
	} else {
		start, s = V4ToV6(b, &p, flow46Of(outer, &p), o)
	}
	if s == OK && mss != 0 && p.TCPFlags&2 != 0 {
		ClampMSS(b[p.L4:p.End], mss)
	}
	got, s := judgeFrame(t, b, pkt, start, int(p.End), start, s)
	return got, refusal(s)
}

func refusal(s Status) string {
	if s == OK {
		return ""
	}
	return s.String()
}

// anything makes packets that are right or nearly so.
func (g generator) anything() []byte {
	v6 := g.IntN(2) == 0
	m := g.packet(v6, true)
	if m.Proto == 6 && m.Off == 0 {
		g.tcpOptions(&m)
	}
	if m.Proto == 17 && m.Off == 0 && g.IntN(16) == 0 {
		m.Upper[6], m.Upper[7] = 0, 0
	}
	pkt := g.dress(m)
	if g.IntN(6) == 0 {
		pkt = g.burden(pkt)
	}
	if g.IntN(3) == 0 {
		view := reference.Read(pkt)
		e := g.errorAbout(pkt, v6, view.Start)
		if g.IntN(2) == 0 { // other types, codes, pointers and MTUs than the simple ones
			e.Upper[0], e.Upper[1] = byte(g.IntN(14)), byte(g.IntN(18))
			if v6 {
				e.Upper[0], e.Upper[1] = byte(g.IntN(6)), byte(g.IntN(7))
			}
			copy(e.Upper[4:], g.octets(4))
			if g.IntN(2) == 0 {
				copy(e.Upper[4:], []byte{byte(g.IntN(22)), 0, 0, byte(g.IntN(42))})
			}
			e.Fill()
		}
		pkt = g.dress(e)
	}
	for range g.IntN(4) {
		pkt = g.damage(pkt)
	}
	if len(pkt) >= 20 && pkt[0]>>4 == 4 && g.IntN(8) != 0 {
		g.repair(pkt)
	}
	return pkt
}

// burden puts options or extension headers in front of the upper layer, some
// of which forbid translation.
func (g generator) burden(pkt []byte) []byte {
	if pkt[0]>>4 == 6 {
		for range 1 + g.IntN(5)*g.IntN(3) {
			h := append([]byte{pkt[6], 0}, g.octets(6)...)
			pkt[6] = []byte{0, 43, 43, 60}[g.IntN(4)]
			h[3] = byte(g.IntN(3) / 2)
			pkt = slices.Concat(pkt[:40], h, pkt[40:])
		}
		binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-40))
		return pkt
	}
	n := int(pkt[0]&15) * 4
	options := [][]byte{
		{131, 7, 4, 10, 0, 0, 1, 0}, {137, 7, 8, 10, 0, 0, 1, 0}, {1, 131, 3, 4}, {148, 4, 0, 0}, {7, 7, 4, 0, 0, 0, 0, 1}, {68, 1, 0, 0}, {130, 40, 1, 1}, {137, 0, 0, 0},
	}
	opt := options[g.IntN(len(options))]
	if n+len(opt) > 60 {
		return pkt
	}
	pkt = slices.Concat(pkt[:20], opt, pkt[20:])
	pkt[0] += byte(len(opt) / 4)
	binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
	g.repair(pkt)
	return pkt
}

// tcpOptions puts options into a TCP segment: sensible ones, or any octets.
func (g generator) tcpOptions(m *reference.Packet) {
	opt := g.octets(4 * g.IntN(11))
	if g.IntN(3) != 0 {
		known := [][]byte{{1}, {2, 4, byte(g.IntN(8)), byte(g.Uint32())}, {4, 2}, {3, 3, 7}, {8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, {0}, {2, 3, 9}, {2, 0}}
		opt = opt[:0]
		for len(opt) < 36 && g.IntN(6) != 0 {
			if o := known[g.IntN(len(known))]; len(opt)+len(o) <= 40 {
				opt = append(opt, o...)
			}
		}
		opt = append(opt, make([]byte, (4-len(opt)%4)%4)...)
	}
	if len(m.Upper) < 20 || m.MF {
		return
	}
	m.Upper = slices.Concat(m.Upper[:20], opt, m.Upper[20:])
	m.Upper[12] = byte(5+len(opt)/4) << 4
	m.Sent = len(m.Upper)
	m.Fill()
}

// damage changes one thing: an octet, mostly of the headers, or the length.
func (g generator) damage(pkt []byte) []byte {
	if len(pkt) == 0 {
		return g.octets(g.IntN(64))
	}
	at := g.IntN(len(pkt))
	if g.IntN(4) != 0 {
		at = g.IntN(min(len(pkt), 120))
	}
	switch g.IntN(8) {
	case 0:
		return pkt[:at]
	case 1:
		return append(pkt, g.octets(g.IntN(20))...)
	case 2:
		pkt[at] = 0
	case 3:
		pkt[at] = 0xff
	case 4: // a header or protocol that means something
		pkt[at] = []byte{0, 1, 6, 17, 43, 44, 47, 50, 51, 58, 59, 60, 131, 135, 137}[g.IntN(15)]
	default:
		pkt[at] ^= 1 << g.IntN(8)
	}
	return pkt
}

// repair makes the header checksum right again, and an ICMP error's, so that
// what stands behind them is looked at too.
func (g generator) repair(pkt []byte) {
	n := int(pkt[0]&15) * 4
	if n < 20 || n > len(pkt) {
		return
	}
	pkt[10], pkt[11] = 0, 0
	binary.BigEndian.PutUint16(pkt[10:], ^uint16(reference.Sum(pkt[:n])))
	total := int(binary.BigEndian.Uint16(pkt[2:]))
	if pkt[9] == 1 && total <= len(pkt) && total >= n+8 && g.IntN(4) != 0 {
		pkt[n+2], pkt[n+3] = 0, 0
		binary.BigEndian.PutUint16(pkt[n+2:], ^uint16(reference.Sum(pkt[n:total])))
	}
}

// TestAnythingAgainstReference: XLAT_ROUNDS says how many packets instead.
func TestAnythingAgainstReference(t *testing.T) {
	n := rounds(300_000)
	if s := os.Getenv("XLAT_ROUNDS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	g := newGenerator(3)
	outcomes := map[string]int{}
	for i := range n {
		_, why := checkAny(t, g.anything(), uint64(i))
		outcomes[why]++
	}
	for s := range Status(NumStatus) { // the random packets reach everything, if there are many
		if s != NoHeadroom && outcomes[refusal(s)] == 0 && n >= 300_000 {
			t.Errorf("no packet was refused as %s", s)
		}
	}
	for _, why := range []string{"", reference.Malformed, reference.Quoteless, packet.SourceRoute.String(), packet.SegmentsLeft.String()} {
		if outcomes[why] < n/500 {
			t.Errorf("only %d packets of %d ended as %q", outcomes[why], n, why)
		}
	}
	t.Logf("%d packets: %v", n, outcomes)
}

// FuzzAnything is the same with packets that the fuzzer makes.
func FuzzAnything(f *testing.F) {
	files, err := os.ReadDir("testdata")
	if err != nil {
		f.Fatal(err)
	}
	for i, file := range files {
		if name, hex := bytes.CutSuffix([]byte(file.Name()), []byte(".hex")); hex {
			if pkt := load(f, string(name)); len(pkt) <= 200 {
				f.Add(pkt, uint64(i))
			}
		}
	}
	f.Fuzz(func(t *testing.T, pkt []byte, seed uint64) {
		if len(pkt) <= 2000 {
			checkAny(t, bytes.Clone(pkt), seed)
		}
	})
}
