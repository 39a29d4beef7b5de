package server

import "sync/atomic"

// loss is why a packet that local programs sent to a client did not leave. Zero
// is one that did.
type loss uint8

const (
	notLost loss = iota
	lostPacket
	lostNoClient
	lostForeign
	lostEarly
	lostHops
	lostTooBig
	lostTranslation
	lostSending
	numLosses
)

// lossRow describes a loss for the operator.
type lossRow struct{ name, meaning string }

// lossRows is read only. One row for each loss, held complete by a test.
var lossRows = [numLosses]lossRow{
	lostPacket:      {"bad_packet", "no whole IPv4 packet, or one that no translator passes on"},
	lostNoClient:    {"no_client", "the address of the pool belongs to nobody"},
	lostForeign:     {"foreign_source", "the packet leaves from another address of this host than the client speaks to"},
	lostEarly:       {"not_durable", "the client's address is not on disk yet"},
	lostHops:        {"hop_limit", "the TTL ended here, which the program was told"},
	lostTooBig:      {"too_big", "larger than what one control datagram carries, which the program was told"},
	lostTranslation: {"untranslatable", "a packet that has no counterpart in IPv6"},
	lostSending:     {"not_sent", "the kernel did not take the control datagram"},
}

// localCounters counts what goes to and comes from local programs over the
// device. Safe for concurrent use.
type localCounters struct {
	delivered, deliveredOctets atomic.Uint64 // to local programs, IPv4
	answers, answersOctets     atomic.Uint64 // from them, IPv6
	writeErrors                atomic.Uint64
	lost                       [numLosses]atomic.Uint64
}

// LocalCounters is what Counters has of packets that the server translates. A
// plain value.
type LocalCounters struct {
	Delivered       uint64            `json:"delivered"`
	DeliveredOctets uint64            `json:"delivered_octets"`
	Answers         uint64            `json:"answers"`
	AnswersOctets   uint64            `json:"answers_octets"`
	WriteErrors     uint64            `json:"write_errors"`
	Lost            map[string]uint64 `json:"lost"`
}

func (c *localCounters) describe() LocalCounters {
	out := LocalCounters{
		Delivered: c.delivered.Load(), DeliveredOctets: c.deliveredOctets.Load(), Answers: c.answers.Load(),
		AnswersOctets: c.answersOctets.Load(), WriteErrors: c.writeErrors.Load(), Lost: map[string]uint64{},
	}
	for l := lostPacket; l < numLosses; l++ {
		out.Lost[lossRows[l].name] = c.lost[l].Load()
	}
	return out
}
