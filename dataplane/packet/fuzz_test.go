package packet

import (
	"testing"
	"unsafe"
)

// checkOffsets holds a parsed packet to what its users rely on without
// checking again.
func checkOffsets(t *testing.T, b []byte, p *Parsed, ip int, quoted bool) {
	t.Helper()
	l3, l4, end := int(p.L3), int(p.L4), int(p.End)
	if l4 < l3+ip || l4 > end || end > len(b) {
		t.Fatalf("L3 %d, L4 %d, end %d of %d", l3, l4, end, len(b))
	}
	least := map[Kind]int{KindTCP: TCPLen, KindUDP: UDPLen, KindEchoRequest: 8, KindEchoReply: 8, KindICMPError: 8, KindICMPOther: 8}[p.Kind]
	if quoted {
		least = min(least, 8)
	}
	if end-l4 < least {
		t.Fatalf("kind %d with %d octets", p.Kind, end-l4)
	}
	if (p.Kind == KindFragment) != (p.FragOffset != 0) {
		t.Fatalf("kind %d at offset %d", p.Kind, p.FragOffset)
	}
	if p.FragHeader != 0 && (int(p.FragHeader) < l3+ip || int(p.FragHeader)+FragmentLen > l4) {
		t.Fatalf("fragment header at %d, L4 at %d", p.FragHeader, l4)
	}
}

func FuzzParse6(f *testing.F) {
	f.Add(ipv6(17, udp6), uint8(0))
	f.Add(ipv6(6, tcp6), uint8(14))
	f.Add(ipv6(0, pad60, udp6), uint8(3))
	f.Add(ipv6(44, "11 00 0001 deadcafe", "9c40 01bb 0400 abcd"), uint8(0))
	f.Add(ipv6(43, rh1, udp6), uint8(0))
	f.Fuzz(func(t *testing.T, pkt []byte, front uint8) {
		b := append(make([]byte, front), pkt...)
		var p Parsed
		if s := Parse6(b, int(front), &p); s == Good {
			checkOffsets(t, b, &p, IPv6Len, false)
		} else if int(s) >= NumStatus {
			t.Fatalf("status %d", s)
		} else if s == SegmentsLeft || s == TooManyHeaders || s == MisplacedHopByHop {
			at := int(p.L4)
			if named := PointerTo6(b, int(front), at); named < IPv6NextHeader || named >= at-int(front) {
				t.Fatalf("the header at %d is named by octet %d", at-int(front), named)
			}
			if ReadOn6(b, &p) && (int(p.L4) <= at || p.L4 > p.End || int(p.End) > len(b)) {
				t.Fatalf("L4 %d behind the header at %d, end %d of %d", p.L4, at, p.End, len(b))
			}
		}
	})
}

func FuzzParse4(f *testing.F) {
	f.Add(ipv4(17, 0, "", udp6), uint8(0))
	f.Add(ipv4(6, 0x4000, "", tcp6), uint8(14))
	f.Add(ipv4(17, 0, "94040000 01010100", udp6), uint8(3))
	f.Add(ipv4(17, 0x000d, "", "0011"), uint8(0))
	f.Fuzz(func(t *testing.T, pkt []byte, front uint8) {
		b := append(make([]byte, front), pkt...)
		var p Parsed
		if s := Parse4(b, int(front), &p); s == Good {
			checkOffsets(t, b, &p, IPv4Len, false)
			if n := int(b[p.L3]&15) * 4; slowSum(b[p.L3:int(p.L3)+n]) != 0xffff {
				t.Fatal("a wrong header checksum passed")
			}
		} else if int(s) >= NumStatus {
			t.Fatalf("status %d", s)
		}
	})
}

func FuzzQuoted(f *testing.F) {
	f.Add(ipv4(17, 0, "", udp6), uint8(0), uint8(0))
	f.Add(ipv6(44, "11 00 0001 deadcafe", "9c40 01bb 0400 abcd"), uint8(48), uint8(3))
	f.Add(ipv6(6, tcp6), uint8(0), uint8(10))
	f.Fuzz(func(t *testing.T, pkt []byte, front, cut uint8) {
		b := append(make([]byte, front), pkt...)
		end := len(b) - int(cut)
		var p Parsed
		if s := ParseQuoted6(b, int(front), end, &p); s == Good {
			checkOffsets(t, b[:end], &p, IPv6Len, true)
		}
		if s := ParseQuoted4(b, int(front), end, &p); s == Good {
			checkOffsets(t, b[:end], &p, IPv4Len, true)
		}
	})
}

// parsers are the hot functions, one packet each.
func parsers() map[string]func(p *Parsed) Status {
	u6, t6, x6 := ipv6(17, udp6), ipv6(6, tcp6), ipv6(0, pad60, udp6)
	u4, t4, o4 := ipv4(17, 0, "", udp6), ipv4(6, 0, "", tcp6), ipv4(17, 0, "94040000", udp6)
	return map[string]func(p *Parsed) Status{
		"6/udp":                func(p *Parsed) Status { return Parse6(u6, 0, p) },
		"6/tcp":                func(p *Parsed) Status { return Parse6(t6, 0, p) },
		"6/udp behind options": func(p *Parsed) Status { return Parse6(x6, 0, p) },
		"4/udp":                func(p *Parsed) Status { return Parse4(u4, 0, p) },
		"4/tcp":                func(p *Parsed) Status { return Parse4(t4, 0, p) },
		"4/udp with options":   func(p *Parsed) Status { return Parse4(o4, 0, p) },
		"quoted 6/udp":         func(p *Parsed) Status { return ParseQuoted6(u6, 0, len(u6), p) },
		"quoted 4/udp":         func(p *Parsed) Status { return ParseQuoted4(u4, 0, len(u4), p) },
	}
}

func BenchmarkParse(b *testing.B) {
	m := parsers()
	for _, name := range []string{"6/udp", "6/tcp", "6/udp behind options", "4/udp", "4/tcp", "4/udp with options", "quoted 6/udp", "quoted 4/udp"} {
		f := m[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			p := new(Parsed)
			for b.Loop() {
				if s := f(p); s != Good {
					b.Fatal(s)
				}
			}
		})
	}
}

func TestNoAllocations(t *testing.T) {
	for name, f := range parsers() {
		p := new(Parsed)
		var last Status
		if n := testing.AllocsPerRun(100, func() { last = f(p) }); n != 0 || last != Good {
			t.Errorf("%s: %v allocations, status %v", name, n, last)
		}
	}
}

// TestParsedSize: a burst of them is read and written once per packet and
// step; growth is a decision, not an accident.
func TestParsedSize(t *testing.T) {
	if n := unsafe.Sizeof(Parsed{}); n != 72 {
		t.Errorf("Parsed has %d octets, not 72", n)
	}
}
