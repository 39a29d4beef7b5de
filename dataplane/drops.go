package dataplane

// DropReason names why a packet was lost. Every lost packet is counted under
// exactly one. Zero is "not dropped".
type DropReason uint8

const (
	NotDropped DropReason = iota

	DropNotIP
	DropTruncated
	DropBadVersion
	DropBadHeaderLength
	DropBadHeaderChecksum
	DropSourceRoute
	DropSegmentsLeft
	DropBadExtensionHeader
	DropBadFragment

	DropNotPool6
	DropNotPool4
	DropSourceInPool6
	DropBadSource
	DropProtocol
	DropICMPType
	DropICMPChecksum
	DropQuote

	DropFragmentTiny
	DropFragmentTooLong
	DropFragmentTooMany
	DropFragmentOverlap
	DropFragmentDuplicate
	DropFragmentICMP
	DropFragmentNoFirst
	DropFragmentIncomplete
	DropFragmentLimit
	DropFragmentNoSession

	DropDenied
	DropWellKnownPrefix
	DropTCPWithoutSession
	DropNoMapping
	DropFiltered
	DropTCPIncoming
	DropSYNStored
	DropSYNStoreFull
	DropTableFull
	DropPortsExhausted
	DropClientSessions
	DropClientPorts
	DropClientsFull
	DropErrorWithoutSession
	DropHandoverFull
	DropReturned
	DropHandoffFull

	DropHopLimit
	DropTTL
	DropTooBig6
	DropTooBig4
	DropUDPZeroChecksum
	DropHairpinOff
	DropHeadroom
	DropNoFrame

	DropNoRoute
	DropRouteProhibited
	DropRouteElsewhere
	DropRouteLocal
	DropNeighbourFailed
	DropParkFull
	DropParkTimeout

	DropTXFull

	DropNoKernelPort
	DropKernelPortFull

	dropReasons // how many there are
)

// Reason is the operator's view of a DropReason.
type Reason struct {
	Name     string // as nat64ctl drops prints it
	Step     string // the step, and with it the file, that gave the packet up
	Sentence string
	Section  string
}

// Reasons has one row for every DropReason; row 0 is unused.
var reasonTable = [dropReasons]Reason{
	NotDropped: {"none", "", "not dropped", ""},

	DropNotIP:              {"not_ip", "parse", "The frame holds neither IPv4 nor IPv6 (or is VLAN-tagged).", "RFC 894, RFC 2464"},
	DropTruncated:          {"truncated", "parse", "The packet is shorter than its headers say.", "RFC 791 §3.1, RFC 8200 §3"},
	DropBadVersion:         {"bad_version", "parse", "The IP version does not fit the EtherType.", "RFC 791 §3.1, RFC 8200 §3"},
	DropBadHeaderLength:    {"bad_header_length", "parse", "A header length field is impossible.", "RFC 791 §3.1, RFC 9293 §3.1, RFC 768"},
	DropBadHeaderChecksum:  {"bad_header_checksum", "parse", "The IPv4 header checksum is wrong.", "RFC 1812 §5.2.2"},
	DropSourceRoute:        {"source_route", "parse", "An IPv4 source route that has not expired cannot be translated.", "RFC 7915 §4.1"},
	DropSegmentsLeft:       {"segments_left", "parse", "An IPv6 routing header with segments left cannot be translated.", "RFC 7915 §5.1"},
	DropBadExtensionHeader: {"bad_extension_header", "parse", "The chain of IPv6 extension headers is cut or too long.", "RFC 8200 §4"},
	DropBadFragment:        {"bad_fragment", "parse", "The fragment's offset and length are impossible.", "RFC 791 §3.2, RFC 8200 §4.5"},

	DropNotPool6:      {"not_pool6", "classify", "The IPv6 destination lies in no pool6 prefix.", "RFC 6146 §3.5"},
	DropNotPool4:      {"not_pool4", "classify", "The IPv4 destination is not a pool4 address.", "RFC 6146 §3.5"},
	DropSourceInPool6: {"source_in_pool6", "classify", "The IPv6 source lies in a pool6 prefix: a loop or a forgery.", "RFC 6146 §3.5"},
	DropBadSource:     {"bad_source", "classify", "The source cannot be a unicast host (multicast, unspecified, loopback, link-local, broadcast).", "RFC 7915 §4.1, RFC 4291 §2"},
	DropProtocol:      {"protocol", "classify", "The protocol is neither TCP, UDP nor ICMP.", "RFC 6146 §3.5"},
	DropICMPType:      {"icmp_type", "classify", "An ICMP message that has no counterpart on the other side.", "RFC 7915 §4.2, §5.2"},
	DropICMPChecksum:  {"icmp_checksum", "classify", "The checksum of an ICMP error is wrong.", "RFC 5508 §5"},
	DropQuote:         {"icmp_quote", "classify", "The packet quoted in an ICMP error cannot be read or translated.", "RFC 5508 §5, RFC 7915 §4.3"},

	DropFragmentTiny:       {"fragment_tiny", "fragments", "The first fragment of a datagram without its whole TCP, UDP or ICMP header, or a later one inside a TCP header.", "RFC 1858 §3, RFC 3128, RFC 7112 §5"},
	DropFragmentTooLong:    {"fragment_too_long", "fragments", "A fragment reaches beyond 65,535 octets.", "RFC 791 §3.1, RFC 8200 §4.5"},
	DropFragmentTooMany:    {"fragment_too_many", "fragments", "A datagram in more than 128 fragments.", "RFC 6146 §3.4"},
	DropFragmentOverlap:    {"fragment_overlap", "fragments", "Fragments of a datagram overlap, or name two ends: all of it is refused.", "RFC 5722 §3, RFC 8200 §4.5"},
	DropFragmentDuplicate:  {"fragment_duplicate", "fragments", "A fragment that was there already; its datagram goes on.", "RFC 8200 §4.5"},
	DropFragmentICMP:       {"fragment_icmp", "fragments", "An ICMP message in fragments that is no echo.", "RFC 7915 §1.2"},
	DropFragmentNoFirst:    {"fragment_no_first", "fragments", "Fragments whose first did not come, or was not decided, in time (timeouts.fragment).", "RFC 6146 §3.4"},
	DropFragmentIncomplete: {"fragment_incomplete", "fragments", "Fragments of an echo, or of UDP without a checksum, of which not all came in time.", "RFC 6146 §3.4"},
	DropFragmentLimit:      {"fragment_limit", "fragments", "The oldest held fragments gave way to newer ones (limits.fragments).", "RFC 6146 §3.4"},
	DropFragmentNoSession:  {"fragment_no_session", "lookup", "The session of a datagram ended before its last fragment came.", "RFC 6146 §3.4"},

	DropDenied:              {"denied_destination", "lookup", "The IPv4 destination is on the deny_ipv4 list, or can never be a host.", "RFC 6052 §5.1"},
	DropWellKnownPrefix:     {"well_known_prefix", "lookup", "A non-global IPv4 address inside 64:ff9b::/96.", "RFC 6052 §3.1"},
	DropTCPWithoutSession:   {"tcp_without_session", "lookup", "A TCP segment that opens nothing and belongs to no session or mapping in use with TCP.", "RFC 6146 §3.5.2.2"},
	DropNoMapping:           {"no_mapping", "lookup", "No BIB entry for the mapped port or identifier.", "RFC 6146 §3.5.1"},
	DropFiltered:            {"filtered", "lookup", "Address-dependent filtering: the client never sent to this server.", "RFC 6146 §3.5.1"},
	DropTCPIncoming:         {"tcp_incoming", "lookup", "Connections from the IPv4 side are switched off (tcp_incoming).", "RFC 6146 §3.5.2.2"},
	DropSYNStored:           {"syn_stored", "lookup", "A SYN from the IPv4 side that no mapping lets in: kept while its client may open the same connection, then answered with Port Unreachable.", "RFC 6146 §3.5.2.2, RFC 5382 REQ-4"},
	DropSYNStoreFull:        {"syn_store_full", "lookup", "Such a SYN while too many are kept already: it is not answered.", "RFC 6146 §5.3"},
	DropTableFull:           {"table_full", "lookup", "limits.sessions is reached; established sessions go on.", "RFC 6146 §5.3"},
	DropPortsExhausted:      {"ports_exhausted", "lookup", "pool4 has no free port for a new mapping; established sessions go on.", "RFC 6146 §3.5.1.1"},
	DropClientSessions:      {"client_sessions", "lookup", "The client has limits.sessions_per_client sessions; those go on.", "RFC 6888 REQ-5, RFC 6146 §5.3"},
	DropClientPorts:         {"client_ports", "lookup", "The client has limits.ports_per_client mapped ports and identifiers; those go on.", "RFC 6888 REQ-4"},
	DropClientsFull:         {"client_table_full", "lookup", "There is no place to count the client's sessions and ports in; established sessions go on.", "RFC 6146 §5.3"},
	DropErrorWithoutSession: {"icmp_error_without_session", "lookup", "An ICMP error about a packet of no known session.", "RFC 5508 §4.2"},
	DropHandoverFull:        {"worker_ring_full", "lookup", "The ring to the worker that owns the client is full.", ""},
	DropReturned:            {"returned_unmatched", "lookup", "A packet that a server sent back matches nothing here either; it is not tunnelled again.", "handoff draft §6"},
	DropHandoffFull:         {"handoff_ring_full", "lookup", "The ring to the handoff worker is full.", ""},

	DropHopLimit:        {"hop_limit", "translate", "The IPv6 hop limit is used up; answered with Time Exceeded.", "RFC 7915 §5.1"},
	DropTTL:             {"ttl", "translate", "The IPv4 TTL is used up; answered with Time Exceeded.", "RFC 7915 §4.1"},
	DropTooBig6:         {"too_big_for_ipv4", "translate", "Too big for the IPv4 link, or for one control datagram to a handoff server that translates; answered with Packet Too Big.", "RFC 7915 §5.1"},
	DropTooBig4:         {"too_big_for_ipv6", "translate", "Too big for the IPv6 link with DF set; answered with Fragmentation Needed.", "RFC 7915 §4"},
	DropUDPZeroChecksum: {"udp_zero_checksum", "translate", "A UDP datagram without checksum that may not be translated.", "RFC 7915 §4.5, RFC 8200 §8.1"},
	DropHairpinOff:      {"hairpin_off", "translate", "A client wrote to a pool4 address while hairpin is off.", "RFC 6146 §3.8"},
	DropHeadroom:        {"frame_too_small", "translate", "The frame has no room for the translated packet.", ""},
	DropNoFrame:         {"no_free_frame", "translate", "No free frame for a fragment: more frames are needed.", ""},

	DropNoRoute:         {"no_route", "tx", "The kernel has no route to the destination.", "RFC 1812 §5.2.7.1"},
	DropRouteProhibited: {"route_prohibited", "tx", "The kernel's route says blackhole, prohibit or unreachable.", "RFC 1812 §5.2.7.1"},
	DropRouteElsewhere:  {"route_elsewhere", "tx", "The route leaves through an interface that is not the NAT64's.", ""},
	DropRouteLocal:      {"route_local", "tx", "The destination is the NAT64 host itself.", ""},
	DropNeighbourFailed: {"neighbour_failed", "tx", "The next hop does not answer ARP or neighbour discovery.", "RFC 4861 §7.2.2"},
	DropParkFull:        {"park_full", "tx", "Too many packets wait for next hops to be resolved.", "RFC 4861 §7.2.2"},
	DropParkTimeout:     {"park_timeout", "tx", "A next hop was not resolved in time.", "RFC 4861 §7.2.2"},

	DropTXFull: {"tx_ring_full", "tx", "The interface takes no more packets.", ""},

	DropNoKernelPort:   {"no_kernel_port", "pass", "A packet of the host's own, and there is no TUN device to give it to the kernel.", ""},
	DropKernelPortFull: {"kernel_port_full", "pass", "A packet of the host's own that the kernel did not take from the TUN device.", ""},
}

// String is the reason's name as nat64ctl prints it.
func (r DropReason) String() string { return reasonTable[r].Name }

// ReasonOf is a reason's row.
func ReasonOf(r DropReason) Reason { return reasonTable[r] }

// EachReason calls f for every reason in the order of the packet path.
func EachReason(f func(DropReason, Reason)) {
	for r := NotDropped + 1; r < dropReasons; r++ {
		f(r, reasonTable[r])
	}
}
