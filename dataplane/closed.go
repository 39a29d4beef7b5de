package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// This file is RFC 6146 §3.5.2.2, "CLOSED": TCP segments that belong to no
// session. A SYN opens one (slowpath.go) or is stored (syns.go). Any other is
// translated if there is a TCP BIB entry for it, so that the hosts can settle
// between themselves what is left of a connection, and opens nothing.
//
// A mapping serves TCP and UDP here. It counts as an entry of the TCP BIB while
// TCP sessions use it, or as a static mapping of TCP: a scan with ACK segments
// does not reach a port that its client uses for UDP alone.

// stray64 translates a segment from the IPv6 side that belongs to no session.
// It returns false when the client has no mapping in use with TCP, and for
// fragments: without a session, nothing tells the later ones where to.
func (w *Worker) stray64(m *meta) bool {
	k := &m.k64
	if isFragment(&m.p) {
		return false
	}
	mapping, ok := w.shard.FindMapping(k.Client, k.ClientPort, conntrack.TCP)
	if !ok {
		return false
	}
	s := conntrack.Session{Key: *k, Mapped: mapping.Addr, MappedPort: mapping.Port}
	w.deltas(&s)
	m.v64 = s.View64()
	return true
}

// stray46 is stray64 for a segment to the mapping b, which is in use with TCP.
// The client sees the server inside the prefix of the given index.
func (w *Worker) stray46(m *meta, b *conntrack.BIB, prefix uint8) {
	k := &m.k46
	s := conntrack.Session{
		Key: conntrack.Key64{
			Client: b.Client, ClientPort: b.ClientPort, Server: k.Server, ServerPort: k.ServerPort, Proto: conntrack.TCP,
			Pool6: prefix,
		},
		Mapped: k.Mapped, MappedPort: k.MappedPort,
	}
	w.deltas(&s)
	m.v46 = s.View46()
}

// admitTCP46 decides about a TCP segment to the mapping b. It returns true when
// a session is to be opened; otherwise the segment has been dealt with.
func (w *Worker) admitTCP46(m *meta, b *conntrack.BIB, prefix uint8) bool {
	syn := opens(m.p.TCPFlags)
	filtered := w.filtered(m, b)
	switch {
	case syn && !w.rules.TCPIncoming && !b.Static:
		w.drop(m, DropTCPIncoming)
	case syn && filtered:
		w.storeSYN(m)
	case syn:
		return true
	case filtered:
		w.drop(m, DropFiltered) // silently: nobody waits for an answer to such a segment
	case !b.Serves || !w.rules.TCPIncoming && !b.Static, isFragment(&m.p): // as in stray64
		w.drop(m, DropTCPWithoutSession)
	default:
		w.stray46(m, b, prefix)
	}
	return false
}

// refuseUnmappedTCP deals with a TCP segment to a port without a TCP BIB entry.
func (w *Worker) refuseUnmappedTCP(m *meta) {
	server := m.k46.Server
	switch {
	case !opens(m.p.TCPFlags):
		w.drop(m, DropNoMapping)
	case w.rules.refuse46(server) != NotDropped, m.via.fresh() && w.rules.Pool4.Contains(server):
		w.drop(m, DropBadSource)
	case !w.rules.TCPIncoming:
		w.drop(m, DropTCPIncoming)
	default:
		w.storeSYN(m)
	}
}

// filtered says whether address-dependent filtering keeps a packet out: its
// mapping was never used with its sender's address (RFC 6146 §3.5.1). Static
// mappings are open to all.
func (w *Worker) filtered(m *meta, b *conntrack.BIB) bool {
	k := &m.k46
	return w.rules.AddressDependent && !b.Static && !w.shard.HasSessionWith(b.Client, b.ClientPort, k.Server, k.Proto)
}

// opens says whether a TCP segment starts a connection. A SYN with ACK answers
// one: without a session it is as any other segment.
func opens(flags uint8) bool {
	return flags&(conntrack.FlagSYN|conntrack.FlagACK|conntrack.FlagRST|conntrack.FlagFIN) == conntrack.FlagSYN
}

// initial is the state that a session starts in.
func initial(p *packet.Parsed, fromV4 bool) conntrack.TCPState {
	if p.Kind != packet.KindTCP {
		return conntrack.StateNone
	}
	st, _ := conntrack.InitialTCP(p.TCPFlags, fromV4)
	return st
}
