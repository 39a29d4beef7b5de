package xlat

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Prefix is an IPv6 prefix that IPv4 addresses are embedded in (RFC 6052
// §2.2). Hi and Lo are its octets 0–7 and 8–15, Bits is 32, 40, 48, 56, 64 or
// 96. Plain data, safe for readers; the zero value contains nothing.
type Prefix struct {
	Hi, Lo uint64
	Bits   uint8
}

// wellKnownHi is the upper half of 64:ff9b::/96 (RFC 6052 §2.1).
const wellKnownHi = 0x0064_ff9b_0000_0000

// ParsePrefix takes over a prefix from the configuration.
func ParsePrefix(p netip.Prefix) (Prefix, error) {
	a := p.Addr()
	switch {
	case !p.IsValid():
		return Prefix{}, fmt.Errorf("pool6: not a prefix")
	case !a.Is6() || a.Is4In6():
		return Prefix{}, fmt.Errorf("pool6 %s: not an IPv6 prefix", p)
	case a.IsMulticast() || a.IsLinkLocalUnicast():
		return Prefix{}, fmt.Errorf("pool6 %s: multicast and link-local addresses are not routed to a NAT64", p)
	case p != p.Masked():
		return Prefix{}, fmt.Errorf("pool6 %s: bits set behind the prefix length; did you mean %s?", p, p.Masked())
	}
	switch p.Bits() {
	case 32, 40, 48, 56, 64, 96:
	default:
		return Prefix{}, fmt.Errorf("pool6 %s: the length must be 32, 40, 48, 56, 64 or 96 (RFC 6052 section 2.2)", p)
	}
	b := a.As16()
	if b == [16]byte{} {
		return Prefix{}, fmt.Errorf("pool6 %s: holds the unspecified address", p)
	}
	if b[8] != 0 {
		return Prefix{}, fmt.Errorf("pool6 %s: bits 64 to 71 must be zero (RFC 6052 section 2.2)", p)
	}
	return Prefix{
		Hi:   binary.BigEndian.Uint64(b[:8]),
		Lo:   binary.BigEndian.Uint64(b[8:]),
		Bits: uint8(p.Bits()),
	}, nil
}

// Embed returns the IPv6 address that stands for v4 (RFC 6052 §2.3, figure
// 1). Below /96, the v4 octets are interrupted by the zero octet at bits 64 to
// 71; the suffix is zero.
func (p Prefix) Embed(v4 uint32) (hi, lo uint64) {
	if p.Bits == 96 {
		return p.Hi, p.Lo | uint64(v4)
	}
	n := (p.Bits - 32) & 63 // octets of v4 beyond bit 63, in bits
	return p.Hi | uint64(v4)>>n, uint64(v4) << (64 - n) >> 8
}

// Extract returns the IPv4 address in an address that the prefix contains.
func (p Prefix) Extract(hi, lo uint64) uint32 {
	if p.Bits == 96 {
		return uint32(lo)
	}
	n := (p.Bits - 32) & 63
	return uint32(hi<<n) | uint32(lo<<8>>(64-n))
}

// Contains says whether the address lies in the prefix and has zeros in bits
// 64 to 71. The suffix is reserved and ignored (RFC 6052 §2.2).
func (p Prefix) Contains(hi, lo uint64) bool {
	if p.Bits == 96 {
		return hi == p.Hi && lo>>32 == p.Lo>>32
	}
	return p.Bits != 0 && (hi^p.Hi)>>(64-p.Bits) == 0 && lo>>56 == 0
}

// IsWellKnown says whether this is 64:ff9b::/96.
func (p Prefix) IsWellKnown() bool {
	return p == Prefix{Hi: wellKnownHi, Bits: 96}
}

// String is the prefix as the configuration writes it.
func (p Prefix) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], p.Hi)
	binary.BigEndian.PutUint64(b[8:], p.Lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(p.Bits)).String()
}

// NonGlobal says whether an IPv4 address must not be represented in the
// well-known prefix (RFC 6052 §3.1): the blocks of RFC 5735 §3 and, among its
// later additions, the shared address space of RFC 6598.
func NonGlobal(v4 uint32) bool {
	switch v4 >> 24 {
	case 0, 10, 127:
		return true
	case 100:
		return v4>>22 == 100<<2|64>>6 // 100.64.0.0/10
	case 169:
		return v4>>16 == 169<<8|254
	case 172:
		return v4>>20 == 172<<4|16>>4 // 172.16.0.0/12
	case 192:
		return v4>>16 == 192<<8|168 ||
			v4>>8 == 192<<16 || // 192.0.0.0/24, protocol assignments
			v4>>8 == 192<<16|2 || // TEST-NET-1
			v4>>8 == 192<<16|88<<8|99 // 6to4 relay anycast
	case 198:
		return v4>>17 == 198<<7|18>>1 || // 198.18.0.0/15, benchmarking
			v4>>8 == 198<<16|51<<8|100 // TEST-NET-2
	case 203:
		return v4>>8 == 203<<16|113 // TEST-NET-3: 203.0.113.0/24
	}
	return v4>>24 >= 224 // multicast, reserved, broadcast
}
