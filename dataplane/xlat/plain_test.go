package xlat

import (
	"bytes"
	"testing"

	"handoff64/dataplane/packet"
)

// FuzzPlain holds the shortcut for plain packets to the parsers and translators:
// what it takes for plain, they take for good, and make the same octets of.
func FuzzPlain(f *testing.F) {
	addFixtures(f)
	f.Fuzz(func(t *testing.T, pkt []byte) {
		if len(pkt) > 1600 || len(pkt) == 0 {
			return
		}
		if pkt[0]>>4 == 6 {
			fuzzPlain6(t, pkt)
		} else {
			fuzzPlain4(t, pkt)
		}
	})
}

// room is a frame with an IP packet at the offset, which ends with it or
// somewhat later.
func room(pkt []byte, at int) []byte {
	b := make([]byte, max(at+len(pkt), len(packet.Window{})))
	copy(b[at:], pkt)
	return b
}

func fuzzPlain6(t *testing.T, pkt []byte) {
	const at = packet.WindowV6
	frame, other := room(pkt, at), room(pkt, at)
	h := (*packet.Window)(frame)
	var p packet.Parsed
	s := packet.Parse6(other[:at+len(pkt)], at, &p)
	if !h.Plain6(at + len(pkt)) {
		if s == packet.Good && (p.Kind == packet.KindUDP || p.Kind == packet.KindTCP && p.TCPFlags&2 == 0) && p.TTL > 1 && p.L4 == packet.WindowL4 &&
			(p.Kind == packet.KindTCP || other[packet.WindowL4+6]|other[packet.WindowL4+7] != 0) {
			t.Fatalf("not plain: %+v", p)
		}
		return
	}
	srcHi, srcLo := h.Src6()
	dstHi, dstLo := h.Dst6()
	proto, n := h.Upper6()
	if s != packet.Good || p.TTL < 2 || p.MoreFrags || p.L4 != packet.WindowL4 || srcHi != p.SrcHi || srcLo != p.SrcLo || dstHi != p.DstHi ||
		dstLo != p.DstLo || h.Ports() != uint32(p.SrcPort)<<16|uint32(p.DstPort) || proto != p.Proto || n != int(p.End)-packet.WindowL4 ||
		p.Kind == packet.KindTCP && h.TCPFlags() != p.TCPFlags {
		t.Fatalf("plain, but %v: %+v", s, p)
	}
	for _, tos := range []bool{false, true} {
		o := Options{ID: 0x1234, TrafficClassFromTOS: tos}
		flow := Flow64{Src: 0xc0000201, Dst: uint32(dstLo), SrcPort: 0xabcd, DstPort: p.DstPort, Delta: 0x5a17}
		a, b := bytes.Clone(frame), bytes.Clone(other)
		Plain64((*packet.Window)(a), flow.Src, flow.SrcPort, flow.Delta, &o)
		start, s := V6ToV4(b, &p, &flow, &o)
		if s != OK || start != packet.WindowV4 || !bytes.Equal(a[start:], b[start:]) {
			t.Fatalf("%v at %d: % x, want % x", s, start, a, b)
		}
	}
}

func fuzzPlain4(t *testing.T, pkt []byte) {
	const at = packet.WindowV4
	frame, other := room(pkt, at), room(pkt, at)
	h := (*packet.Window)(frame)
	var p packet.Parsed
	s := packet.Parse4(other[:at+len(pkt)], at, &p)
	if !h.Plain4(packet.EthernetLen + len(pkt)) {
		if s == packet.Good && (p.Kind == packet.KindUDP || p.Kind == packet.KindTCP && p.TCPFlags&2 == 0) && p.TTL > 1 && p.L4 == packet.WindowL4 &&
			!p.MoreFrags && (p.Kind == packet.KindTCP || other[packet.WindowL4+6]|other[packet.WindowL4+7] != 0) {
			t.Fatalf("not plain: %+v", p)
		}
		return
	}
	proto, n := h.Upper4()
	if s != packet.Good || p.TTL < 2 || p.MoreFrags || p.FragOffset != 0 || p.L4 != packet.WindowL4 || h.Src4() != p.Src4 || h.Dst4() != p.Dst4 ||
		h.Ports() != uint32(p.SrcPort)<<16|uint32(p.DstPort) || proto != p.Proto || n != int(p.End)-packet.WindowL4 ||
		p.Kind == packet.KindTCP && h.TCPFlags() != p.TCPFlags {
		t.Fatalf("plain, but %v: %+v", s, p)
	}
	for _, tos := range []bool{false, true} {
		o := Options{TrafficClassFromTOS: tos}
		flow := Flow46{SrcHi: 1, SrcLo: 2, DstHi: 3, DstLo: 4, SrcPort: p.SrcPort, DstPort: 0xabcd, Delta: 0x5a17}
		a, b := bytes.Clone(frame), bytes.Clone(other)
		Plain46((*packet.Window)(a), 1, 2, 3, 4, flow.DstPort, flow.Delta, &o)
		start, s := V4ToV6(b, &p, &flow, &o)
		if s != OK || start != packet.WindowV6 || !bytes.Equal(a[start:], b[start:]) {
			t.Fatalf("%v at %d: % x, want % x", s, start, a, b)
		}
	}
}
