package traffic

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// Packet is where the parts of a received frame lie, and its flow.
type Packet struct {
	Tuple
	IPv6     bool
	Protocol Protocol
	L4, End  int // offsets of the upper layer and of the packet's end
	Payload  int // offset of what the upper layer carries
}

// Parse reads a frame of a protocol that a Builder writes, without IPv4 options,
// IPv6 extension headers and fragments, which none has. It looks at lengths
// and not at checksums.
func Parse(frame []byte, p *Packet) bool {
	if len(frame) < packet.EthernetLen+packet.IPv4Len {
		return false
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x86dd:
		return parse6(frame, p)
	case 0x0800:
		return parse4(frame, p)
	}
	return false
}

func parse6(frame []byte, p *Packet) bool {
	const l4 = packet.EthernetLen + packet.IPv6Len
	if len(frame) < l4 {
		return false
	}
	ip := frame[packet.EthernetLen:l4]
	p.IPv6, p.L4 = true, l4
	p.End = l4 + int(binary.BigEndian.Uint16(ip[packet.IPv6PayloadLen:]))
	if ip[0]>>4 != 6 || p.End > len(frame) {
		return false
	}
	p.SrcHi, p.SrcLo = binary.BigEndian.Uint64(ip[packet.IPv6Src:]), binary.BigEndian.Uint64(ip[packet.IPv6Src+8:])
	p.DstHi, p.DstLo = binary.BigEndian.Uint64(ip[packet.IPv6Dst:]), binary.BigEndian.Uint64(ip[packet.IPv6Dst+8:])
	return parseUpper(frame[l4:p.End], ip[packet.IPv6NextHeader], p)
}

func parse4(frame []byte, p *Packet) bool {
	const l4 = packet.EthernetLen + packet.IPv4Len
	ip := frame[packet.EthernetLen:l4]
	p.IPv6, p.L4 = false, l4
	p.End = packet.EthernetLen + int(binary.BigEndian.Uint16(ip[packet.IPv4TotalLen:]))
	if ip[0] != 4<<4|packet.IPv4Len/4 || p.End < l4 || p.End > len(frame) ||
		binary.BigEndian.Uint16(ip[packet.IPv4FlagsOff:])&(packet.IPv4MF|packet.IPv4OffsetMask) != 0 {
		return false
	}
	p.SrcHi, p.SrcLo = 0, uint64(binary.BigEndian.Uint32(ip[packet.IPv4Src:]))
	p.DstHi, p.DstLo = 0, uint64(binary.BigEndian.Uint32(ip[packet.IPv4Dst:]))
	return parseUpper(frame[l4:p.End], ip[packet.IPv4Proto], p)
}

func parseUpper(upper []byte, number uint8, p *Packet) bool {
	if len(upper) < packet.UDPLen {
		return false
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(upper), binary.BigEndian.Uint16(upper[2:])
	p.Payload = p.L4 + packet.UDPLen
	switch number {
	case packet.ProtoUDP:
		p.Protocol = UDP
		return int(binary.BigEndian.Uint16(upper[packet.UDPLength:])) == len(upper)
	case packet.ProtoTCP:
		return parseTCP(upper, p)
	case packet.ProtoICMPv6:
		return p.IPv6 && parseEcho(upper, packet.ICMPv6EchoRequest, packet.ICMPv6EchoReply, p)
	case packet.ProtoICMP:
		return !p.IPv6 && parseEcho(upper, packet.ICMPv4EchoRequest, packet.ICMPv4EchoReply, p)
	}
	return false
}

func parseTCP(upper []byte, p *Packet) bool {
	if len(upper) < packet.TCPLen || int(upper[packet.TCPOffset]>>4)*4 != packet.TCPLen {
		return false
	}
	p.Protocol, p.Payload = TCP, p.L4+packet.TCPLen
	switch upper[packet.TCPFlags] & (tcpSYN | tcpACK) {
	case tcpSYN:
		p.Protocol = TCPSYN
	case tcpSYN | tcpACK:
		p.Protocol = TCPSYNACK
	}
	return true
}

func parseEcho(upper []byte, request, reply uint8, p *Packet) bool {
	switch upper[packet.ICMPType] {
	case request:
		p.Protocol = Echo
	case reply:
		p.Protocol = EchoReply
	default:
		return false
	}
	p.SrcPort, p.DstPort = binary.BigEndian.Uint16(upper[packet.ICMPID:]), 0
	return upper[packet.ICMPCode] == 0
}

// ChecksumsRight says whether the IPv4 header's and the upper layer's checksums
// of a parsed frame are right. UDP over IPv4 without a checksum is.
func ChecksumsRight(frame []byte, p *Packet) bool {
	upper := frame[p.L4:p.End]
	sum := packet.Sum(upper, 0)
	length := uint64(len(upper))
	number := uint64(packet.ProtoICMPv6)
	if p.Protocol == UDP {
		number = packet.ProtoUDP
	} else if p.Protocol.isTCP() {
		number = packet.ProtoTCP
	}
	if p.IPv6 {
		return packet.Fold(sum+length+number+packet.SumAddr6(p.SrcHi, p.SrcLo)+packet.SumAddr6(p.DstHi, p.DstLo)) == 0xffff
	}
	if packet.Fold(packet.Sum(frame[packet.EthernetLen:p.L4], 0)) != 0xffff {
		return false
	}
	if p.Protocol.isEcho() {
		return packet.Fold(sum) == 0xffff
	}
	if p.Protocol == UDP && binary.BigEndian.Uint16(upper[packet.UDPChecksum:]) == 0 {
		return true
	}
	return packet.Fold(sum+length+number+p.SrcLo+p.DstLo) == 0xffff
}
