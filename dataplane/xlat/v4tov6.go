package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// V4ToV6 translates the packet p in b into the IPv6 packet that the flow says
// (RFC 7915 §4.1) and returns where that starts; it ends at p.End. b must
// reach 20 octets (for fragments 28) further to the front than the packet.
// TCP, UDP and echo messages (in fragments only with p.Whole set); fragments other than the first pass with
// addresses only. The TTL was checked to be more than one by the caller, and
// so was the size: see Size6 and NextFragment6.
func V4ToV6(b []byte, p *packet.Parsed, f *Flow46, o *Options) (start int, s Status) {
	l4, end := int(p.L4), int(p.End)
	start = l4 - headers6(p)
	if start < 0 {
		return 0, NoHeadroom
	}
	u := b[l4:end]
	proto := p.Proto
	switch p.Kind {
	case packet.KindUDP:
		ck := binary.BigEndian.Uint16(u[packet.UDPChecksum:])
		if ck == 0 {
			if s := udpZero(u, p, f, o); s != OK {
				return 0, s
			}
			break
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
		proto = packet.ProtoICMPv6
		echo46(u, n, f.DstPort, f.Delta)
	case packet.KindFragment:
		if s := fragmentTail(p, packet.ProtoICMP, o); s != OK {
			return 0, s
		}
		if proto == packet.ProtoICMP {
			proto = packet.ProtoICMPv6
		}
	default:
		if s := anyProtocol(u, p, f.Delta, o); s != OK {
			return 0, s
		}
	}
	n := l4 - start - packet.IPv6Len
	if n != 0 {
		fragmentHeader6((*[packet.FragmentLen]byte)(b[l4-packet.FragmentLen:]), p, proto)
		proto = packet.ProtoFragment
	}
	w := first6(p, o) | uint64(uint16(n+end-l4))<<16 | uint64(proto)<<8 | uint64(p.TTL-1)
	header6((*[packet.IPv6Len]byte)(b[start:]), w, f.SrcHi, f.SrcLo, f.DstHi, f.DstLo)
	return start, OK
}

// first6 is the first word of the IPv6 header: version, traffic class and the
// zero flow label (RFC 7915 §4.1).
func first6(p *packet.Parsed, o *Options) uint64 {
	if o.TrafficClassFromTOS {
		return 6<<60 | uint64(p.TOS)<<52
	}
	return 6 << 60
}

// header6 writes an IPv6 header: w is its first eight octets.
func header6(h *[packet.IPv6Len]byte, w, srcHi, srcLo, dstHi, dstLo uint64) {
	binary.BigEndian.PutUint64(h[0:], w)
	binary.BigEndian.PutUint64(h[8:], srcHi)
	binary.BigEndian.PutUint64(h[16:], srcLo)
	binary.BigEndian.PutUint64(h[24:], dstHi)
	binary.BigEndian.PutUint64(h[32:], dstLo)
}

// fragmentHeader6 writes the fragment header of an IPv4 fragment's translation
// (RFC 7915 §4.1): the identification is the IPv4 one, extended with zeros.
func fragmentHeader6(h *[packet.FragmentLen]byte, p *packet.Parsed, proto uint8) {
	w := uint64(proto)<<56 | uint64(p.FragOffset)<<32 | uint64(uint16(p.ID))
	if p.MoreFrags {
		w |= packet.FragmentMore << 32
	}
	binary.BigEndian.PutUint64(h[:], w)
}

// echo46 is echo64 for the other direction: into the checksum come the
// pseudo-header's length and protocol and the new type (RFC 7915 §4.2).
func echo46(u []byte, n int, id, delta uint16) {
	h := (*[packet.ICMPLen]byte)(u)
	from := uint64(h[packet.ICMPType]) << 8
	h[packet.ICMPType] = echoType6(h[packet.ICMPType])
	d := packet.Delta(from, uint64(h[packet.ICMPType])<<8+uint64(n)+packet.ProtoICMPv6+uint64(delta))
	ck := binary.BigEndian.Uint16(h[packet.ICMPChecksum:])
	binary.BigEndian.PutUint16(h[packet.ICMPChecksum:], packet.UpdateChecksum(ck, d))
	binary.BigEndian.PutUint16(h[packet.ICMPID:], id)
}

// echoType6 maps the type of an ICMPv4 echo message.
func echoType6(t uint8) uint8 {
	if t == packet.ICMPv4EchoRequest {
		return packet.ICMPv6EchoRequest
	}
	return packet.ICMPv6EchoReply
}

// udpZero translates the UDP header of a datagram without a checksum, which
// IPv6 must have: computed over the whole datagram when the configuration
// says so and all of it is there (RFC 7915 §4.5).
func udpZero(u []byte, p *packet.Parsed, f *Flow46, o *Options) Status {
	if !o.UDPZeroCompute {
		return UDPZeroChecksum
	}
	if p.MoreFrags {
		return UDPZeroFragment
	}
	n := binary.BigEndian.Uint16(u[packet.UDPLength:])
	binary.BigEndian.PutUint32(u, uint32(f.SrcPort)<<16|uint32(f.DstPort))
	sum := packet.Pseudo6(f.SrcHi, f.SrcLo, f.DstHi, f.DstLo, uint32(n), packet.ProtoUDP)
	ck := ^packet.Fold(packet.Sum(u[:n], sum))
	binary.BigEndian.PutUint16(u[packet.UDPChecksum:], nonZero(ck))
	return OK
}
