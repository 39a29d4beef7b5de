package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// icmpHeader is the part of an ICMP error's header that translation decides:
// rest is the word behind the checksum. Plain data.
type icmpHeader struct {
	typ, code uint8
	rest      uint32
}

// Codes that the tables below speak of by name.
const (
	unreachableProtocol4 = 2 // ICMPv4 type 3
	fragmentationNeeded4 = 4

	nextHeaderUnknown6 = 1 // ICMPv6 type 4

	minMTU6 = 1280 // RFC 8200 §5
	minMTU4 = 68   // RFC 791 §3.2
)

// unmapped stands in the tables for "silently drop".
const unmapped = 0xff

// unreachableCode6 is the ICMPv6 unreachable code for each ICMPv4 one (RFC
// 7915 §4.2). Codes 2 and 4 become other types and are handled apart. Read
// only, like all tables here.
var unreachableCode6 = [16]uint8{
	0: 0, 1: 0, 2: unmapped, 3: 4, 4: unmapped, // net, host; protocol; port; fragmentation needed
	5: 0, 6: 0, 7: 0, 8: 0, // source route failed, net unknown, host unknown, source isolated
	9: 1, 10: 1, // net, host prohibited
	11: 0, 12: 0, // net, host unreachable for the TOS
	13: 1, 14: unmapped, 15: 1, // prohibited; precedence violation; precedence cut off
}

// unreachableCode4 is the ICMPv4 unreachable code for each ICMPv6 one (RFC
// 7915 §5.2): no route, prohibited, beyond scope, address, port.
var unreachableCode4 = [5]uint8{0: 1, 1: 10, 2: 1, 3: 1, 4: 3}

// pointer6 is where the field that octet i of an IPv4 header belongs to
// stands in an IPv6 header (RFC 7915 §4.2, figure 3).
var pointer6 = [20]uint8{
	0: 0, 1: 1, 2: 4, 3: 4, // version; TOS; total length
	4: unmapped, 5: unmapped, 6: unmapped, 7: unmapped, // identification, flags, offset
	8: 7, 9: 6, 10: unmapped, 11: unmapped, // TTL; protocol; checksum
	12: 8, 13: 8, 14: 8, 15: 8, // source
	16: 24, 17: 24, 18: 24, 19: 24, // destination
}

// pointer4 is where the field that octet i of an IPv6 header belongs to
// stands in an IPv4 header (RFC 7915 §5.2, figure 6). The addresses, from
// octet 8 on, are handled apart.
var pointer4 = [8]uint8{
	0: 0, 1: 1, 2: unmapped, 3: unmapped, // version; traffic class; flow label
	4: 2, 5: 2, 6: 9, 7: 8, // payload length; next header; hop limit
}

// plateaus are the likely MTUs of RFC 1191 §7 that are at least 1280.
var plateaus = [...]uint32{65535, 32000, 17914, 8166, 4352, 2002, 1492}

// map46 is the table of RFC 7915 §4.2 for the ICMPv4 error p that quotes inner.
func map46(b []byte, p, inner *packet.Parsed, o *Options) (icmpHeader, Status) {
	switch p.ICMPType {
	case packet.ICMPv4Unreachable:
		return unreachable46(b, p, inner, o)
	case packet.ICMPv4TimeExceeded:
		return icmpHeader{packet.ICMPv6TimeExceeded, p.ICMPCode, 0}, OK
	case packet.ICMPv4ParameterProblem:
		if p.ICMPCode != 0 && p.ICMPCode != 2 { // 1 is a missing option, which nothing corresponds to
			return icmpHeader{}, ICMPCodeUnmapped
		}
		at := b[p.L4+packet.ICMPRest]
		if int(at) >= len(pointer6) || pointer6[at] == unmapped {
			return icmpHeader{}, ICMPPointerUnmapped
		}
		return icmpHeader{packet.ICMPv6ParameterProblem, 0, uint32(pointer6[at])}, OK
	}
	return icmpHeader{}, ICMPTypeUnmapped // source quench, redirect
}

func unreachable46(b []byte, p, inner *packet.Parsed, o *Options) (icmpHeader, Status) {
	switch {
	case p.ICMPCode == unreachableProtocol4:
		return icmpHeader{packet.ICMPv6ParameterProblem, nextHeaderUnknown6, packet.IPv6NextHeader}, OK
	case p.ICMPCode == fragmentationNeeded4:
		return icmpHeader{packet.ICMPv6PacketTooBig, 0, mtu46(b, p, inner, o)}, OK
	case int(p.ICMPCode) >= len(unreachableCode6) || unreachableCode6[p.ICMPCode] == unmapped:
		return icmpHeader{}, ICMPCodeUnmapped
	}
	return icmpHeader{packet.ICMPv6Unreachable, unreachableCode6[p.ICMPCode], 0}, OK
}

// mtu46 is the MTU to report on the IPv6 side (RFC 7915 §4.2): what the router
// said plus the 20 octets by which headers differ, no more than either of our
// links carries, no less than 1280. A router older than RFC 1191 says zero;
// then the greatest plateau below the size of the packet that was too big
// stands for what it would have said.
func mtu46(b []byte, p, inner *packet.Parsed, o *Options) uint32 {
	mtu := uint32(binary.BigEndian.Uint16(b[p.L4+packet.ICMPMTU4:]))
	if mtu == 0 {
		size := uint32(binary.BigEndian.Uint16(b[inner.L3+packet.IPv4TotalLen:]))
		for _, plateau := range plateaus {
			if plateau < size {
				mtu = plateau
				break
			}
		}
	}
	return max(minMTU6, min(mtu+20, o.MTU6, o.MTU4+20))
}

// map64 is the table of RFC 7915 §5.2 for the ICMPv6 error p that quotes inner.
func map64(b []byte, p, inner *packet.Parsed, o *Options) (icmpHeader, Status) {
	rest := binary.BigEndian.Uint32(b[p.L4+packet.ICMPRest:])
	switch p.ICMPType {
	case packet.ICMPv6Unreachable:
		if int(p.ICMPCode) >= len(unreachableCode4) {
			return icmpHeader{}, ICMPCodeUnmapped
		}
		return icmpHeader{packet.ICMPv4Unreachable, unreachableCode4[p.ICMPCode], 0}, OK
	case packet.ICMPv6PacketTooBig:
		return icmpHeader{packet.ICMPv4Unreachable, fragmentationNeeded4, mtu64(rest, inner, o)}, OK
	case packet.ICMPv6TimeExceeded:
		return icmpHeader{packet.ICMPv4TimeExceeded, p.ICMPCode, 0}, OK
	case packet.ICMPv6ParameterProblem:
		return parameter64(p.ICMPCode, rest)
	}
	return icmpHeader{}, ICMPTypeUnmapped
}

func parameter64(code uint8, at uint32) (icmpHeader, Status) {
	switch code {
	case nextHeaderUnknown6:
		return icmpHeader{packet.ICMPv4Unreachable, unreachableProtocol4, 0}, OK
	case 0:
	default: // 2 is an unknown option, which IPv4 hosts do not report
		return icmpHeader{}, ICMPCodeUnmapped
	}
	var to uint8
	switch {
	case at < packet.IPv6Src:
		to = pointer4[at]
	case at < packet.IPv6Dst:
		to = packet.IPv4Src
	case at < packet.IPv6Len:
		to = packet.IPv4Dst
	default:
		to = unmapped
	}
	if to == unmapped {
		return icmpHeader{}, ICMPPointerUnmapped
	}
	return icmpHeader{packet.ICMPv4ParameterProblem, 0, uint32(to) << 24}, OK
}

// mtu64 is the MTU to report on the IPv4 side (RFC 7915 §5.2), kept within
// what IPv4 and the 16-bit field can mean. A quoted packet with a fragment
// header was 28 octets larger than the IPv4 packet that it came from, not 20.
func mtu64(mtu uint32, inner *packet.Parsed, o *Options) uint32 {
	growth := uint32(packet.IPv6Len - packet.IPv4Len)
	if inner.FragHeader != 0 {
		growth += packet.FragmentLen
	}
	least := minMTU4 + growth
	m := min(max(mtu, least)-growth, o.MTU4, max(o.MTU6, least)-growth)
	return min(max(m, minMTU4), 0xffff)
}
