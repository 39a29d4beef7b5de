package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// ErrorFlow46 is what a session says about an ICMPv6 error: the addresses of
// the error itself, and those of the packet inside it with its ports. For a
// quoted echo InnerSrcPort is the identifier. Plain data: copy it freely.
type ErrorFlow46 struct {
	SrcHi, SrcLo, DstHi, DstLo                     uint64
	InnerSrcHi, InnerSrcLo, InnerDstHi, InnerDstLo uint64
	InnerSrcPort, InnerDstPort                     uint16
}

// Error4to6 translates the ICMPv4 error p, which quotes the packet inner, into
// an ICMPv6 error (RFC 7915 §4.2, §4.3) and returns where it starts and ends.
// inner was parsed with p.End as its end. b must reach 150 octets further to
// the front than the ICMP header. The quote grows and is cut so that the whole
// fits 1280 octets (RFC 4443 §2.4 (c)).
func Error4to6(b []byte, p, inner *packet.Parsed, f *ErrorFlow46, o *Options) (start, end int, s Status) {
	m, s := judge46(b, p, inner, o)
	if s != OK {
		return 0, 0, s
	}
	const outer = packet.IPv6Len + packet.ICMPLen
	header := headers6(inner)
	// The attribute is octet 5 in ICMPv4 and octet 4 in ICMPv6, where only
	// types 1 and 3 have it (RFC 4884 §4).
	to, ext := extension(b, p, inner, int(p.L4)+5, 4)
	keep := m.typ == packet.ICMPv6Unreachable || m.typ == packet.ICMPv6TimeExceeded
	q := newQuote(p, inner, to, ext, keep, header, outer, 8, minMTU6)
	start = q.l4 - header - outer
	if start < 0 {
		return 0, 0, NoHeadroom
	}
	m.rest |= uint32(q.length/8) << 24
	total := int(binary.BigEndian.Uint16(b[inner.L3+packet.IPv4TotalLen:]))
	n := total - int(inner.L4-inner.L3) // of the quoted upper layer when it was sent, though less may be here

	q.move(b)
	inner46(b[q.l4:q.l4+q.seen], inner, n, f)
	innerHeader46(b, q.l4, n, inner, f, o)
	icmp := start + packet.IPv6Len
	sum := packet.Pseudo6(f.SrcHi, f.SrcLo, f.DstHi, f.DstLo, uint32(q.end-icmp), packet.ProtoICMPv6)
	writeICMP(b[icmp:q.end], m, sum)
	w := first6(p, o) | uint64(uint16(q.end-icmp))<<16 | packet.ProtoICMPv6<<8 | uint64(p.TTL-1)
	header6((*[packet.IPv6Len]byte)(b[start:]), w, f.SrcHi, f.SrcLo, f.DstHi, f.DstLo)
	return start, q.end, OK
}

// judge46 decides whether and as what the error is translated.
func judge46(b []byte, p, inner *packet.Parsed, o *Options) (icmpHeader, Status) {
	if p.Kind != packet.KindICMPError {
		return icmpHeader{}, UnsupportedProtocol
	}
	if p.MoreFrags {
		return icmpHeader{}, FragmentedICMP
	}
	// The checksum is written anew, so a wrong one must not get that far (RFC
	// 5508 §5, REQ-3).
	if packet.Fold(packet.Sum(b[p.L4:p.End], 0)) != 0xffff {
		return icmpHeader{}, ICMPChecksum
	}
	m, s := map46(b, p, inner, o)
	if s != OK {
		return m, s
	}
	return m, innerStatus(inner, o)
}

// inner46 translates what is there of the quoted upper layer; n is its length
// when it was sent.
func inner46(u []byte, inner *packet.Parsed, n int, f *ErrorFlow46) {
	if inner.Kind == packet.KindTCP || inner.Kind == packet.KindUDP {
		from := sum4(inner.Src4, inner.Dst4, inner.SrcPort, inner.DstPort)
		to := sum6(f.InnerSrcHi, f.InnerSrcLo, f.InnerDstHi, f.InnerDstLo, f.InnerSrcPort, f.InnerDstPort)
		quotedPorts(u, inner.Kind, f.InnerSrcPort, f.InnerDstPort, packet.Delta(from, to))
		return
	}
	if inner.Kind == packet.KindOther {
		return // nobody looks at a checksum in a quote
	}
	to := sum6(f.InnerSrcHi, f.InnerSrcLo, f.InnerDstHi, f.InnerDstLo, f.InnerSrcPort, 0)
	echo46(u, n, f.InnerSrcPort, packet.Delta(uint64(inner.SrcPort), to))
}

// innerHeader46 writes the quoted packet's IPv6 header so that it ends at l4.
// The hop limit is the TTL as it stands (RFC 7915 §4.3), the length that of
// the packet when it was sent.
func innerHeader46(b []byte, l4, n int, inner *packet.Parsed, f *ErrorFlow46, o *Options) {
	proto := inner.Proto
	if proto == packet.ProtoICMP {
		proto = packet.ProtoICMPv6
	}
	headers := headers6(inner)
	if headers != packet.IPv6Len {
		fragmentHeader6((*[packet.FragmentLen]byte)(b[l4-packet.FragmentLen:]), inner, proto)
		proto = packet.ProtoFragment
		n += packet.FragmentLen
	}
	w := first6(inner, o) | uint64(uint16(n))<<16 | uint64(proto)<<8 | uint64(inner.TTL)
	header6((*[packet.IPv6Len]byte)(b[l4-headers:]), w, f.InnerSrcHi, f.InnerSrcLo, f.InnerDstHi, f.InnerDstLo)
}

// writeICMP writes an error's header and its checksum over all of u, to which
// the sum of a pseudo-header is added.
func writeICMP(u []byte, m icmpHeader, pseudo uint64) {
	w := uint64(m.typ)<<56 | uint64(m.code)<<48 | uint64(m.rest)
	binary.BigEndian.PutUint64(u, w)
	binary.BigEndian.PutUint16(u[packet.ICMPChecksum:], ^packet.Fold(packet.Sum(u, pseudo)))
}
