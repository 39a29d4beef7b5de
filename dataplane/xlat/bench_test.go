package xlat

import (
	"testing"

	"handoff64/dataplane/packet"
)

// benchPacket is a fixture in a frame, parsed.
func benchPacket(tb testing.TB, name string) ([]byte, *packet.Parsed) {
	pkt := load(tb, name)
	b := frame(pkt)
	p := new(packet.Parsed)
	parse := packet.Parse6
	if name[0] == '4' {
		parse = packet.Parse4
	}
	if s := parse(b[:headroom+len(pkt)], headroom, p); s != packet.Good {
		tb.Fatal(s)
	}
	return b, p
}

// again makes a frame's upper layer what it was before the translation, so
// that the same frame can be translated again and again. TCP and UDP need
// nothing: ports are written, and the checksum goes on changing by the same
// difference.
func again(b []byte, p *packet.Parsed) {
	if isEcho(p) {
		b[p.L4] = p.ICMPType
	}
}

// translations are the hot functions, one packet each.
func translations(tb testing.TB) map[string]func() Status {
	o := fixtureOptions()
	m := map[string]func() Status{}
	for _, name := range []string{"udp", "tcp", "echo-request", "udp-fragment-last"} {
		b6, p6 := benchPacket(tb, "6-"+name+"-64")
		f64 := flow64(p6)
		m[name+"/64"] = func() Status {
			again(b6, p6)
			_, s := V6ToV4(b6, p6, f64, o)
			return s
		}
		b4, p4 := benchPacket(tb, "4-"+name+"-46")
		f46 := flow46(p4)
		m[name+"/46"] = func() Status {
			again(b4, p4)
			_, s := V4ToV6(b4, p4, f46, o)
			return s
		}
	}
	return m
}

func BenchmarkTranslate(b *testing.B) {
	m := translations(b)
	for _, name := range []string{"udp/64", "udp/46", "tcp/64", "tcp/46", "echo-request/64", "echo-request/46", "udp-fragment-last/64", "udp-fragment-last/46"} {
		f := m[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s := f(); s != OK {
					b.Fatal(s)
				}
			}
		})
	}
}

// errorRun makes a function that translates one ICMP error. The frame is
// written anew each time: the quote's checksums have to be right.
func errorRun(tb testing.TB, name string) func() Status {
	pkt := load(tb, name)
	b := frame(pkt)
	o := fixtureOptions()
	var p, inner packet.Parsed
	if name[0] == '6' {
		packet.Parse6(b[:headroom+len(pkt)], headroom, &p)
		packet.ParseQuoted6(b, int(p.L4)+packet.ICMPLen, int(p.End), &inner)
		f := errorFlow64(&inner)
		return func() Status {
			copy(b[headroom:], pkt)
			_, _, s := Error6to4(b, &p, &inner, f, o)
			return s
		}
	}
	packet.Parse4(b[:headroom+len(pkt)], headroom, &p)
	packet.ParseQuoted4(b, int(p.L4)+packet.ICMPLen, int(p.End), &inner)
	f := errorFlow46(&inner)
	return func() Status {
		copy(b[headroom:], pkt)
		_, _, s := Error4to6(b, &p, &inner, f, o)
		return s
	}
}

func BenchmarkError(b *testing.B) {
	for _, name := range []string{"6-quote-tcp-64", "4-quote-tcp-46", "6-extension-64", "4-extension-46"} {
		f := errorRun(b, name)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s := f(); s != OK {
					b.Fatal(s)
				}
			}
		})
	}
}

func BenchmarkNextFragment6(b *testing.B) {
	src, s := translate46(b, load(b, "4-udp-large-46"), fixtureOptions())
	if s != OK {
		b.Fatal(s)
	}
	dst := make([]byte, 1280)
	b.ReportAllocs()
	for b.Loop() {
		for off := 0; off >= 0; {
			_, off = NextFragment6(dst, src, off, 1280, 1)
		}
	}
}

func BenchmarkPrefix(b *testing.B) {
	p := mustPrefix(b, "64:ff9b::/96")
	hi, lo := p.Embed(0xc0000221)
	b.Run("contains+extract", func(b *testing.B) {
		for b.Loop() {
			if !p.Contains(hi, lo) || p.Extract(hi, lo) != 0xc0000221 {
				b.Fatal("lost the address")
			}
		}
	})
}

// TestNoAllocations: nothing on the packet path allocates.
func TestNoAllocations(t *testing.T) {
	runs := translations(t)
	for _, name := range []string{"6-quote-tcp-64", "4-quote-tcp-46", "6-extension-64", "4-extension-46"} {
		runs[name] = errorRun(t, name)
	}
	dst, src := make([]byte, 1280), load(t, "6-udp-1261-64")
	runs["NextFragment6"] = func() Status { NextFragment6(dst, src, 0, 576, 1); return OK }
	runs["BuildError6"] = func() Status { BuildError6(dst, src, 3, 0, 0, 1, 2); return OK }
	v4 := load(t, "4-udp-1261-64")
	runs["BuildError4"] = func() Status { BuildError4(dst, v4, 11, 0, 0, 1); return OK }
	b, p := benchPacket(t, "4-udp-zero-checksum-46")
	f, o := flow46(p), fixtureOptions()
	runs["zero checksum"] = func() Status {
		b[p.L4+packet.UDPChecksum], b[p.L4+packet.UDPChecksum+1] = 0, 0
		_, s := V4ToV6(b, p, f, o)
		return s
	}
	runs["deltas"] = func() Status {
		f.Delta = Delta46(1, 2, 3, 4, f) + EchoDelta46(5, f)
		return OK
	}
	for name, run := range runs {
		var last Status
		if n := testing.AllocsPerRun(100, func() { last = run() }); n != 0 || last != OK {
			t.Errorf("%s: %v allocations, status %v", name, n, last)
		}
	}
}
