package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// verdictReasons names the refusals of the tables.
var verdictReasons = [...]DropReason{
	conntrack.TableFull:      DropTableFull,
	conntrack.PortsUsedUp:    DropPortsExhausted,
	conntrack.NoMapping:      DropNoMapping,
	conntrack.FilteredByAddr: DropFiltered,
}

// open64 deals with a packet from the IPv6 side that has no session: it opens
// one (RFC 6146 §3.5), goes to the worker that owns the client, or is refused.
// With the session made, m.v64 is as if it had been found.
func (w *Worker) open64(m *meta) {
	k := &m.k64
	if owner := w.table.Owner(k.Client, k.ClientPort); owner != w.id {
		w.giveTo(owner, m)
		return
	}
	if r := w.refuseOpening64(m); r != NotDropped {
		w.drop(m, r)
		return
	}
	mapping, v := w.shard.Map(k.Client, k.ClientPort, k.Proto)
	if v != conntrack.OK {
		w.answer6(m, 1, 3, 0) // RFC 6146 §3.5.1.1: address unreachable
		w.drop(m, verdictReasons[v])
		return
	}
	s := conntrack.Session{Key: *k, Mapped: mapping.Addr, MappedPort: mapping.Port, State: initial(&m.p, false)}
	w.deltas(&s)
	if v := w.shard.Insert(&s, w.now); v != conntrack.OK {
		w.answer6(m, 1, 3, 0)
		w.drop(m, verdictReasons[v])
		return
	}
	if !w.table.Lookup64(k, m.hash, &m.v64) {
		w.drop(m, DropTableFull)
	}
}

// refuseOpening64 says why the packet must not open a session.
func (w *Worker) refuseOpening64(m *meta) DropReason {
	if r := w.rules.refuse64(m.p.SrcHi, m.p.SrcLo, m.server, int(m.pool6)); r != NotDropped {
		if r != DropBadSource && r != DropSourceInPool6 {
			w.answer6(m, 1, 1, 0) // administratively prohibited
		}
		return r
	}
	switch {
	case m.p.Kind == packet.KindTCP && !opens(m.p.TCPFlags):
		return DropTCPWithoutSession
	case m.p.Kind == packet.KindEchoReply:
		return DropNoMapping // RFC 6146 §3.5.3: only a request opens
	}
	return NotDropped
}

// initial is the state that a session starts in.
func initial(p *packet.Parsed, fromV4 bool) conntrack.TCPState {
	if p.Kind != packet.KindTCP {
		return conntrack.StateNone
	}
	st, _ := conntrack.InitialTCP(p.TCPFlags, fromV4)
	return st
}

// opens says whether a TCP segment starts a connection.
func opens(flags uint8) bool {
	return flags&(conntrack.FlagSYN|conntrack.FlagACK|conntrack.FlagRST|conntrack.FlagFIN) == conntrack.FlagSYN
}

// open46 deals with a packet from the IPv4 side that has no session: its
// mapping decides (endpoint-independent), and the filtering setting. The
// client sees the server inside the first pool6 prefix.
func (w *Worker) open46(m *meta) {
	k := &m.k46
	b, ok := w.table.FindBIB(k.Proto, k.Mapped, k.MappedPort)
	if !ok {
		w.refuseUnmapped(m)
		return
	}
	if b.Owner != w.id {
		w.giveTo(b.Owner, m)
		return
	}
	if r := w.refuseOpening46(m, &b); r != NotDropped {
		w.drop(m, r)
		return
	}
	s := conntrack.Session{
		Key: conntrack.Key64{
			Client: b.Client, ClientPort: b.ClientPort, Server: k.Server, ServerPort: k.ServerPort,
			Proto: k.Proto,
		},
		Mapped: k.Mapped, MappedPort: k.MappedPort, State: initial(&m.p, true),
	}
	w.deltas(&s)
	if v := w.shard.Insert(&s, w.now); v != conntrack.OK {
		w.drop(m, verdictReasons[v])
		return
	}
	if !w.table.Lookup46(k, m.hash, &m.v46) {
		w.drop(m, DropTableFull)
	}
}

// refuseUnmapped: nobody behind this port. RFC 6146 §3.5.1 has a host
// unreachable error sent; TCP is answered by silence (§3.5.2.2).
func (w *Worker) refuseUnmapped(m *meta) {
	if m.p.Kind == packet.KindUDP {
		w.answer4(m, 3, 1, 0)
	}
	w.drop(m, DropNoMapping)
}

// refuseOpening46 says why the packet must not open a session.
func (w *Worker) refuseOpening46(m *meta, b *conntrack.BIB) DropReason {
	if r := w.rules.refuse46(m.k46.Server); r != NotDropped {
		return r
	}
	switch {
	case w.rules.AddressDependent && !b.Static && !w.shard.HasSessionWith(b.Client, b.ClientPort, m.k46.Server, m.k46.Proto):
		w.answer4(m, 3, 13, 0) // RFC 6146 §3.5.1: communication administratively prohibited
		return DropFiltered
	case m.p.Kind == packet.KindTCP && !opens(m.p.TCPFlags):
		return DropTCPWithoutSession
	case m.p.Kind == packet.KindTCP && !w.rules.TCPIncoming && !b.Static:
		return DropTCPIncoming
	case m.p.Kind == packet.KindEchoReply:
		return DropNoMapping
	}
	return NotDropped
}

// deltas computes what translation adds to the session's checksums, once, so
// that a packet costs one addition (RFC 1624).
func (w *Worker) deltas(s *conntrack.Session) {
	k := &s.Key
	hi, lo := w.rules.Pool6[k.Pool6].Embed(k.Server)
	f64 := xlat.Flow64{Src: s.Mapped, Dst: k.Server, SrcPort: s.MappedPort, DstPort: k.ServerPort}
	f46 := xlat.Flow46{
		SrcHi: hi, SrcLo: lo, DstHi: k.Client.Hi, DstLo: k.Client.Lo, SrcPort: k.ServerPort, DstPort: k.ClientPort,
	}
	if k.Proto == conntrack.ICMP {
		s.Delta64 = xlat.EchoDelta64(k.Client.Hi, k.Client.Lo, hi, lo, k.ClientPort, &f64)
		s.Delta46 = xlat.EchoDelta46(s.MappedPort, &f46)
		return
	}
	s.Delta64 = xlat.Delta64(k.Client.Hi, k.Client.Lo, hi, lo, k.ClientPort, k.ServerPort, &f64)
	s.Delta46 = xlat.Delta46(k.Server, s.Mapped, k.ServerPort, s.MappedPort, &f46)
}
