package handoff

import (
	"sync/atomic"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// Refusal is why a datagram to the control port was dropped. The values below
// wire.NumStatus are wire's: the payload is not as it should be.
type Refusal uint8

const (
	Accepted Refusal = iota

	NotPool4         = Refusal(wire.NumStatus) + iota - 1 // the destination is no pool4 address
	NotServerPort                                         // the source port is not the server port
	OwnAddress                                            // the source is a pool4 address
	BadToken                                              // not ours for this source
	BadAuthenticator                                      // not ours for this source and client
	ForeignPrefix                                         // the entry's prefix is no /96 of ours
	BadMappedPort                                         // the entry's mapped port is below 1024 or reserved
	ForeignIPv4                                           // the IPv4 packet is not between the server and us
	ForeignIPv6                                           // the IPv6 packet's server is not the sender within pool6
	OtherClient                                           // the IPv6 packet is not of the authenticated client
	NotTranslated                                         // format (b) with a packet before translation

	// NumRefusals is for tables indexed by Refusal.
	NumRefusals = iota - 1 + wire.NumStatus
)

// refusalRows is read only. One row for each Refusal of our own, held complete
// by a test.
var refusalRows = [NumRefusals]struct{ name, meaning, section string }{
	NotPool4:         {"not_pool4", "the datagram came to an address outside pool4", "§8"},
	NotServerPort:    {"not_server_port", "the datagram's source port is not the handoff server port", "§8"},
	OwnAddress:       {"own_address", "the datagram comes from a pool4 address: ours, or forged", "§12"},
	BadToken:         {"bad_token", "the token is not ours for this sender", "§6, §12"},
	BadAuthenticator: {"bad_authenticator", "the authenticator is not ours for this sender and client", "§6, §12"},
	ForeignPrefix:    {"foreign_prefix", "the entry's prefix is no /96 of pool6", "§6"},
	BadMappedPort:    {"bad_mapped_port", "the entry's mapped port is below 1024 or reserved", "§10"},
	ForeignIPv4:      {"foreign_ipv4", "the IPv4 packet is not between the sender and the address it sent to", "§6"},
	ForeignIPv6:      {"foreign_ipv6", "neither end of the IPv6 packet is the sender's address within pool6", "§6"},
	OtherClient:      {"other_client", "the IPv6 packet is not of the authenticated client", "§6"},
	NotTranslated:    {"not_translated", "an IPv6 packet without an entry is not translated yet", "§6"},
}

// String is the name that counters show.
func (r Refusal) String() string {
	switch {
	case r < NotPool4:
		return wire.Status(r).String()
	case int(r) < NumRefusals:
		return refusalRows[r].name
	}
	return "unknown"
}

// Meaning is a sentence for the operator.
func (r Refusal) Meaning() string {
	switch {
	case r < NotPool4:
		return wire.Status(r).Meaning()
	case int(r) < NumRefusals:
		return refusalRows[r].meaning
	}
	return ""
}

// Section says where in the draft the rule stands.
func (r Refusal) Section() string {
	switch {
	case r < NotPool4:
		return wire.Status(r).Section()
	case int(r) < NumRefusals:
		return refusalRows[r].section
	}
	return ""
}

// Stats is what the worker has done since it was opened. A plain value.
type Stats struct {
	Notifications uint64 // entries told to servers, repetitions included
	Payloads      uint64 // datagrams that carried them
	Queries       uint64 // IPv6 packets sent to servers
	Tunnelled     uint64 // IPv4 packets sent to servers
	Replies       uint64 // valid control packets received
	Entries       uint64 // entries given to packet workers
	Packets       uint64 // packets given to packet workers

	Retries      uint64 // entries told again for want of an echo
	Acknowledged uint64 // entries that their server has echoed
	Unanswered   uint64 // entries given up on after the last repetition
	Outlived     uint64 // entries whose mapping ended before their server had echoed them
	Crowded      uint64 // entries whose repetition was given up for newer ones

	Limited   uint64 // strangers' packets not answered
	NoEntry   uint64 // notifications through a prefix that no entry can hold
	SendFull  uint64 // datagrams lost because the socket's buffer was full
	SendError uint64 // datagrams that the kernel refused, or that were no IP packets
	RingFull  uint64 // entries and packets lost because a packet worker's ring was full
	NoFrame   uint64 // packets lost because no frame was lent
	TooBig    uint64 // packets that fit no frame

	WentDown     uint64 // servers whose port turned out closed
	OtherErrors  uint64 // ICMP errors without consequence
	ServersFull  uint64 // capable servers that the shared table had no room for
	ServersGone  uint64 // capable servers forgotten to make room
	KeyFailures  uint64 // key rotations that could not be written
	SaveFailures uint64 // state files that could not be written

	Invalid uint64 // datagrams refused, all reasons together
	Refused [NumRefusals]uint64
	Servers [conntrack.ServerDown + 1]uint64 // servers known now, by state
}

// counters are Stats as they are counted: by the worker alone, read by anybody.
type counters struct {
	notifications, payloads, queries, tunnelled, replies, entries, packets atomic.Uint64
	retries, acknowledged, unanswered, crowded, outlived                   atomic.Uint64
	limited, noEntry, sendFull, sendError, ringFull, noFrame, tooBig       atomic.Uint64
	wentDown, otherErrors, serversFull, serversGone                        atomic.Uint64
	keyFailures, saveFailures                                              atomic.Uint64
	refused                                                                [NumRefusals]atomic.Uint64
	servers                                                                [conntrack.ServerDown + 1]atomic.Uint64
}

// Stats reads the counters. Any goroutine.
func (w *Worker) Stats() Stats {
	c := &w.count
	s := Stats{
		Notifications: c.notifications.Load(), Payloads: c.payloads.Load(), Queries: c.queries.Load(),
		Tunnelled: c.tunnelled.Load(), Replies: c.replies.Load(), Entries: c.entries.Load(), Packets: c.packets.Load(),
		Retries: c.retries.Load(), Acknowledged: c.acknowledged.Load(), Unanswered: c.unanswered.Load(), Outlived: c.outlived.Load(), Crowded: c.crowded.Load(),
		Limited: c.limited.Load(), NoEntry: c.noEntry.Load(), SendFull: c.sendFull.Load(), SendError: c.sendError.Load(),
		RingFull: c.ringFull.Load(), NoFrame: c.noFrame.Load(), TooBig: c.tooBig.Load(),
		WentDown: c.wentDown.Load(), OtherErrors: c.otherErrors.Load(),
		ServersFull: c.serversFull.Load(), ServersGone: c.serversGone.Load(),
		KeyFailures: c.keyFailures.Load(), SaveFailures: c.saveFailures.Load(),
	}
	for i := range s.Refused {
		s.Refused[i] = c.refused[i].Load()
		s.Invalid += s.Refused[i]
	}
	for i := range s.Servers {
		s.Servers[i] = c.servers[i].Load()
	}
	return s
}
