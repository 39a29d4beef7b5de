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
	conntrack.ClientSessions: DropClientSessions,
	conntrack.ClientPorts:    DropClientPorts,
	conntrack.ClientsFull:    DropClientsFull,
}

// misses collects a burst's packets from the IPv6 side that have no session.
// Owned by the worker; nothing in it survives the lookup.
type misses struct {
	n         int
	meta      [BurstSize]*meta
	keys      [BurstSize]*conntrack.Key64
	hashes    [BurstSize]uint64
	foresight [BurstSize]conntrack.Foresight
}

// missed64 notes a packet without a session. If its client belongs to another
// worker, it goes there.
func (w *Worker) missed64(m *meta) {
	if m.p.Kind == packet.KindFragment {
		w.drop(m, DropFragmentNoSession)
		return
	}
	if owner := conntrack.OwnerOf(m.hash); owner != w.id {
		w.giveTo(owner, m)
		return
	}
	if w.handoff != nil {
		w.handoff.Servers.Foresee(m.server)
	}
	s := &w.missed
	s.meta[s.n], s.keys[s.n], s.hashes[s.n] = m, &m.k64, m.hash
	s.n++
}

// openAll64 opens sessions for the packets that missed64 noted. Foresee runs
// ahead, so that what opening one takes out of memory is there when its turn
// comes.
func (w *Worker) openAll64() {
	s := &w.missed
	mine := s.n
	for step := range mine + conntrack.Ahead {
		w.shard.Foresee(s.keys[:mine], s.hashes[:mine], s.foresight[:mine], step)
		i := step - conntrack.Ahead
		if i < 0 {
			continue
		}
		m := s.meta[i]
		if i > 0 && w.table.Lookup64(&m.k64, m.hash, &m.v64) {
			w.used64(m) // a packet before it in this burst has opened it
			continue
		}
		w.open64(m, &s.foresight[i])
	}
}

// open64 deals with a packet from the IPv6 side that has no session and whose
// client is ours: it opens one (RFC 6146 §3.5) or is refused. With the session
// made, m.v64 is as if it had been found.
func (w *Worker) open64(m *meta, f *conntrack.Foresight) {
	k := &m.k64
	if w.handoff != nil && w.askServer(m, f) {
		return
	}
	if r := w.refuseOpening64(m); r != NotDropped {
		w.drop(m, r)
		return
	}
	if m.p.Kind == packet.KindTCP && !opens(m.p.TCPFlags) {
		if !w.stray64(m) {
			w.drop(m, DropTCPWithoutSession)
		}
		return
	}
	syns := k.Proto == conntrack.TCP && w.group.storesSYNs()
	mapping, v := w.mapClient(k, f, syns)
	if v != conntrack.OK {
		w.answer6(m, 1, 3, 0) // RFC 6146 §3.5.1.1, RFC 6888 REQ-11: address unreachable
		w.drop(m, verdictReasons[v])
		return
	}
	s := conntrack.Session{Key: *k, Mapped: mapping.Addr, MappedPort: mapping.Port, State: initial(&m.p, false)}
	stored := uint64(0)
	if syns {
		if stored = w.awaited(&s); stored != 0 {
			s.State = conntrack.StateEstablished // RFC 6146 §3.5.2.2, "V4 INIT": both ends have sent their SYN
		}
	}
	w.deltas(&s)
	first := w.handoff != nil && k.Proto != conntrack.ICMP && !w.shard.UsedWithForeseen(f)
	if v := w.shard.Open(&s, f, w.now, &m.v64); v != conntrack.OK {
		w.answer6(m, 1, 3, 0)
		w.drop(m, verdictReasons[v])
		return
	}
	if stored != 0 {
		w.overtake(stored)
	}
	if first {
		w.notify(&s)
	}
}

// askServer is the handoff part of opening a session from the IPv6 side
// (handoff draft §8, rules 2 to 4): an entry of the server's in the cache, a
// mapping of ours that it knows, or a question. It returns false when the
// NAT64 is to open the session itself, as it does for its own addresses, behind
// which is another client.
func (w *Worker) askServer(m *meta, f *conntrack.Foresight) (done bool) {
	k := &m.k64
	if k.Proto == conntrack.ICMP || w.rules.Pool4.Contains(m.server) || w.rules.refuse64(m.p.SrcHi, m.p.SrcLo, m.server, int(m.pool6)) != NotDropped {
		return false
	}
	if w.overEntry64(m, f) {
		return true
	}
	asks := w.rules.Pool6[m.pool6].Bits == 96 // an entry has no room for other prefixes
	switch state := w.handoff.Servers.State(k.Server); {
	case !asks:
		return false
	case state == conntrack.ServerHandoff:
		if w.shard.UsedWithForeseen(f) {
			return false
		}
	case state == conntrack.ServerDown || m.p.Kind != packet.KindTCP || opens(m.p.TCPFlags):
		return false
	}
	w.query(m)
	return true
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
	case m.p.Kind == packet.KindEchoReply:
		return DropNoMapping // RFC 6146 §3.5.3: only a request opens
	case m.via == viaPort && w.fromHost(m):
		return DropBadSource // answers would go to the host, which did not ask
	}
	return NotDropped
}

// fromHost says whether the source is an address of the host itself.
func (w *Worker) fromHost(m *meta) bool {
	return w.local && w.toHost(w.snap.Hops[w.snap.Lookup6(m.p.SrcHi, m.p.SrcLo)])
}

// open46 deals with a packet from the IPv4 side that has no session: its
// mapping decides (endpoint-independent), and the filtering setting. The
// client sees the server inside the first pool6 prefix that may hold it.
func (w *Worker) open46(m *meta) {
	k := &m.k46
	if m.p.Kind == packet.KindFragment {
		w.drop(m, DropFragmentNoSession)
		return
	}
	if w.handoff != nil && w.overEntry46(m) {
		return
	}
	b, ok := w.table.FindBIB(k.Proto, k.Mapped, k.MappedPort)
	if !ok || !b.Serves && w.handoff == nil {
		// A mapping that only the other protocol uses lets nothing in (RFC 7857
		// §6); one of handoff is a host's for both (handoff draft §4).
		w.refuseUnmapped(m)
		return
	}
	if b.Owner != w.id {
		w.giveTo(b.Owner, m)
		return
	}
	if w.strangeTo(m, &b) {
		w.tunnel4(m, k.Server)
		return
	}
	if r := w.refuseOpening46(m, &b); r != NotDropped {
		w.drop(m, r)
		return
	}
	prefix := w.rules.prefixFor(k.Server)
	if prefix < 0 {
		w.drop(m, DropWellKnownPrefix)
		return
	}
	if m.p.Kind == packet.KindTCP && !w.admitTCP46(m, &b, uint8(prefix)) {
		return
	}
	s := conntrack.Session{
		Key: conntrack.Key64{
			Client: b.Client, ClientPort: b.ClientPort, Server: k.Server, ServerPort: k.ServerPort,
			Proto: k.Proto, Pool6: uint8(prefix),
		},
		Mapped: k.Mapped, MappedPort: k.MappedPort, State: initial(&m.p, true),
	}
	w.deltas(&s)
	first := w.handoff != nil && k.Proto != conntrack.ICMP && !w.shard.UsedWith(b.Client, b.ClientPort, k.Server)
	if v := w.shard.Insert(&s, w.now); v != conntrack.OK {
		w.answer4(m, 3, 1, 0) // RFC 6888 REQ-11: host unreachable
		w.drop(m, verdictReasons[v])
		return
	}
	if first {
		w.notify(&s)
	}
	if !w.table.Lookup46(k, m.hash, &m.v46) {
		w.drop(m, DropTableFull)
	}
}

// strangeTo says whether a packet for a mapping of ours goes to its sender over
// the control channel instead (handoff draft §8, rules 3 to 5 of the IPv4
// side): a host that speaks handoff, or is filtered, and that the mapping was
// never used with. One that is down counts as if it had never spoken handoff
// (draft §8). Static mappings are open to all.
func (w *Worker) strangeTo(m *meta, b *conntrack.BIB) bool {
	k := &m.k46
	if !w.mayTell(k.Server) || b.Static || k.Proto == conntrack.ICMP || w.shard.UsedWith(b.Client, b.ClientPort, k.Server) {
		return false
	}
	return w.rules.AddressDependent || w.capable(k.Server)
}

// refuseUnmapped: nobody behind this port or identifier. RFC 6146 leaves open
// what a datagram is answered with (§3.5.1): that it is the port that is missing
// lets the sender fail at once, and does not tell it that the whole address,
// which others share, is gone. An echo request gets Host Unreachable (§3.5.3),
// a SYN is stored (§3.5.2.2). With handoff the sender comes first.
func (w *Worker) refuseUnmapped(m *meta) {
	if w.handoff != nil && m.k46.Proto != conntrack.ICMP && m.via != viaHairpin {
		w.tunnel4(m, m.k46.Server) // handoff draft §8, rule 5: the sender may know
		return
	}
	switch m.p.Kind {
	case packet.KindTCP:
		w.refuseUnmappedTCP(m)
		return
	case packet.KindUDP:
		w.answer4(m, 3, 3, 0)
	case packet.KindEchoRequest:
		w.answer4(m, 3, 1, 0)
	}
	w.drop(m, DropNoMapping)
}

// refuseOpening46 says why the packet must not open a session. TCP has more
// rules: admitTCP46.
func (w *Worker) refuseOpening46(m *meta, b *conntrack.BIB) DropReason {
	if r := w.rules.refuse46(m.k46.Server); r != NotDropped {
		return r
	}
	switch {
	case m.via.fresh() && w.rules.Pool4.Contains(m.k46.Server):
		return DropBadSource // nobody out there has an address of ours
	case m.p.Kind == packet.KindTCP:
		return NotDropped
	case w.filtered(m, b):
		w.answer4(m, 3, 13, 0) // RFC 6146 §3.5.1, §3.5.3: communication administratively prohibited
		return DropFiltered
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
