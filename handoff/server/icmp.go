package server

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
	"handoff64/handoff/wire"
)

// replyHopLimit is the hop limit of an echo reply of ours.
const replyHopLimit = 64

// echo answers an ICMPv6 echo request to this host (protocol page, §8), which
// minimal mode cannot hand to the kernel: an echo reply after translation, in
// format (b).
func (h *handler) echo(d *datagram, p *wire.Payload) outcome {
	q := &h.parsed
	if q.MoreFrags || q.FragOffset != 0 {
		return refusedFragment
	}
	if !icmp6Valid(p.Packet, q) {
		return refusedChecksum
	}
	upper := p.Packet[q.L4:q.End]
	start := len(h.out.data)
	h.out.data = wire.AppendAuthenticator(h.out.data, p.Authenticator)
	at := len(h.out.data)
	h.out.data = append(h.out.data, make([]byte, packet.IPv6Len)...)
	h.out.data = append(h.out.data, upper...)

	reply := h.out.data[at:]
	reply[0] = 0x60
	binary.BigEndian.PutUint16(reply[packet.IPv6PayloadLen:], uint16(len(upper)))
	reply[packet.IPv6NextHeader], reply[packet.IPv6HopLimit] = packet.ProtoICMPv6, replyHopLimit
	copy(reply[packet.IPv6Src:], p.Packet[packet.IPv6Dst:][:16])
	copy(reply[packet.IPv6Dst:], p.Packet[packet.IPv6Src:][:16])
	reply[packet.IPv6Len+packet.ICMPType] = packet.ICMPv6EchoReply
	setICMP6Checksum(reply)
	h.out.add(d.own, d.from, d.fromPort, start)
	return echoed
}

// unsupported6 tells a client that minimal mode carries TCP and UDP only:
// unrecognized next header (RFC 4443 §3.4), in format (b).
func (h *handler) unsupported6(d *datagram, p *wire.Payload) outcome {
	pointer := uint32(nextHeaderOffset(p.Packet, int(h.parsed.L4)))
	if !h.answer6(d, p, packet.ICMPv6ParameterProblem, unknownNextHeader, pointer) {
		return refusedICMP
	}
	return errored
}

// nextHeaderOffset finds the field that names the protocol at l4, which stands in
// the last extension header or, without any, in the IPv6 header. b was parsed,
// so the chain is whole.
func nextHeaderOffset(b []byte, l4 int) int {
	field, at := packet.IPv6NextHeader, packet.IPv6Len
	for at < l4 {
		length := packet.FragmentLen
		if b[field] != packet.ProtoFragment {
			length = (int(b[at+1]) + 1) * 8 // RFC 8200 §4.3, §4.4, §4.6
		}
		field, at = at, at+length
	}
	return field
}

// unsupported4 tells a local program that this NAT64 carries TCP and UDP only:
// protocol unreachable (RFC 792). The error speaks for the NAT64's address, and
// an unprivileged server can deliver it in one way only: back over the control
// channel in format (a), as a packet from the NAT64 to this host, which the NAT64
// sends on.
func (h *handler) unsupported4(d *datagram, p *wire.Payload) outcome {
	const protocolUnreachable = 2
	if !xlat.MayAnswer4(&h.parsed) {
		return refusedICMP
	}
	n := xlat.BuildError4(h.scratch[:], p.Packet, packet.ICMPv4Unreachable, protocolUnreachable, 0, word4(d.from))
	h.sendBack(d, p.Token, h.scratch[:n])
	return errored
}

// icmp6Valid says whether an ICMPv6 message carries the right checksum.
func icmp6Valid(b []byte, p *packet.Parsed) bool {
	upper := b[p.L4:p.End]
	sum := packet.Pseudo6(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, uint32(len(upper)), packet.ProtoICMPv6)
	return packet.Fold(packet.Sum(upper, sum)) == 0xffff
}

// setICMP6Checksum writes it into an IPv6 packet without extension headers.
func setICMP6Checksum(b []byte) {
	upper := b[packet.IPv6Len:]
	binary.BigEndian.PutUint16(upper[packet.ICMPChecksum:], 0)
	srcHi, srcLo := words(addr6(b[packet.IPv6Src:]))
	dstHi, dstLo := words(addr6(b[packet.IPv6Dst:]))
	sum := packet.Pseudo6(srcHi, srcLo, dstHi, dstLo, uint32(len(upper)), packet.ProtoICMPv6)
	binary.BigEndian.PutUint16(upper[packet.ICMPChecksum:], ^packet.Fold(packet.Sum(upper, sum)))
}
