package xlat

import (
	"bytes"
	"path/filepath"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// addFixtures seeds a fuzz target with the packets of the fixtures that have
// not more than 200 octets.
func addFixtures(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		f.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		if pkt := load(f, name[:len(name)-len(".hex")]); len(pkt) <= 200 {
			f.Add(pkt)
		}
	}
}

// reversed swaps what the session put in for what the packet had.
func reversed(m reference.Packet) reference.Endpoint {
	e := reference.Endpoint{Src: m.Dst, Dst: m.Src}
	if m.Off != 0 {
		return e
	}
	switch m.Proto {
	case 6, 17:
		e.SrcPort = uint16(m.Upper[2])<<8 | uint16(m.Upper[3])
		e.DstPort = uint16(m.Upper[0])<<8 | uint16(m.Upper[1])
	case 1, 58:
		e.SrcPort = uint16(m.Upper[4])<<8 | uint16(m.Upper[5])
		e.DstPort = e.SrcPort
	}
	return e
}

// straight is the reference.Endpoint that gives a packet back what it had.
func straight(m reference.Packet) reference.Endpoint {
	r := reversed(m)
	return reference.Endpoint{Src: m.Src, Dst: m.Dst, SrcPort: r.DstPort, DstPort: r.SrcPort}
}

// FuzzXlatRoundTrip takes any octets that parse as a packet through both
// translators. The way out must agree with the reference, a wrong checksum
// must stay wrong and a right one right, and the way back must restore
// addresses, ports and the whole upper layer.
func FuzzXlatRoundTrip(f *testing.F) {
	addFixtures(f)
	f.Fuzz(func(t *testing.T, pkt []byte) {
		var p packet.Parsed
		parse := packet.Parse4
		if len(pkt) > 0 && pkt[0]>>4 == 6 {
			parse = packet.Parse6
		}
		if len(pkt) > 2000 || parse(pkt, 0, &p) != packet.Good || p.TTL < 3 {
			return
		}
		if p.Kind == packet.KindICMPError {
			fuzzError(t, pkt, &p)
			return
		}
		pkt = pkt[:p.End]
		g := newGenerator(uint64(len(pkt)))
		e := g.endpoint(pkt[0]>>4 == 4)
		o := fixtureOptions()
		there, s := fast(t, pkt, e, o)
		if s != OK {
			return
		}
		old := reference.Decode(pkt)
		compareModels(t, reference.Decode(there), reference.Translate(old, e, o.ID), old)
		back, s := fast(t, there, straight(old), o)
		if s != OK {
			t.Fatalf("the way back: %v", s)
		}
		m := reference.Decode(back)
		if !bytes.Equal(m.Src, old.Src) || !bytes.Equal(m.Dst, old.Dst) || m.TOS != old.TOS || m.TTL != old.TTL-2 || m.Off != old.Off || m.MF != old.MF {
			t.Fatalf("sent %+v, came back as %+v", old, m)
		}
		compareUpper(t, m, old)
	})
}

// compareModels holds a translation to the reference's. Where the checksum was
// wrong the reference has none to offer, and it only must be wrong still.
func compareModels(t *testing.T, got, want, old reference.Packet) {
	t.Helper()
	zero := old.Proto == 17 && old.Off == 0 && old.Upper[6] == 0 && old.Upper[7] == 0
	if old.Off != 0 || old.MF || zero || old.Correct() {
		compareUpper(t, got, want)
	} else if got.Correct() {
		t.Fatalf("a wrong checksum became right: %x", got.Upper)
	}
	got.Upper, want.Upper = nil, nil
	if a, b := got.Encode(), want.Encode(); !bytes.Equal(a, b) {
		t.Fatalf("header %x, want %x", a, b)
	}
}

// compareUpper compares upper layers; a checksum of zero and one of ffff are
// the same number.
func compareUpper(t *testing.T, got, want reference.Packet) {
	t.Helper()
	if len(got.Upper) != len(want.Upper) {
		t.Fatalf("%d octets, want %d", len(got.Upper), len(want.Upper))
	}
	at := want.ChecksumAt()
	for i := range want.Upper {
		inSum := want.Off == 0 && at >= 0 && (i == at || i == at+1)
		if !inSum && got.Upper[i] != want.Upper[i] {
			t.Fatalf("octet %d is %02x, want %02x", i, got.Upper[i], want.Upper[i])
		}
	}
	if want.Off != 0 || at < 0 {
		return
	}
	a, b := reference.Sum(got.Upper[at:at+2]), reference.Sum(want.Upper[at:at+2])
	cleared := want.Proto == 17 && b == 0 // a UDP packet that had no checksum got one on the way
	if a%0xffff != b%0xffff && !cleared {
		t.Fatalf("checksum %04x, want %04x", a, b)
	}
}

// fuzzError takes an ICMP error through its translator: whatever it quotes, the
// result must parse, with right checksums and no more than its size allows.
func fuzzError(t *testing.T, pkt []byte, p *packet.Parsed) {
	var inner packet.Parsed
	pkt = pkt[:p.End]
	parseQuoted := packet.ParseQuoted4
	if pkt[0]>>4 == 6 {
		parseQuoted = packet.ParseQuoted6
	}
	if parseQuoted(pkt, int(p.L4)+packet.ICMPLen, len(pkt), &inner) != packet.Good {
		return
	}
	g := newGenerator(uint64(len(pkt)))
	v6 := pkt[0]>>4 == 4
	got, s := fastError(t, pkt, g.endpoint(v6), g.endpoint(v6), fixtureOptions())
	if s != OK {
		return
	}
	if err := reference.CheckSums(got); err != nil {
		t.Fatal(err)
	}
	var q packet.Parsed
	if v6 {
		if s := packet.Parse6(got, 0, &q); s != packet.Good || len(got) > 1280 {
			t.Fatalf("%d octets: %v", len(got), s)
		}
		parseQuoted = packet.ParseQuoted6
	} else {
		if s := packet.Parse4(got, 0, &q); s != packet.Good {
			t.Fatalf("%d octets: %v", len(got), s)
		}
		parseQuoted = packet.ParseQuoted4
	}
	var qi packet.Parsed
	if s := parseQuoted(got, int(q.L4)+packet.ICMPLen, len(got), &qi); s != packet.Good || qi.Kind != inner.Kind {
		t.Fatalf("quote: %v, kind %d, was %d", s, qi.Kind, inner.Kind)
	}
}
