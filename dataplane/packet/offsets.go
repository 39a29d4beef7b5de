package packet

// Header sizes in octets, without options.
const (
	EthernetLen = 14
	IPv4Len     = 20 // RFC 791 §3.1
	IPv6Len     = 40 // RFC 8200 §3
	FragmentLen = 8  // RFC 8200 §4.5
	TCPLen      = 20 // RFC 9293 §3.1
	UDPLen      = 8  // RFC 768
	ICMPLen     = 8  // RFC 792 and RFC 4443: type, code, checksum and the four octets that each type uses its own way
)

// Field offsets within the IPv4 header.
const (
	IPv4TOS      = 1
	IPv4TotalLen = 2
	IPv4ID       = 4
	IPv4FlagsOff = 6
	IPv4TTL      = 8
	IPv4Proto    = 9
	IPv4Checksum = 10
	IPv4Src      = 12
	IPv4Dst      = 16
)

// Bits of the 16-bit word at IPv4FlagsOff.
const (
	IPv4DF         = 0x4000
	IPv4MF         = 0x2000
	IPv4OffsetMask = 0x1fff // in units of 8 octets
)

// Field offsets within the IPv6 header.
const (
	IPv6PayloadLen = 4
	IPv6NextHeader = 6
	IPv6HopLimit   = 7
	IPv6Src        = 8
	IPv6Dst        = 24
)

// Field offsets within the IPv6 fragment header, and its M flag.
const (
	FragmentOffset = 2 // offset in the upper 13 bits, which makes it a count of octets once masked
	FragmentID     = 4
	FragmentMore   = 1
)

// Field offsets within upper-layer headers.
const (
	SrcPort     = 0
	DstPort     = 2
	TCPOffset   = 12
	TCPFlags    = 13
	TCPChecksum = 16
	UDPLength   = 4
	UDPChecksum = 6

	ICMPType     = 0
	ICMPCode     = 1
	ICMPChecksum = 2
	ICMPID       = 4 // echo
	ICMPSeq      = 6 // echo
	ICMPRest     = 4 // errors: MTU, pointer, length of the quote
	ICMPMTU4     = 6 // the 16-bit next-hop MTU of RFC 1191 §4
)

// Protocol and next header numbers.
const (
	ProtoHopByHop    = 0
	ProtoICMP        = 1
	ProtoTCP         = 6
	ProtoUDP         = 17
	ProtoRouting     = 43
	ProtoFragment    = 44
	ProtoICMPv6      = 58
	ProtoNoNext      = 59
	ProtoDestOptions = 60
)

// ICMPv4 types (RFC 792).
const (
	ICMPv4EchoReply        = 0
	ICMPv4Unreachable      = 3
	ICMPv4SourceQuench     = 4
	ICMPv4Redirect         = 5
	ICMPv4EchoRequest      = 8
	ICMPv4TimeExceeded     = 11
	ICMPv4ParameterProblem = 12
)

// ICMPv6 types (RFC 4443, RFC 4861).
const (
	ICMPv6Unreachable      = 1
	ICMPv6PacketTooBig     = 2
	ICMPv6TimeExceeded     = 3
	ICMPv6ParameterProblem = 4
	ICMPv6EchoRequest      = 128
	ICMPv6EchoReply        = 129
	ICMPv6Redirect         = 137
)
