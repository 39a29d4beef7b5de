package xlat

// Status says why a packet could not be translated. Zero is a translated one.
type Status uint8

const (
	OK Status = iota

	// The upper layer.
	UnsupportedProtocol // neither TCP, UDP, an echo nor an ICMP error
	FragmentedICMP      // its checksum needs the length of the whole packet
	UDPZeroIPv6         // IPv6 UDP without a checksum
	UDPZeroChecksum     // IPv4 UDP without a checksum, and the configuration says drop
	UDPZeroFragment     // IPv4 UDP without a checksum, in fragments: nothing to compute it from
	NoHeadroom          // the IPv6 headers do not fit in front of the packet

	// ICMP errors.
	ICMPChecksum        // the error's checksum is wrong, and translation would write a right one
	ICMPTypeUnmapped    // no such type on the other side
	ICMPCodeUnmapped    // no such code on the other side
	ICMPPointerUnmapped // a parameter problem points at a field that the other side does not have
	InnerError          // an error about an error
	InnerUnsupported    // the quoted packet is neither TCP, UDP nor an echo
	InnerFragment       // the quoted packet is a fragment other than the first
)

type statusRow struct{ name, section string }

// statusRows is read only. One row for each Status, held complete by a test.
var statusRows = [...]statusRow{
	OK:                  {"ok", ""},
	UnsupportedProtocol: {"unsupported-protocol", "RFC 6146 §3.4"},
	FragmentedICMP:      {"fragmented-icmp", "RFC 7915 §1.2"},
	UDPZeroIPv6:         {"udp-zero-checksum-ipv6", "RFC 8200 §8.1"},
	UDPZeroChecksum:     {"udp-zero-checksum", "RFC 7915 §4.5"},
	UDPZeroFragment:     {"udp-zero-checksum-fragment", "RFC 7915 §4.5"},
	NoHeadroom:          {"no-headroom", "RFC 7915 §4.1"},
	ICMPChecksum:        {"icmp-bad-checksum", "RFC 5508 §5"},
	ICMPTypeUnmapped:    {"icmp-type-unmapped", "RFC 7915 §4.2, §5.2"},
	ICMPCodeUnmapped:    {"icmp-code-unmapped", "RFC 7915 §4.2, §5.2"},
	ICMPPointerUnmapped: {"icmp-pointer-unmapped", "RFC 7915 §4.2, §5.2"},
	InnerError:          {"icmp-inner-error", "RFC 7915 §4.3, §5.3"},
	InnerUnsupported:    {"icmp-inner-unsupported", "RFC 7915 §4.3, §5.3"},
	InnerFragment:       {"icmp-inner-fragment", "RFC 7915 §4.3, §5.3"},
}

// NumStatus is the number of Status values, for tables indexed by them.
const NumStatus = len(statusRows)

// String is the status's name as counters show it.
func (s Status) String() string {
	if int(s) < len(statusRows) {
		return statusRows[s].name
	}
	return "unknown"
}

// Section says where the rule stands that the packet fell under.
func (s Status) Section() string {
	if int(s) < len(statusRows) {
		return statusRows[s].section
	}
	return ""
}
