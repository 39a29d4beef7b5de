package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// Plain64 does to a plain packet, in place, what V6ToV4 does: src, port and
// delta are the flow's; the server's address is the end of the destination,
// whose prefix has 96 bits. The IPv4 header then stands at packet.WindowV4.
func Plain64(h *packet.Window, src uint32, port, delta uint16, o *Options) {
	w := binary.BigEndian.Uint64(h[packet.WindowV6:])
	proto, size := uint8(w>>8), int(uint16(w>>16))+packet.IPv4Len
	first := 0x45<<56 | uint64(size)<<32 | uint64(o.ID)<<16
	if o.TrafficClassFromTOS {
		first |= w >> 52 & 0xff << 48
	}
	if size > maxUnfragmented4 {
		first |= packet.IPv4DF
	}
	dst := binary.BigEndian.Uint32(h[packet.WindowL4-4:])
	binary.BigEndian.PutUint16(h[packet.WindowL4:], port)
	plainChecksum(h, proto, delta)
	header4((*[packet.IPv4Len]byte)(h[packet.WindowV4:]), first, uint8(w)-1, proto, src, dst)
}

// Plain46 does to a plain packet, in place, what V4ToV6 does: addresses, port
// and delta are the flow's. The IPv6 header then stands at packet.WindowV6.
func Plain46(h *packet.Window, srcHi, srcLo, dstHi, dstLo uint64, port, delta uint16, o *Options) {
	proto, n := h.Upper4()
	first := 6<<60 | uint64(n)<<16 | uint64(proto)<<8 | uint64(h[packet.WindowV4+packet.IPv4TTL]-1)
	if o.TrafficClassFromTOS {
		first |= uint64(h[packet.WindowV4+packet.IPv4TOS]) << 52
	}
	binary.BigEndian.PutUint16(h[packet.WindowL4+packet.DstPort:], port)
	plainChecksum(h, proto, delta)
	header6((*[packet.IPv6Len]byte)(h[packet.WindowV6:]), first, srcHi, srcLo, dstHi, dstLo)
}

// plainChecksum updates the checksum of the upper layer.
func plainChecksum(h *packet.Window, proto uint8, delta uint16) {
	if proto == packet.ProtoTCP {
		at := h[packet.WindowL4+packet.TCPChecksum:]
		binary.BigEndian.PutUint16(at, packet.UpdateChecksum(binary.BigEndian.Uint16(at), delta))
		return
	}
	at := h[packet.WindowL4+packet.UDPChecksum:]
	binary.BigEndian.PutUint16(at, nonZero(packet.UpdateChecksum(binary.BigEndian.Uint16(at), delta)))
}
