package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// ErrorFlow64 is ErrorFlow46 for the other direction.
type ErrorFlow64 struct {
	Src, Dst                   uint32
	InnerSrc, InnerDst         uint32
	InnerSrcPort, InnerDstPort uint16
}

// Error6to4 translates the ICMPv6 error p, which quotes the packet inner, into
// an ICMPv4 error (RFC 7915 §5.2, §5.3) and returns where it starts and ends.
// inner was parsed with p.End as its end. All of the quote is kept: it shrinks.
func Error6to4(b []byte, p, inner *packet.Parsed, f *ErrorFlow64, o *Options) (start, end int, s Status) {
	m, s := judge64(b, p, inner, o)
	if s != OK {
		return 0, 0, s
	}
	const outer = packet.IPv4Len + packet.ICMPLen
	// The attribute is octet 4 in ICMPv6, types 1 and 3 only, and octet 5 in
	// ICMPv4 (RFC 4884 §4).
	to, ext := int(p.End), false
	if p.ICMPType == packet.ICMPv6Unreachable || p.ICMPType == packet.ICMPv6TimeExceeded {
		to, ext = extension(b, p, inner, int(p.L4)+4, 8)
	}
	q := newQuote(p, inner, to, ext, true, packet.IPv4Len, outer, 4, 0xffff)
	start = q.l4 - packet.IPv4Len - outer
	if start < 0 { // padding in front of an extension can outgrow what the headers lose
		return 0, 0, NoHeadroom
	}
	m.rest |= uint32(q.length/4) << 16
	total := int(binary.BigEndian.Uint16(b[inner.L3+packet.IPv6PayloadLen:])) + packet.IPv6Len
	n := total - int(inner.L4-inner.L3) // of the quoted upper layer when it was sent, though less may be here

	q.move(b)
	inner64(b[q.l4:q.l4+q.seen], inner, n, f)
	innerHeader64(b, q.l4, n, inner, f, o)
	icmp := start + packet.IPv4Len
	writeICMP(b[icmp:q.end], m, 0)
	w := first4(p, o) | uint64(uint16(q.end-start))<<32 | idFlags(p, q.end-start, o.ID)
	header4((*[packet.IPv4Len]byte)(b[start:]), w, p.TTL-1, packet.ProtoICMP, f.Src, f.Dst)
	return start, q.end, OK
}

// judge64 decides whether and as what the error is translated.
func judge64(b []byte, p, inner *packet.Parsed, o *Options) (icmpHeader, Status) {
	if p.Kind != packet.KindICMPError {
		return icmpHeader{}, UnsupportedProtocol
	}
	if p.MoreFrags {
		return icmpHeader{}, FragmentedICMP
	}
	// The checksum is written anew, so a wrong one must not get that far (RFC
	// 5508 §5, REQ-3).
	sum := packet.Pseudo6(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, uint32(p.End-p.L4), packet.ProtoICMPv6)
	if packet.Fold(packet.Sum(b[p.L4:p.End], sum)) != 0xffff {
		return icmpHeader{}, ICMPChecksum
	}
	m, s := map64(b, p, inner, o)
	if s != OK {
		return m, s
	}
	return m, innerStatus(inner, o)
}

// inner64 translates what is there of the quoted upper layer; n is its length
// when it was sent.
func inner64(u []byte, inner *packet.Parsed, n int, f *ErrorFlow64) {
	if inner.Kind == packet.KindTCP || inner.Kind == packet.KindUDP {
		from := sum6(inner.SrcHi, inner.SrcLo, inner.DstHi, inner.DstLo, inner.SrcPort, inner.DstPort)
		to := sum4(f.InnerSrc, f.InnerDst, f.InnerSrcPort, f.InnerDstPort)
		quotedPorts(u, inner.Kind, f.InnerSrcPort, f.InnerDstPort, packet.Delta(from, to))
		return
	}
	if inner.Kind == packet.KindOther {
		return // nobody looks at a checksum in a quote
	}
	from := sum6(inner.SrcHi, inner.SrcLo, inner.DstHi, inner.DstLo, inner.SrcPort, 0)
	echo64(u, n, f.InnerSrcPort, packet.Delta(from, uint64(f.InnerSrcPort)))
}

// innerHeader64 writes the quoted packet's IPv4 header so that it ends at l4.
// The TTL is the hop limit as it stands (RFC 7915 §5.3). The identification
// that the packet had as IPv4 is not known any more; unless a fragment header
// has kept it, it is zero. A length that IPv4 cannot express, which no packet
// of ours had, becomes the largest.
func innerHeader64(b []byte, l4, n int, inner *packet.Parsed, f *ErrorFlow64, o *Options) {
	proto := inner.Proto
	if proto == packet.ProtoICMPv6 {
		proto = packet.ProtoICMP
	}
	size := min(n+packet.IPv4Len, 0xffff)
	w := first4(inner, o) | uint64(uint16(size))<<32 | idFlags(inner, size, 0)
	h := (*[packet.IPv4Len]byte)(b[l4-packet.IPv4Len:])
	header4(h, w, inner.TTL, proto, f.InnerSrc, f.InnerDst)
}
