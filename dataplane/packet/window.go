package packet

import "encoding/binary"

// Window is the headers of a plain packet, of either IP version, with room for
// those of the other: the upper layer stays where it is, and the headers in
// front of it end there.
//
//	       0          14         20         34            54           62    74
//	IPv6   [ Ethernet | IPv6 header ...................... | UDP ...... |     |
//	IPv4                         [ Ethernet | IPv4 header  | TCP ............ |
//
// Each field stands at a constant offset, so that nothing needs a check but that
// the window lies in memory. The methods other than Plain6 and Plain4 mean
// something only after these have said yes.
type Window [WindowL4 + TCPLen]byte

// Where the IP headers and the upper layer stand in a Window.
const (
	WindowV6 = EthernetLen
	WindowL4 = WindowV6 + IPv6Len
	WindowV4 = WindowL4 - IPv4Len
)

// EtherTypes.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeIPv6 = 0x86dd
)

// Plain6 says whether the window begins with an IPv6 packet that Parse6 would
// call Good and that moreover is plain: TCP or UDP behind the IPv6 header
// itself, no SYN, a checksum, a hop limit that lasts. n is how many octets were
// received.
func (h *Window) Plain6(n int) bool {
	w := binary.BigEndian.Uint64(h[WindowV6:])
	end := WindowL4 + int(uint16(w>>16))
	if w>>60 != 6 || end > n || uint8(w) <= 1 {
		return false
	}
	return h.plainUpper(uint8(w>>8), end-WindowL4)
}

// Plain4 is Plain6 for an IPv4 packet, whose Ethernet header stands in front of
// WindowV4: no options, no fragment.
func (h *Window) Plain4(n int) bool {
	w, x := binary.BigEndian.Uint64(h[WindowV4:]), binary.BigEndian.Uint64(h[WindowV4+8:])
	size := int(uint16(w >> 32))
	if w>>56 != 0x45 || w&(IPv4MF|IPv4OffsetMask) != 0 || size < IPv4Len || EthernetLen+size > n || uint8(x>>56) <= 1 {
		return false
	}
	if Fold(w>>32+w&0xffffffff+x>>32+x&0xffffffff+uint64(h.Dst4())) != 0xffff {
		return false
	}
	return h.plainUpper(uint8(x>>48), size-IPv4Len)
}

// plainUpper looks at an upper layer of n octets.
func (h *Window) plainUpper(proto uint8, n int) bool {
	switch proto {
	case ProtoUDP:
		w := binary.BigEndian.Uint32(h[WindowL4+UDPLength:]) // and the checksum
		size := int(w >> 16)
		return size >= UDPLen && size <= n && uint16(w) != 0
	case ProtoTCP:
		size := int(h[WindowL4+TCPOffset]>>4) * 4
		return size >= TCPLen && size <= n && h[WindowL4+TCPFlags]&tcpSYN == 0
	}
	return false
}

const tcpSYN = 0x02

// Src6 is the source of an IPv6 packet.
func (h *Window) Src6() (hi, lo uint64) {
	return binary.BigEndian.Uint64(h[WindowV6+IPv6Src:]), binary.BigEndian.Uint64(h[WindowV6+IPv6Src+8:])
}

// Dst6 is the destination of an IPv6 packet.
func (h *Window) Dst6() (hi, lo uint64) {
	return binary.BigEndian.Uint64(h[WindowV6+IPv6Dst:]), binary.BigEndian.Uint64(h[WindowV6+IPv6Dst+8:])
}

// Src4 is the source of an IPv4 packet.
func (h *Window) Src4() uint32 { return binary.BigEndian.Uint32(h[WindowV4+IPv4Src:]) }

// Dst4 is the destination of an IPv4 packet.
func (h *Window) Dst4() uint32 { return binary.BigEndian.Uint32(h[WindowV4+IPv4Dst:]) }

// Ports are the source port, in the upper half, and the destination port.
func (h *Window) Ports() uint32 { return binary.BigEndian.Uint32(h[WindowL4:]) }

// TCPFlags are those of a TCP segment.
func (h *Window) TCPFlags() uint8 { return h[WindowL4+TCPFlags] }

// Upper6 is the protocol and the length of an IPv6 packet's upper layer.
func (h *Window) Upper6() (proto uint8, n int) {
	w := binary.BigEndian.Uint64(h[WindowV6:])
	return uint8(w >> 8), int(uint16(w >> 16))
}

// Upper4 is the protocol and the length of an IPv4 packet's upper layer.
func (h *Window) Upper4() (proto uint8, n int) {
	return h[WindowV4+IPv4Proto], int(binary.BigEndian.Uint16(h[WindowV4+IPv4TotalLen:])) - IPv4Len
}
