package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// maxUnfragmented4 is the size up to which a translated packet leaves with DF
// clear (RFC 7915 §5.1): 1280 octets of IPv6 come to 1260 of IPv4, and an IPv6
// host need not send smaller packets than that, whatever a router tells it.
const maxUnfragmented4 = 1260

// V6ToV4 translates the packet p in b into the IPv4 packet that the flow says
// (RFC 7915 §5.1) and returns where that starts; it ends at p.End. TCP, UDP
// and echo messages; fragments other than the first pass with addresses only.
// The hop limit was checked to be more than one by the caller.
func V6ToV4(b []byte, p *packet.Parsed, f *Flow64, o *Options) (start int, s Status) {
	l4, end := int(p.L4), int(p.End)
	start = l4 - packet.IPv4Len
	u := b[l4:end]
	proto := p.Proto
	switch p.Kind {
	case packet.KindUDP:
		ck := binary.BigEndian.Uint16(u[packet.UDPChecksum:])
		if ck == 0 {
			return 0, UDPZeroIPv6
		}
		binary.BigEndian.PutUint32(u, uint32(f.SrcPort)<<16|uint32(f.DstPort))
		binary.BigEndian.PutUint16(u[packet.UDPChecksum:], nonZero(packet.UpdateChecksum(ck, f.Delta)))
	case packet.KindTCP:
		ck := binary.BigEndian.Uint16(u[packet.TCPChecksum:])
		binary.BigEndian.PutUint32(u, uint32(f.SrcPort)<<16|uint32(f.DstPort))
		binary.BigEndian.PutUint16(u[packet.TCPChecksum:], packet.UpdateChecksum(ck, f.Delta))
	case packet.KindEchoRequest, packet.KindEchoReply:
		n := len(u)
		if p.MoreFrags {
			if n = int(p.Whole); n == 0 {
				return 0, FragmentedICMP
			}
		}
		proto = packet.ProtoICMP
		echo64(u, n, f.SrcPort, f.Delta)
	case packet.KindFragment:
		if s := fragmentTail(p, packet.ProtoICMPv6, o); s != OK {
			return 0, s
		}
		if proto == packet.ProtoICMPv6 {
			proto = packet.ProtoICMP
		}
	default:
		if s := anyProtocol(u, p, f.Delta, o); s != OK {
			return 0, s
		}
	}
	w := first4(p, o) | uint64(uint16(end-start))<<32 | idFlags(p, end-start, o.ID)
	header4((*[packet.IPv4Len]byte)(b[start:]), w, p.TTL-1, proto, f.Src, f.Dst)
	return start, OK
}

// first4 is the upper half of the IPv4 header's first word: version, a header
// length without options, and TOS (RFC 7915 §5.1).
func first4(p *packet.Parsed, o *Options) uint64 {
	if o.TrafficClassFromTOS {
		return 0x45<<56 | uint64(p.TOS)<<48
	}
	return 0x45 << 56
}

// header4 writes an IPv4 header: w is its first eight octets.
func header4(h *[packet.IPv4Len]byte, w uint64, ttl, proto uint8, src, dst uint32) {
	t := uint64(ttl)<<8 | uint64(proto)
	ck := ^packet.Fold(w>>32 + w&0xffffffff + t + uint64(src) + uint64(dst))
	binary.BigEndian.PutUint64(h[0:], w)
	binary.BigEndian.PutUint64(h[8:], t<<48|uint64(ck)<<32|uint64(src))
	binary.BigEndian.PutUint32(h[packet.IPv4Dst:], dst)
}

// idFlags is the second 32-bit word of the IPv4 header: identification, flags
// and offset. Without a fragment header DF depends on the size (RFC 7915
// §5.1); with one, all three come from it (§5.1.1).
func idFlags(p *packet.Parsed, size int, id uint16) uint64 {
	if p.FragHeader == 0 {
		w := uint64(id) << 16
		if size > maxUnfragmented4 {
			w |= packet.IPv4DF
		}
		return w
	}
	w := uint64(uint16(p.ID))<<16 | uint64(p.FragOffset>>3)
	if p.MoreFrags {
		w |= packet.IPv4MF
	}
	return w
}

// echo64 turns the ICMPv6 echo message at u into an ICMPv4 one: type,
// identifier and checksum. n is its whole length, which may be more than is
// there in a quote. Leaving the checksum are the pseudo-header's length and
// protocol and the old type (RFC 7915 §5.2); the rest is in delta.
func echo64(u []byte, n int, id, delta uint16) {
	h := (*[packet.ICMPLen]byte)(u)
	from := uint64(h[packet.ICMPType])<<8 + uint64(n) + packet.ProtoICMPv6
	h[packet.ICMPType] = echoType4(h[packet.ICMPType])
	d := packet.Delta(from, uint64(h[packet.ICMPType])<<8+uint64(delta))
	ck := binary.BigEndian.Uint16(h[packet.ICMPChecksum:])
	binary.BigEndian.PutUint16(h[packet.ICMPChecksum:], packet.UpdateChecksum(ck, d))
	binary.BigEndian.PutUint16(h[packet.ICMPID:], id)
}

// echoType4 maps the type of an ICMPv6 echo message.
func echoType4(t uint8) uint8 {
	if t == packet.ICMPv6EchoRequest {
		return packet.ICMPv4EchoRequest
	}
	return packet.ICMPv4EchoReply
}

// nonZero is the checksum as UDP writes it: zero would say that there is none
// (RFC 768).
func nonZero(ck uint16) uint16 {
	if ck == 0 {
		return 0xffff
	}
	return ck
}

// fragmentTail judges a fragment other than the first, which is passed without
// a look at its content. ICMP in fragments is translated only when all of the
// message is known: its first fragment needs the whole length for its checksum.
func fragmentTail(p *packet.Parsed, icmp uint8, o *Options) Status {
	switch p.Proto {
	case packet.ProtoTCP, packet.ProtoUDP:
		return OK
	case icmp:
		if p.Whole == 0 {
			return FragmentedICMP
		}
		return OK
	}
	return byAddress(p, o)
}
