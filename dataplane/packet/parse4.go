package packet

import (
	"encoding/binary"
	"math"
)

// IPv4 option types (RFC 791 §3.1).
const (
	optionEnd               = 0
	optionNOP               = 1
	optionLooseSourceRoute  = 131
	optionStrictSourceRoute = 137
)

// Parse4 reads the IPv4 packet whose header stands at b[l3]. b ends with what
// was received; octets behind the packet's own length are link-layer padding.
// Addresses, lengths and the outer fields are set whenever the status is not
// Truncated, BadVersion or BadHeaderLength.
func Parse4(b []byte, l3 int, p *Parsed) Status {
	end, s := header4(b, l3, p)
	if s != Good {
		return s
	}
	if end > len(b) {
		return Truncated
	}
	p.End = uint16(end)
	l4 := int(p.L4)
	h := (*[IPv4Len]byte)(b[l3:])
	if l4-l3 == IPv4Len {
		w0, w1 := binary.BigEndian.Uint64(h[0:]), binary.BigEndian.Uint64(h[8:])
		sum := w0>>32 + w0&0xffffffff + w1>>32 + w1&0xffffffff + uint64(binary.BigEndian.Uint32(h[IPv4Dst:]))
		if Fold(sum) != 0xffff {
			return BadHeaderChecksum
		}
	} else if s := options(b[l3:l4]); s == SourceRoute {
		return sourceRouted(b, l4, end, p)
	} else if s != Good {
		return s
	}
	if p.MoreFrags || p.FragOffset != 0 {
		if s := fragmentGeometry(p, end-l4); s != Good || p.Kind == KindFragment {
			return s
		}
	}
	switch h[IPv4Proto] {
	case ProtoUDP:
		return udp(b, l4, end, p)
	case ProtoTCP:
		return tcp(b, l4, end, p)
	}
	return upper4(b, l4, end, p)
}

// sourceRouted reads the upper layer of a packet whose source route forbids its
// translation: whether the sender may be told depends on what is in there.
func sourceRouted(b []byte, l4, end int, p *Parsed) Status {
	if p.MoreFrags || p.FragOffset != 0 {
		if s := fragmentGeometry(p, end-l4); s != Good {
			return s
		}
	}
	if p.Kind != KindFragment {
		if s := upper4(b, l4, end, p); s != Good {
			return s
		}
	}
	return SourceRoute
}

// ParseQuoted4 reads the IPv4 packet inside an ICMP error: b[l3:end] is what
// is there of it, at least its header and the first 8 octets of its upper
// layer. Its header checksum is not checked: the router that quotes it has
// changed the TTL, and a translator takes the quote as it is (RFC 7915 §4.3).
func ParseQuoted4(b []byte, l3, end int, p *Parsed) Status {
	if uint(end) > uint(len(b)) {
		*p = Parsed{}
		return Truncated
	}
	own, s := header4(b[:end], l3, p)
	if s != Good {
		return s
	}
	if own > end {
		own = end
	}
	p.End = uint16(own)
	if p.Kind == KindFragment {
		return Good
	}
	return quotedUpper(b, int(p.L4), own, p, ProtoICMP, kindICMPv4)
}

// header4 reads the header up to its options and returns where the packet ends
// by its own account. It sets Kind if the packet is a fragment other than the
// first.
func header4(b []byte, l3 int, p *Parsed) (end int, s Status) {
	*p = Parsed{}
	if l3 < 0 || len(b)-l3 < IPv4Len || len(b) > math.MaxUint16 {
		return 0, Truncated
	}
	h := (*[IPv4Len]byte)(b[l3:])
	w := binary.BigEndian.Uint64(h[0:])
	if w>>60 != 4 {
		return 0, BadVersion
	}
	n := int(w>>56) & 0xf * 4
	total := int(uint16(w >> 32))
	if n < IPv4Len || total < n {
		return 0, BadHeaderLength
	}
	if l3+n > len(b) {
		return 0, Truncated
	}
	p.L3, p.L4 = uint16(l3), uint16(l3+n)
	p.TOS = uint8(w >> 48)
	p.ID = uint32(uint16(w >> 16))
	p.DF = w&IPv4DF != 0
	p.MoreFrags = w&IPv4MF != 0
	p.FragOffset = uint16(w&IPv4OffsetMask) << 3
	p.TTL, p.Proto = h[IPv4TTL], h[IPv4Proto]
	p.Src4 = binary.BigEndian.Uint32(h[IPv4Src:])
	p.Dst4 = binary.BigEndian.Uint32(h[IPv4Dst:])
	if p.FragOffset != 0 {
		p.Kind = KindFragment
	}
	return l3 + total, Good
}

// options checks the checksum of a header that carries options, and looks for
// a source route that is not used up. All other options are ignored, unread
// (RFC 7915 §4.1): a malformed list, too, which no translation carries on. A
// source route that is itself malformed is not taken for used up.
func options(h []byte) Status {
	if Fold(Sum(h, 0)) != 0xffff {
		return BadHeaderChecksum
	}
	for o := h[IPv4Len:]; len(o) > 0; {
		switch o[0] {
		case optionEnd:
			return Good
		case optionNOP:
			o = o[1:]
			continue
		}
		malformed := len(o) < 2 || o[1] < 2 || int(o[1]) > len(o)
		if o[0] == optionLooseSourceRoute || o[0] == optionStrictSourceRoute {
			// The pointer runs past the option's length when the route is used up.
			if malformed || o[1] < 3 || o[2] <= o[1] {
				return SourceRoute
			}
		}
		if malformed {
			return Good
		}
		o = o[o[1]:]
	}
	return Good
}

// quotedUpper reads as much of a quoted packet's upper-layer header as every
// ICMP error carries, 8 octets, and the TCP flags when they are there.
func quotedUpper(b []byte, l4, end int, p *Parsed, icmpProto uint8, kinds *icmpKinds) Status {
	if end-l4 < 8 {
		return Truncated
	}
	switch p.Proto {
	case ProtoTCP, ProtoUDP:
		ports := binary.BigEndian.Uint32(b[l4:])
		p.SrcPort, p.DstPort = uint16(ports>>16), uint16(ports)
		p.Kind = KindUDP
		if p.Proto == ProtoTCP {
			p.Kind = KindTCP
			if end-l4 > TCPFlags {
				p.TCPFlags = b[l4+TCPFlags]
			}
		}
	case icmpProto:
		return icmp(b, l4, end, p, kinds)
	}
	return Good
}
