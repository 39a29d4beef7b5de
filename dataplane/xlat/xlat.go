// Package xlat translates packets between IPv6 and IPv4 (RFC 7915) and
// addresses between the two (RFC 6052), as functions on octets. What a session
// decides (addresses, ports, a checksum difference computed when the session
// was made) comes in as a flow; nothing here looks anything up or remembers
// anything.
//
//	             ┌ L3                     ┌ L4
//	IPv6  ───────[ header 40 |  ext. hdrs ][ TCP, UDP, ICMP │ payload ]
//	IPv4  ─────────────────────[ header 20 ][ the same octets          ]
//
// The upper layer stays where it lies. Translation writes the new IP header so
// that it ends where the upper layer starts, and returns where it starts; the
// packet's end does not move. Extension headers and options are thereby
// dropped. An ICMP error contains a second packet, which is translated in the
// same way, so both headers in front of it move.
//
// A function that returns a Status other than OK has not changed a single
// octet, so that the packet can still be quoted in an ICMP error.
package xlat

import "handoff64/dataplane/packet"

// Options is the configuration that translation depends on. Each worker owns
// one; it is not safe for concurrent use because ID changes with each packet.
// The zero value works for packets other than ICMP errors that carry an MTU.
type Options struct {
	// TrafficClassFromTOS copies TOS to traffic class and back, as RFC 7915
	// §4.1 and §5.1 have it by default. Otherwise both become zero.
	TrafficClassFromTOS bool

	// UDPZeroCompute computes the checksum that an IPv4 UDP packet lacks and
	// an IPv6 one must have (RFC 7915 §4.5). Otherwise such packets are refused.
	UDPZeroCompute bool

	// AnyProtocol passes protocols other than TCP, UDP and ICMP by address, which
	// suits a flow that has its IPv4 address for itself. Otherwise they are refused.
	AnyProtocol bool

	// ID is the identification of the next IPv4 packet that is not itself a
	// fragment. The worker sets it before each packet, from a generator of its
	// own (RFC 7915 §5.1).
	ID uint16

	// MTU6 and MTU4 are the MTUs of the next hops to the client and to the server
	// of an ICMP error's session, for the arithmetic of Packet Too Big (RFC 7915
	// §4.2, §5.2).
	MTU6, MTU4 uint32
}

// Flow64 is what a session says about the IPv4 packet that its IPv6 packets
// become. Plain data: copy it freely.
type Flow64 struct {
	Src, Dst uint32

	// SrcPort and DstPort stand in the outgoing packet; for an echo SrcPort is
	// the identifier.
	SrcPort, DstPort uint16

	// Delta is the checksum's difference, from Delta64 or EchoDelta64.
	Delta uint16
}

// Flow46 is Flow64 for the other direction; for an echo DstPort is the
// identifier.
type Flow46 struct {
	SrcHi, SrcLo, DstHi, DstLo uint64
	SrcPort, DstPort           uint16
	Delta                      uint16
}

// Delta64 is the difference that translating a flow makes to its TCP and UDP
// checksums: addresses and ports, for pseudo-header lengths and protocols are
// the same on both sides (RFC 7915 §5.5 by way of RFC 1624). The arguments are
// those of the IPv6 packet.
func Delta64(srcHi, srcLo, dstHi, dstLo uint64, srcPort, dstPort uint16, f *Flow64) uint16 {
	return packet.Delta(sum6(srcHi, srcLo, dstHi, dstLo, srcPort, dstPort),
		sum4(f.Src, f.Dst, f.SrcPort, f.DstPort))
}

// Delta46 is Delta64 for the other direction; the arguments are those of the
// IPv4 packet.
func Delta46(src, dst uint32, srcPort, dstPort uint16, f *Flow46) uint16 {
	return packet.Delta(sum4(src, dst, srcPort, dstPort),
		sum6(f.SrcHi, f.SrcLo, f.DstHi, f.DstLo, f.SrcPort, f.DstPort))
}

// EchoDelta64 is the part of an echo's checksum difference that is the same
// for all packets of a session: the identifier, and the addresses, which
// ICMPv6 sums in its pseudo-header and ICMPv4 does not. What depends on the
// packet (type and length) V6ToV4 adds.
func EchoDelta64(srcHi, srcLo, dstHi, dstLo uint64, id uint16, f *Flow64) uint16 {
	return packet.Delta(sum6(srcHi, srcLo, dstHi, dstLo, id, 0), uint64(f.SrcPort))
}

// EchoDelta46 is EchoDelta64 for the other direction.
func EchoDelta46(id uint16, f *Flow46) uint16 {
	return packet.Delta(uint64(id), sum6(f.SrcHi, f.SrcLo, f.DstHi, f.DstLo, f.DstPort, 0))
}

func sum6(srcHi, srcLo, dstHi, dstLo uint64, srcPort, dstPort uint16) uint64 {
	return packet.SumAddr6(srcHi, srcLo) + packet.SumAddr6(dstHi, dstLo) + uint64(srcPort) + uint64(dstPort)
}

func sum4(src, dst uint32, srcPort, dstPort uint16) uint64 {
	return uint64(src) + uint64(dst) + uint64(srcPort) + uint64(dstPort)
}

// Size4 is the length in octets of the IPv4 packet that V6ToV4 makes of p.
func Size4(p *packet.Parsed) int { return int(p.End-p.L4) + packet.IPv4Len }

// Size6 is the length in octets of the IPv6 packet that V4ToV6 makes of p.
func Size6(p *packet.Parsed) int {
	return int(p.End-p.L4) + headers6(p)
}

// headers6 is the length of the IPv6 header, with a fragment header if p is a
// fragment (RFC 7915 §4.1).
func headers6(p *packet.Parsed) int {
	if p.MoreFrags || p.FragOffset != 0 {
		return packet.IPv6Len + packet.FragmentLen
	}
	return packet.IPv6Len
}
