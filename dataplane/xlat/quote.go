package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// minQuote is the least length of a quote that an extension structure follows
// (RFC 4884 §3).
const minQuote = 128

// quote is where the packet inside an ICMP error, and what stands behind it,
// go. Offsets are into the frame. Plain data, used within one call.
//
//	before  [ICMP][inner IP | options][inner L4 ······][extension]
//	after  [ICMP][new inner IP header][inner L4 ······][0][extension]
//	                                 ^l4               ^pad       ^end
//
// The octets from the inner upper layer on stay where they lie, unless an
// extension structure follows and its alignment asks for zeros between the
// two: then the quote moves pad octets to the front.
type quote struct {
	from, to int // the octets of the quote from its upper layer on, as they came
	pad      int
	l4       int // the quote's upper layer after the move
	seen     int // octets of the upper layer that are the quoted packet's
	end      int // of the whole error, after translation
	length   int // octets of the translated quote if an extension follows, else 0
}

// extension finds the end of the quote in the error p whose length attribute
// (RFC 4884 §4) stands at b[attr] in units of unit octets. Without an
// extension, or with an attribute that contradicts the packet, the quote is
// all there is.
func extension(b []byte, p, inner *packet.Parsed, attr, unit int) (to int, ok bool) {
	end := int(p.End)
	to = int(p.L4) + packet.ICMPLen + int(b[attr])*unit
	if b[attr] == 0 || to+4 > end || to < int(inner.L4)+8 {
		return end, false
	}
	return to, true
}

// newQuote lays out the translated quote. header is the length of its new IP
// header; outer that of all in front of it; align and limit are the outgoing
// side's unit of the length attribute and largest error, and keep says whether
// the outgoing type has the attribute at all. An extension that would exceed
// the limit, or that stands further back than the attribute's octet can say, is
// cut off (RFC 7915 §4.2).
func newQuote(p, inner *packet.Parsed, to int, ext, keep bool, header, outer, align, limit int) quote {
	q := quote{from: int(inner.L4), to: to}
	q.l4 = q.from
	q.seen = min(int(inner.End), to) - q.from
	n := header + q.to - q.from
	if ext && keep {
		padded := (max(n, minQuote) + align - 1) / align * align
		if outer+padded+int(p.End)-to <= limit && padded/align <= 0xff {
			q.pad = padded - n
			q.l4 -= q.pad
			q.length = padded
			q.end = int(p.End)
			return q
		}
	}
	q.end = min(q.to, q.l4-header-outer+limit)
	q.seen = min(q.seen, q.end-q.l4)
	return q
}

// move puts the quote to its new place, zeros behind it.
func (q *quote) move(b []byte) {
	if q.pad != 0 {
		copy(b[q.l4:], b[q.from:q.to])
		clear(b[q.to-q.pad : q.to])
	}
}

// innerStatus says whether a quoted packet can be translated.
func innerStatus(inner *packet.Parsed, o *Options) Status {
	switch inner.Kind {
	case packet.KindOther:
		if byAddress(inner, o) == OK {
			return OK
		}
	case packet.KindTCP, packet.KindUDP:
		return OK
	case packet.KindEchoRequest, packet.KindEchoReply:
		if inner.MoreFrags {
			return FragmentedICMP
		}
		return OK
	case packet.KindFragment:
		return InnerFragment
	case packet.KindICMPError:
		return InnerError
	}
	return InnerUnsupported
}

// quotedPorts writes the ports of a quoted TCP or UDP header and updates its
// checksum as far as it is there. A quoted UDP checksum of zero stays: the
// datagram it could be computed from is not here.
func quotedPorts(u []byte, kind packet.Kind, src, dst, delta uint16) {
	binary.BigEndian.PutUint32(u, uint32(src)<<16|uint32(dst))
	if kind == packet.KindUDP {
		if ck := binary.BigEndian.Uint16(u[packet.UDPChecksum:]); ck != 0 {
			binary.BigEndian.PutUint16(u[packet.UDPChecksum:], nonZero(packet.UpdateChecksum(ck, delta)))
		}
		return
	}
	if len(u) >= packet.TCPChecksum+2 {
		ck := binary.BigEndian.Uint16(u[packet.TCPChecksum:])
		binary.BigEndian.PutUint16(u[packet.TCPChecksum:], packet.UpdateChecksum(ck, delta))
	}
}
