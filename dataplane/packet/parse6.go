package packet

import (
	"encoding/binary"
	"math"
)

// maxExtensionHeaders bounds the walk over IPv6 extension headers. Real
// packets carry one or two; a longer chain is work for us and cover for an
// attacker.
const maxExtensionHeaders = 8

// Parse6 reads the IPv6 packet whose header stands at b[l3]. b ends with what
// was received; octets behind the packet's own length are link-layer padding.
//
// Addresses, lengths and the outer fields are set whenever the status is not
// Truncated or BadVersion. With SegmentsLeft, TooManyHeaders and
// MisplacedHopByHop, L4 is the offset of the header that is refused, so that an
// error can point at it; ReadOn6 tells what lies behind.
func Parse6(b []byte, l3 int, p *Parsed) Status {
	end, s := header6(b, l3, p)
	if s != Good {
		return s
	}
	if end > len(b) {
		return Truncated
	}
	p.End = uint16(end)
	l4 := l3 + IPv6Len
	switch p.Proto { // the first branch of nearly every packet: no extension headers
	case ProtoUDP:
		return udp(b, l4, end, p)
	case ProtoTCP:
		return tcp(b, l4, end, p)
	}
	l4, s = extensions(b, l4, end, p, false)
	if s != Good || p.Kind == KindFragment {
		return s
	}
	return upper6(b, l4, end, p)
}

// ParseQuoted6 reads the IPv6 packet inside an ICMPv6 error: b[l3:end] is what
// is there of it, at least its headers and the first 8 octets of its upper
// layer. The packet was judged when it was sent, so only what a translation
// needs is checked.
func ParseQuoted6(b []byte, l3, end int, p *Parsed) Status {
	if uint(end) > uint(len(b)) {
		*p = Parsed{}
		return Truncated
	}
	own, s := header6(b[:end], l3, p)
	if s != Good {
		return s
	}
	if own > end {
		own = end
	}
	p.End = uint16(own)
	l4, s := extensions(b, l3+IPv6Len, own, p, true)
	if s != Good || p.Kind == KindFragment {
		return s
	}
	return quotedUpper(b, l4, own, p, ProtoICMPv6, kindICMPv6)
}

// header6 reads the fixed header and returns where the packet ends by its own
// account. Proto is the first next header, L4 what follows the fixed header.
func header6(b []byte, l3 int, p *Parsed) (end int, s Status) {
	*p = Parsed{}
	if l3 < 0 || len(b)-l3 < IPv6Len {
		return 0, Truncated
	}
	h := (*[IPv6Len]byte)(b[l3:])
	w := binary.BigEndian.Uint64(h[0:])
	if w>>60 != 6 {
		return 0, BadVersion
	}
	p.L3, p.L4 = uint16(l3), uint16(l3+IPv6Len)
	p.TOS = uint8(w >> 52)
	p.Proto = uint8(w >> 8)
	p.TTL = uint8(w)
	p.SrcHi = binary.BigEndian.Uint64(h[8:])
	p.SrcLo = binary.BigEndian.Uint64(h[16:])
	p.DstHi = binary.BigEndian.Uint64(h[24:])
	p.DstLo = binary.BigEndian.Uint64(h[32:])
	end = l3 + IPv6Len + int(uint16(w>>16))
	if len(b) > math.MaxUint16 { // offsets are 16 bits wide, frames far smaller
		return 0, Truncated
	}
	return end, Good
}

// extensions walks over the headers that RFC 7915 §5.1 has the translator
// skip: hop-by-hop options, destination options, routing headers and one
// fragment header. Any other header is an upper layer. It sets Proto, L4 and
// the fragment fields, and Kind if the packet is a fragment other than the
// first.
func extensions(b []byte, at, end int, p *Parsed, quoted bool) (l4 int, s Status) {
	first := at
	for n := 0; ; n++ {
		p.L4 = uint16(at)
		switch p.Proto {
		case ProtoHopByHop, ProtoDestOptions, ProtoRouting:
			if p.FragHeader != 0 && !quoted {
				return at, BadExtensionHeader // RFC 7915 §5.1.1: nothing but the upper layer may follow it
			}
		case ProtoFragment:
			if n == maxExtensionHeaders {
				return at, TooManyHeaders
			}
			if s := fragment(b, at, end, p, quoted); s != Good || p.Kind == KindFragment {
				return at, s
			}
			at += FragmentLen
			continue
		default:
			return at, Good
		}
		if end-at < 8 {
			return at, BadExtensionHeader
		}
		if n == maxExtensionHeaders {
			return at, TooManyHeaders
		}
		if p.Proto == ProtoHopByHop && at != first {
			return at, MisplacedHopByHop
		}
		if p.FragHeader != 0 && !quoted {
			return at, BadExtensionHeader // RFC 7915 §5.1.1: only the upper layer may follow a fragment header
		}
		h := (*[8]byte)(b[at:])
		if p.Proto == ProtoRouting && h[3] != 0 && !quoted {
			return at, SegmentsLeft
		}
		p.Proto = h[0]
		at += 8 + 8*int(h[1])
		if at > end {
			return at, BadExtensionHeader
		}
	}
}

// ReadOn6 reads the packet on behind the extension header at p.L4 for which
// Parse6 refused it, and sets L4, Proto and Kind and the fields that depend on
// Kind. It returns false if the rest cannot be told from an ICMPv6 error.
func ReadOn6(b []byte, p *Parsed) bool {
	at, end := int(p.L4), int(p.End)
	p.Proto = b[namedBy(b, int(p.L3), at)]
	l4, s := extensions(b, at, end, p, true)
	if s != Good || p.Kind == KindFragment {
		return s == Good
	}
	return upper6(b, l4, end, p) == Good || p.Proto != ProtoICMPv6
}

// PointerTo6 is the offset, from the IPv6 header that stands at b[l3], of the
// Next Header field that names the extension header at b[at].
func PointerTo6(b []byte, l3, at int) int { return namedBy(b, l3, at) - l3 }

// namedBy finds the field of a chain that was parsed before.
func namedBy(b []byte, l3, at int) (field int) {
	field = l3 + IPv6NextHeader
	for h := l3 + IPv6Len; h < at; {
		n := 8
		if b[field] != ProtoFragment {
			n += 8 * int(b[h+1])
		}
		field, h = h, h+n
	}
	return field
}

// fragment reads the fragment header at b[at] (RFC 8200 §4.5).
func fragment(b []byte, at, end int, p *Parsed, quoted bool) Status {
	if end-at < FragmentLen || p.FragHeader != 0 {
		return BadExtensionHeader
	}
	h := (*[FragmentLen]byte)(b[at:])
	w := binary.BigEndian.Uint16(h[FragmentOffset:])
	p.FragHeader = uint16(at)
	p.Proto = h[0]
	p.FragOffset = w &^ 7
	p.MoreFrags = w&FragmentMore != 0
	p.ID = binary.BigEndian.Uint32(h[FragmentID:])
	at += FragmentLen
	p.L4 = uint16(at)
	if p.FragOffset != 0 {
		p.Kind = KindFragment
	}
	if quoted { // a quote is cut anywhere, so its length says nothing
		return Good
	}
	return fragmentGeometry(p, end-at)
}

// fragmentGeometry refuses fragments that no sender makes: an empty piece of
// something, one that is not the last and does not end on an 8-octet border,
// or one that reaches beyond the largest packet.
func fragmentGeometry(p *Parsed, n int) Status {
	if !p.MoreFrags && p.FragOffset == 0 { // RFC 6946: atomic, a whole packet
		return Good
	}
	if n == 0 || p.MoreFrags && n%8 != 0 {
		return BadFragment
	}
	if int(p.FragOffset)+n > math.MaxUint16 {
		return LongFragment
	}
	return Good
}
