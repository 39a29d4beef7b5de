package server

import (
	"sync/atomic"

	"handoff64/handoff/wire"
)

// outcome is what became of a payload: each ends in exactly one, and is counted
// under it. The payload outcomes of package wire follow behind our own.
type outcome uint8

const (
	accepted outcome = iota // an intermediate step went well; never counted

	// Accepted payloads.
	notified   // entries stored and echoed
	answered   // a query: entry and packet returned
	matched    // a packet of the local host, or an error about one of a client's: entry and packet returned
	returned   // a packet of the local host that matches nothing, returned
	echoed     // an ICMPv6 echo answered
	errored    // an ICMP error returned for what minimal mode does not carry
	challenged // an unknown token: validation packet sent
	delivered  // a client's packet translated and handed to the local programs
	translated // a packet of the local host, or an error about a client's, translated and returned

	// The same, of which the sender was told that it goes no further.
	noAddress     // no address of the pool for a new client
	protocolTaken // a protocol without ports is another client's
	expired       // the hop limit ended here
	tooBig        // larger than a control datagram carries

	// Refused payloads.
	refusedSource
	refusedTruncated
	refusedAttenuated
	refusedLarger
	refusedNAT64s
	refusedMappedPort
	refusedClient
	refusedPrefixes
	refusedPorts
	refusedLiveness
	refusedPacket
	refusedFragment
	refusedDestination
	refusedForeign
	refusedICMP
	refusedChecksum
	refusedTranslation

	firstWire
)

const numOutcomes = int(firstWire) + wire.NumStatus

// refusedFormat is the outcome of a payload that package wire refuses.
func refusedFormat(s wire.Status) outcome { return firstWire + outcome(s) }

// outcomeRow describes an outcome for the operator. Rows without a section are
// about our own limits.
type outcomeRow struct{ name, meaning, section string }

// outcomeRows is read only. One row for each outcome of our own, held complete
// by a test.
var outcomeRows = [firstWire]outcomeRow{
	accepted: {"accepted", "an intermediate step, never counted", ""},

	notified:   {"notification", "entries of the NAT64's stored and echoed", "§10"},
	answered:   {"query", "an IPv6 packet returned with its entry", "§10"},
	matched:    {"matched", "a packet, or an ICMP error, returned with the entry that it belongs to", "§10"},
	returned:   {"returned", "an IPv4 packet that matches no entry returned as it is", "§10"},
	echoed:     {"echo_reply", "an ICMPv6 echo request answered", "§11"},
	errored:    {"icmp_error", "an ICMP error returned for a protocol that minimal mode does not carry", "§10"},
	challenged: {"validation", "an unknown token: the NAT64 was asked to prove that it receives at its address", "§9"},
	delivered:  {"delivered", "a client's packet translated and handed to the local programs", "§11"},
	translated: {"translated", "an IPv4 packet that matches an entry, translated and returned", "§11"},

	noAddress:     {"no_addresses", "a new client, and every address of the pool belongs to one that is in use", ""},
	protocolTaken: {"protocol_taken", "a client speaks a protocol without ports, and another client of the NAT64's has that to itself", "§11"},
	expired:       {"hop_limit", "a packet's hop limit ended here, which its sender was told", "§11"},
	tooBig:        {"too_big", "a local program's packet larger than what one control datagram carries, which the program was told", ""},

	refusedSource:      {"bad_source", "the sender's address or port cannot be answered", "§12"},
	refusedTruncated:   {"truncated", "the datagram is longer than the largest there can be", "§4"},
	refusedAttenuated:  {"attenuated", "an unknown token, left unanswered to blunt reflection", "§9"},
	refusedLarger:      {"answer_too_large", "an unknown token, and the validation packet would be larger than what it answers", "§12"},
	refusedNAT64s:      {"too_many_nat64s", "a NAT64 proved its address, but there are as many as can be kept", ""},
	refusedMappedPort:  {"bad_mapped_port", "an entry's mapped port is below 1024, 3544, the server's port or the NAT64's own", "§10"},
	refusedClient:      {"bad_client", "a client's address is no unicast address, or its port is zero", "§4"},
	refusedPrefixes:    {"too_many_prefixes", "a NAT64 named more prefixes than can be kept", ""},
	refusedPorts:       {"no_ports", "a NAT64's ports have run out, and local sockets use all of its entries", "§10"},
	refusedLiveness:    {"no_socket_list", "a NAT64's ports have run out, and the kernel did not say which entries are in use", "§10"},
	refusedPacket:      {"bad_embedded_packet", "an embedded packet's headers are wrong or cut", "§5"},
	refusedFragment:    {"fragment", "an embedded packet is a fragment without ports", "§10"},
	refusedDestination: {"foreign_destination", "an embedded packet is not addressed to the other end of this channel", "§5"},
	refusedForeign:     {"foreign_source", "an embedded IPv4 packet does not come from this host", "§5"},
	refusedICMP:        {"icmp_unmatched", "an ICMP message that matches no entry and must not be answered", "§10"},
	refusedChecksum:    {"bad_icmp_checksum", "an ICMPv6 echo request with a wrong checksum", "§11"},
	refusedTranslation: {"untranslatable", "a packet that has no counterpart in the other IP version", "§11"},
}

func (o outcome) String() string {
	if o >= firstWire {
		return wire.Status(o - firstWire).String()
	}
	return outcomeRows[o].name
}

// refused says whether the payload changed nothing.
func (o outcome) refused() bool { return o >= refusedSource }

// counters is what the server counts. Safe for concurrent use.
type counters struct {
	payloads       [numOutcomes]atomic.Uint64
	received       atomic.Uint64 // datagrams
	receivedOctets atomic.Uint64
	sent           atomic.Uint64
	sentOctets     atomic.Uint64
	sendErrors     atomic.Uint64
	authenticated  atomic.Uint64 // validations that succeeded
	rotations      atomic.Uint64
	entriesRefused atomic.Uint64 // of multi-entry payloads that were otherwise accepted
	packetsRefused atomic.Uint64 // beside entries that were accepted
	created        atomic.Uint64
	deleted        atomic.Uint64
	commits        atomic.Uint64 // transactions
	local          localCounters
}
