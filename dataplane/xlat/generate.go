package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

const (
	// maxError4 bounds an ICMPv4 error (RFC 1812 §4.3.2.3).
	maxError4 = 576

	// errorTTL is the hop limit of what the translator itself sends.
	errorTTL = 64

	// errorTOS is precedence 6, internetwork control (RFC 1812 §4.3.2.5).
	errorTOS = 0xc0
)

// BuildError6 writes to dst an ICMPv6 error of our own about an IPv6 packet,
// given from its header, and returns its length: at most 1280 octets, as much
// of the packet as fits (RFC 4443 §2.4 (c)). param is the MTU of a Packet Too
// Big or the pointer of a Parameter Problem, otherwise zero. Whether there may
// be an error at all MayAnswer6 has said. The length is zero if dst or the
// packet is too short.
func BuildError6(dst, offending []byte, typ, code uint8, param uint32, srcHi, srcLo uint64) (n int) {
	const headers = packet.IPv6Len + packet.ICMPLen
	if len(dst) < headers || len(offending) < packet.IPv6Len {
		return 0
	}
	toHi := binary.BigEndian.Uint64(offending[packet.IPv6Src:])
	toLo := binary.BigEndian.Uint64(offending[packet.IPv6Src+8:])
	n = headers + copy(dst[headers:min(len(dst), minMTU6)], offending)
	upper := n - packet.IPv6Len
	pseudo := packet.Pseudo6(srcHi, srcLo, toHi, toLo, uint32(upper), packet.ProtoICMPv6)
	writeICMP(dst[packet.IPv6Len:n], icmpHeader{typ, code, param}, pseudo)
	w := uint64(6)<<60 | uint64(upper)<<16 | packet.ProtoICMPv6<<8 | errorTTL
	header6((*[packet.IPv6Len]byte)(dst), w, srcHi, srcLo, toHi, toLo)
	return n
}

// BuildError4 is BuildError6 for IPv4: at most 576 octets (RFC 1812
// §4.3.2.3). param is the next-hop MTU of "fragmentation needed" (RFC 1191
// §4) or the pointer of a Parameter Problem, otherwise zero. The packet has DF
// set and therefore needs no identification (RFC 6864 §4.1).
func BuildError4(dst, offending []byte, typ, code uint8, param uint32, src uint32) (n int) {
	const headers = packet.IPv4Len + packet.ICMPLen
	if len(dst) < headers || len(offending) < packet.IPv4Len {
		return 0
	}
	to := binary.BigEndian.Uint32(offending[packet.IPv4Src:])
	if typ == packet.ICMPv4ParameterProblem {
		param <<= 24 // the pointer is the first octet of the word, the MTU its second half
	}
	n = headers + copy(dst[headers:min(len(dst), maxError4)], offending)
	writeICMP(dst[packet.IPv4Len:n], icmpHeader{typ, code, param}, 0)
	w := uint64(0x45)<<56 | errorTOS<<48 | uint64(n)<<32 | packet.IPv4DF
	header4((*[packet.IPv4Len]byte)(dst), w, errorTTL, packet.ProtoICMP, src, to)
	return n
}

// BuildProbe6 writes to dst the probe that asks an IPv6 host whether a TCP
// connection lives (RFC 6146 §3.5.2.2): no data, the ACK flag alone, sequence
// and acknowledgment number zero. It returns its length, zero if dst is too
// short.
func BuildProbe6(dst []byte, srcHi, srcLo, dstHi, dstLo uint64, srcPort, dstPort uint16) (n int) {
	const upper, ack = 20, 0x10
	if n = packet.IPv6Len + upper; len(dst) < n {
		return 0
	}
	u := dst[packet.IPv6Len:n]
	clear(u)
	binary.BigEndian.PutUint16(u[0:], srcPort)
	binary.BigEndian.PutUint16(u[2:], dstPort)
	u[12], u[13] = upper/4<<4, ack
	pseudo := packet.Pseudo6(srcHi, srcLo, dstHi, dstLo, upper, packet.ProtoTCP)
	binary.BigEndian.PutUint16(u[16:], ^packet.Fold(packet.Sum(u, pseudo)))
	w := uint64(6)<<60 | upper<<16 | packet.ProtoTCP<<8 | errorTTL
	header6((*[packet.IPv6Len]byte)(dst), w, srcHi, srcLo, dstHi, dstLo)
	return n
}

// MayAnswer6 says whether an ICMPv6 error about p may be sent (RFC 4443 §2.4
// (e)): not about an error or a redirect, not to what is no single node. A
// later fragment of an ICMPv6 message may be part of an error.
func MayAnswer6(p *packet.Parsed) bool {
	switch {
	case p.SrcHi>>56 == 0xff || p.DstHi>>56 == 0xff: // multicast
		return false
	case p.SrcHi == 0 && p.SrcLo <= 1: // unspecified, loopback
		return false
	case p.Kind == packet.KindFragment: // of ICMPv6, or of options that something may follow
		return p.Proto == packet.ProtoTCP || p.Proto == packet.ProtoUDP
	case p.Proto != packet.ProtoICMPv6:
		return true
	}
	return p.ICMPType >= 128 && p.ICMPType != packet.ICMPv6Redirect
}

// MayAnswer4 says whether an ICMPv4 error about p may be sent (RFC 1812
// §4.3.2.7): not about an ICMP message that is or may be an error, not about a fragment other than the first,
// not about what went to many or came from no single host.
func MayAnswer4(p *packet.Parsed) bool {
	switch {
	case p.Kind == packet.KindICMPError || p.Kind == packet.KindICMPOther || p.FragOffset != 0:
		return false
	case p.Dst4>>28 >= 0xe: // multicast, reserved, broadcast
		return false
	case p.Src4>>28 >= 0xe || p.Src4>>24 == 0 || p.Src4>>24 == 127:
		return false
	}
	return true
}
