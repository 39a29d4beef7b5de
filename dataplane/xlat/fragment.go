package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// NextFragment6 cuts the next fragment out of a translated IPv6 packet that is
// larger than it may be (RFC 7915 §4: an IPv4 packet without DF). src is that
// packet from its header; if it carries a fragment header already, its offset,
// identification and M flag are kept and id is not used. offset counts the
// octets of payload sent so far, zero at first. The fragment, at most mtu
// octets, is written to dst; n is its length and next the offset to go on
// with, or -1 after the last one:
//
//	for off := 0; off >= 0; {
//		n, off = NextFragment6(frame, src, off, mtu, id)
//		send frame[:n]
//	}
//
// An mtu or dst with no room for 8 octets of payload gives n = 0 and next = -1.
func NextFragment6(dst, src []byte, offset, mtu int, id uint32) (n, next int) {
	const headers = packet.IPv6Len + packet.FragmentLen
	frag := uint64(src[packet.IPv6NextHeader])<<56 | uint64(id)
	payload := src[packet.IPv6Len:]
	if src[packet.IPv6NextHeader] == packet.ProtoFragment {
		frag = binary.BigEndian.Uint64(payload)
		payload = payload[packet.FragmentLen:]
	}
	room := min(mtu, len(dst)) - headers
	if room < 8 {
		return 0, -1
	}
	chunk := payload[offset:]
	next = -1
	if len(chunk) > room {
		chunk = chunk[:room&^7] // all but the last end on an 8-octet border (RFC 8200 §4.5)
		next = offset + len(chunk)
		frag |= packet.FragmentMore << 32
	}
	frag += uint64(offset) << 32
	copy(dst, src[:packet.IPv6Len])
	binary.BigEndian.PutUint16(dst[packet.IPv6PayloadLen:], uint16(packet.FragmentLen+len(chunk)))
	dst[packet.IPv6NextHeader] = packet.ProtoFragment
	binary.BigEndian.PutUint64(dst[packet.IPv6Len:], frag)
	copy(dst[headers:], chunk)
	return headers + len(chunk), next
}

// Fragments6 is how many fragments NextFragment6 makes of src, 0 if mtu leaves
// no room for any.
func Fragments6(src []byte, mtu int) int {
	n := len(src) - packet.IPv6Len
	if src[packet.IPv6NextHeader] == packet.ProtoFragment {
		n -= packet.FragmentLen
	}
	return pieces(n, mtu-packet.IPv6Len-packet.FragmentLen)
}

// NextFragment4 is NextFragment6 for a translated IPv4 packet that may be
// fragmented (RFC 7915 §5.1.1, RFC 791 §3.2). The identification and the DF
// flag are those of src, as are its offset and MF flag if it is a fragment
// itself. src has no options: the translation writes none.
func NextFragment4(dst, src []byte, offset, mtu int) (n, next int) {
	payload := src[packet.IPv4Len:]
	room := min(mtu, len(dst)) - packet.IPv4Len
	if room < 8 {
		return 0, -1
	}
	h := (*[packet.IPv4Len]byte)(src)
	w := binary.BigEndian.Uint64(h[0:])&^(0xffff<<32) + uint64(offset>>3)
	chunk := payload[offset:]
	next = -1
	if len(chunk) > room {
		chunk = chunk[:room&^7] // all but the last end on an 8-octet border
		next = offset + len(chunk)
		w |= packet.IPv4MF
	}
	n = packet.IPv4Len + len(chunk)
	header4((*[packet.IPv4Len]byte)(dst), w|uint64(n)<<32, h[packet.IPv4TTL], h[packet.IPv4Proto],
		binary.BigEndian.Uint32(h[packet.IPv4Src:]), binary.BigEndian.Uint32(h[packet.IPv4Dst:]))
	copy(dst[packet.IPv4Len:], chunk)
	return n, next
}

// Fragments4 is how many fragments NextFragment4 makes of src, 0 if mtu leaves
// no room for any.
func Fragments4(src []byte, mtu int) int {
	return pieces(len(src)-packet.IPv4Len, mtu-packet.IPv4Len)
}

// pieces is how many fragments n octets take if each has room for so many.
func pieces(n, room int) int {
	switch {
	case room < 8:
		return 0
	case n <= room:
		return 1
	}
	step := room &^ 7 // what all fragments but the last carry
	return 1 + (n-room+step-1)/step
}

// LeavesWithoutDF says whether V6ToV4 makes a packet of p that may be
// fragmented: one with a fragment header (RFC 7915 §5.1.1, an atomic one too),
// or a small one (§5.1).
func LeavesWithoutDF(p *packet.Parsed) bool {
	return p.FragHeader != 0 || Size4(p) <= maxUnfragmented4
}
