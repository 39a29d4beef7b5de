// Package packet knows where things stand in a packet and how the Internet
// checksum is computed and updated. It holds no policy.
package packet

// Status says why a packet could not be parsed. Zero is a good packet.
type Status uint8

const (
	Good               Status = iota
	Truncated                 // shorter than its headers say
	BadVersion                // the version nibble does not fit the EtherType
	BadHeaderLength           // IPv4 IHL below 5, TCP data offset below 5, UDP length below 8 or beyond the packet
	BadHeaderChecksum         // IPv4 header checksum
	SourceRoute               // unexpired IPv4 source route option (RFC 7915 §4.1)
	SegmentsLeft              // IPv6 routing header with segments left (RFC 7915 §5.1)
	BadExtensionHeader        // an IPv6 extension header chain that is cut or has two fragment headers
	BadFragment               // impossible fragment geometry
	TooManyHeaders            // more IPv6 extension headers than are read
	MisplacedHopByHop         // hop-by-hop options behind another extension header
	TinyFragment              // a first fragment without its whole upper-layer header (RFC 1858, RFC 7112)
	LongFragment              // a fragment that reaches beyond the largest packet
)

// Kind is what the translator does with the packet's upper layer.
type Kind uint8

const (
	KindOther Kind = iota // a protocol that is neither TCP, UDP nor ICMP(v6)
	KindTCP
	KindUDP
	KindEchoRequest
	KindEchoReply
	KindICMPError // an ICMP or ICMPv6 error that quotes a packet
	KindICMPOther // any other ICMP or ICMPv6 message
	KindFragment  // a fragment other than the first: no ports to see
)

// Parsed is what one pass over a packet found. All offsets count from the
// start of the slice that was parsed. Parse overwrites every field. It holds
// no pointer, so a burst of them costs the collector nothing.
type Parsed struct {
	L3, L4 uint16 // start of the IP header; start of the upper-layer header behind all options and extension headers
	End    uint16 // end of the IP packet: link-layer padding lies behind it
	Kind   Kind
	Proto  uint8 // upper-layer protocol number as it stands on the wire (58 for ICMPv6)

	TCPFlags uint8
	TTL      uint8 // or hop limit
	TOS      uint8 // or traffic class

	// SrcPort and DstPort are the ports of TCP and UDP; for an echo both are the identifier.
	SrcPort, DstPort uint16
	ICMPType         uint8
	ICMPCode         uint8

	// Fragmentation. FragHeader is the offset of the IPv6 fragment header, 0 without one.
	DF         bool
	MoreFrags  bool
	FragOffset uint16 // octets
	FragHeader uint16
	ID         uint32

	// Whole is the upper layer's length in all fragments together. No single
	// fragment says it: whoever has them all sets it; zero while unknown.
	Whole uint16

	// IPv6 addresses as two big-endian words each; unused for IPv4.
	SrcHi, SrcLo, DstHi, DstLo uint64
	// IPv4 addresses, first octet most significant; unused for IPv6.
	Src4, Dst4 uint32
}
