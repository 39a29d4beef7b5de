package packet

import "encoding/binary"

// upper6 reads the upper-layer header of an IPv6 packet or first fragment that
// lies whole between l4 and end.
func upper6(b []byte, l4, end int, p *Parsed) Status {
	switch p.Proto {
	case ProtoUDP:
		return udp(b, l4, end, p)
	case ProtoTCP:
		return tcp(b, l4, end, p)
	case ProtoICMPv6:
		return icmp(b, l4, end, p, kindICMPv6)
	}
	p.Kind = KindOther
	return Good
}

// upper4 is upper6 for IPv4.
func upper4(b []byte, l4, end int, p *Parsed) Status {
	switch p.Proto {
	case ProtoUDP:
		return udp(b, l4, end, p)
	case ProtoTCP:
		return tcp(b, l4, end, p)
	case ProtoICMP:
		return icmp(b, l4, end, p, kindICMPv4)
	}
	p.Kind = KindOther
	return Good
}

// cutHeader is the status of an upper-layer header that ends too early: in a
// first fragment that is the fragment's fault (RFC 7112 §5, RFC 1858 §3).
func cutHeader(p *Parsed) Status {
	if p.MoreFrags {
		return TinyFragment
	}
	return Truncated
}

func udp(b []byte, l4, end int, p *Parsed) Status {
	if end-l4 < UDPLen {
		return cutHeader(p)
	}
	h := (*[UDPLen]byte)(b[l4:])
	ports := binary.BigEndian.Uint32(h[SrcPort:])
	n := int(binary.BigEndian.Uint16(h[UDPLength:]))
	p.Kind = KindUDP
	p.SrcPort, p.DstPort = uint16(ports>>16), uint16(ports)
	// A first fragment holds less than the datagram's length says.
	if n < UDPLen || n > end-l4 && !p.MoreFrags {
		return BadHeaderLength
	}
	return Good
}

func tcp(b []byte, l4, end int, p *Parsed) Status {
	if end-l4 < TCPLen {
		return cutHeader(p)
	}
	h := (*[TCPLen]byte)(b[l4:])
	ports := binary.BigEndian.Uint32(h[SrcPort:])
	n := int(h[TCPOffset]>>4) * 4
	p.Kind = KindTCP
	p.SrcPort, p.DstPort = uint16(ports>>16), uint16(ports)
	p.TCPFlags = h[TCPFlags]
	if n < TCPLen {
		return BadHeaderLength
	}
	if n > end-l4 {
		if p.MoreFrags {
			return TinyFragment
		}
		return BadHeaderLength
	}
	return Good
}

// icmpKinds maps an ICMP type to what the translator does with it.
type icmpKinds [256]Kind

// Both tables are read only.
var (
	kindICMPv4 = &icmpKinds{
		ICMPv4EchoRequest:      KindEchoRequest,
		ICMPv4EchoReply:        KindEchoReply,
		ICMPv4Unreachable:      KindICMPError,
		ICMPv4SourceQuench:     KindICMPError,
		ICMPv4Redirect:         KindICMPError,
		ICMPv4TimeExceeded:     KindICMPError,
		ICMPv4ParameterProblem: KindICMPError,
	}
	kindICMPv6 = &icmpKinds{
		ICMPv6EchoRequest:      KindEchoRequest,
		ICMPv6EchoReply:        KindEchoReply,
		ICMPv6Unreachable:      KindICMPError,
		ICMPv6PacketTooBig:     KindICMPError,
		ICMPv6TimeExceeded:     KindICMPError,
		ICMPv6ParameterProblem: KindICMPError,
	}
)

func icmp(b []byte, l4, end int, p *Parsed, kinds *icmpKinds) Status {
	if end-l4 < ICMPLen {
		return cutHeader(p)
	}
	h := (*[ICMPLen]byte)(b[l4:])
	p.ICMPType, p.ICMPCode = h[ICMPType], h[ICMPCode]
	p.Kind = kinds[p.ICMPType]
	switch p.Kind {
	case KindEchoRequest, KindEchoReply:
		id := binary.BigEndian.Uint16(h[ICMPID:])
		p.SrcPort, p.DstPort = id, id
	case KindOther: // a type without a row
		p.Kind = KindICMPOther
	}
	return Good
}
