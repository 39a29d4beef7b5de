package xsk

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Packets for the tests, built field by field so that a test can get each one
// wrong. Checksums are left zero: the filter does not look at them.

var (
	testMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	otherMAC = [6]byte{2, 0, 0, 0, 0, 2}
)

func ethernet(dst [6]byte, etherType uint16, payload []byte) []byte {
	f := slices.Concat(dst[:], otherMAC[:], []byte{byte(etherType >> 8), byte(etherType)}, payload)
	return f
}

type ipv4Packet struct {
	src, dst string
	proto    byte
	id       uint16
	fragment uint16 // flags and offset as in the header
	options  int    // octets of options, a multiple of four
	payload  []byte
	shorter  int // octets by which the total length falls short of the payload
}

func (p ipv4Packet) bytes() []byte {
	h := make([]byte, 20+p.options)
	for i := 20; i < len(h); i++ {
		h[i] = 1 // no operation
	}
	h[0] = 0x40 | byte(len(h)/4)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(p.payload)-p.shorter))
	binary.BigEndian.PutUint16(h[4:], p.id)
	binary.BigEndian.PutUint16(h[6:], p.fragment)
	h[8], h[9] = 64, p.proto
	src, dst := netip.MustParseAddr(p.src).As4(), netip.MustParseAddr(p.dst).As4()
	copy(h[12:], src[:])
	copy(h[16:], dst[:])
	return append(h, p.payload...)
}

func (p ipv4Packet) frame() []byte { return ethernet(testMAC, 0x0800, p.bytes()) }

// transport is a TCP or UDP header, as far as the two have one layout, with
// enough octets for either.
func transport(src, dst uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	return b
}

func echo(icmpType byte, id uint16) []byte {
	b := make([]byte, 16)
	b[0] = icmpType
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}

func icmpError(icmpType byte, quote []byte) []byte {
	return append([]byte{icmpType, 0, 0, 0, 0, 0, 0, 0}, quote...)
}

func ipv6Frame(dst string, payload []byte) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h[6], h[7] = 17, 64
	src, to := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr(dst).As16()
	copy(h[8:], src[:])
	copy(h[24:], to[:])
	return ethernet(testMAC, 0x86dd, append(h, payload...))
}
