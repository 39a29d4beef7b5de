package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// Handoff is what couples one worker with the handoff worker: rings, and the
// table of server states. The worker is the only producer of Out and Lend and
// the only consumer of In and Back.
type Handoff struct {
	Out     *ring.SPSC[conntrack.ToServer]   // notifications, and packets for servers to decide
	In      *ring.SPSC[conntrack.FromServer] // entries, and packets that came back
	Back    *ring.SPSC[uint64]               // frames whose packet was sent
	Lend    *ring.SPSC[uint64]               // free frames for packets that come back
	Servers *conntrack.Servers
	Wake    func() // tells the handoff worker that there is something in Out
}

// lendFrames is how many free frames the handoff worker has at hand for what
// comes back from servers: some messages' worth of joined datagrams. A worker
// keeps as many for itself, and lendReserve at least.
const (
	lendFrames  = 1024
	lendReserve = 128
)

// capable says whether the host has the connection table: rules 1 and 4 of the
// IPv6 side ask it before anything else (handoff draft §8).
func (w *Worker) capable(server uint32) bool {
	return w.handoff != nil && w.handoff.Servers.State(server) == conntrack.ServerHandoff
}

// mayTell says whether the host may be sent anything over a control channel.
// Not what can be no host, so that a forged source makes us speak to nobody in
// particular. And not our own addresses: with the same port at both ends we
// would take what we sent ourselves, tokens and all, for a server's.
func (w *Worker) mayTell(server uint32) bool {
	return w.handoff != nil && !w.rules.Pool4.Contains(server) && w.rules.refuse46(server) == NotDropped
}

// query asks the packet's server for an entry, with a hint which mapped port
// would suit us: the client's own, if pool4 has it (handoff draft §5).
func (w *Worker) query(m *meta) {
	own := w.table.PairedAddress(m.k64.Client)
	w.tunnel6(m, own, w.table.Hint(own, m.k64.ClientPort))
}

// ofSource is the pool4 address over which the packet's source is spoken of.
func (w *Worker) ofSource(m *meta) uint32 {
	return w.table.PairedAddress(conntrack.Addr6{Hi: m.p.SrcHi, Lo: m.p.SrcLo})
}

// channelOverhead is what stands in front of an IPv6 packet in a control datagram
// of ours, at most: IPv4 and UDP headers, token, rotation, authenticator, hint.
const channelOverhead = 20 + 8 + 3*20 + 4

// tunnel6 sends the packet to its server over the control channel of the pool4
// address own. hint is 0 for packets that need no mapped port. A server that
// translates gets all packets of a connection this way, so one that would make a
// datagram in fragments is not sent: its sender is told what fits. Below what
// IPv6 hosts must be able to send, fragments cannot be avoided. Any other server
// gets the first one only, for which a client need not send smaller ones.
func (w *Worker) tunnel6(m *meta, own uint32, hint uint16) {
	if size := uint32(m.p.End - m.p.L3); size > minIPv6MTU && m.via.fresh() && w.handoff.Servers.Translates(m.server) {
		fits := max(w.mtuOf(IPv4, w.snap.Hops[w.snap.Lookup4(m.server)]), minIPv6MTU+channelOverhead) - channelOverhead
		if size > fits {
			w.answer6(m, packet.ICMPv6PacketTooBig, 0, fits)
			w.drop(m, DropTooBig6)
			return
		}
	}
	w.tunnel(m, conntrack.ToServer{
		Kind: conntrack.Tunnel6, Pool6: m.pool6, MappedPort: hint, Server: m.server,
		Own: own, Client: conntrack.Addr6{Hi: m.p.SrcHi, Lo: m.p.SrcLo},
	})
}

// tunnel4 sends the packet to the host that it, or the packet it quotes, has
// to do with.
func (w *Worker) tunnel4(m *meta, server uint32) {
	w.tunnel(m, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: server, Own: m.p.Dst4})
}

// tunnel gives the frame to the handoff worker. A packet that a server sent
// back is never tunnelled again: it would go round for ever. Nor does one go
// where only a forged source can lead.
func (w *Worker) tunnel(m *meta, r conntrack.ToServer) {
	switch {
	case !m.via.fresh():
		w.drop(m, DropReturned)
		return
	case !w.mayTell(r.Server):
		w.drop(m, DropBadSource)
		return
	}
	r.Stranger = !w.capable(r.Server)
	r.Addr = m.addr - uint64(m.offset()) + uint64(m.p.L3)
	r.Len = m.p.End - m.p.L3
	w.tell() // in their order
	if !w.handoff.Out.Push(r) {
		w.drop(m, DropHandoffFull)
		return
	}
	m.verdict, m.left = gone, LeftServer
	m.outcome, m.what.peer = outcomeTunnelled, r.Server
	if m.dir == V6ToV4 {
		m.what.peer = r.Own
	}
	if (m.p.Kind == packet.KindTCP || m.p.Kind == packet.KindUDP) && !w.handoff.Servers.Translates(r.Server) {
		m.outcome = outcomeAsked // with an entry, the server sends it back
	}
	w.counters.Passed[map6(m.dir)]++
	w.told = true
}

// map6 is the family that a packet of the direction arrived as.
func map6(d Direction) Family {
	if d == V6ToV4 {
		return IPv6
	}
	return IPv4
}

// notify tells the server of a mapping that is used with it for the first
// time, whether it listens or not (handoff draft §8). An entry has no room for
// other prefixes than /96. Behind an address of ours is another client
// (hairpinning): told of it, we would take ourselves for a handoff server.
func (w *Worker) notify(s *conntrack.Session) {
	k := &s.Key
	if w.rules.Pool6[k.Pool6].Bits != 96 || w.rules.Pool4.Contains(k.Server) {
		return
	}
	n := &w.notes
	if n.n == len(n.list) {
		w.tell()
	}
	n.list[n.n] = conntrack.ToServer{
		Kind: conntrack.Notify, Pool6: k.Pool6, MappedPort: s.MappedPort, ClientPort: k.ClientPort,
		Server: k.Server, Own: s.Mapped, Client: k.Client,
	}
	n.n++
}

// notes collects notifications. To show them to the handoff worker one by one,
// and to wake it for each, would cost more than to make their sessions: it reads
// the ring on another processor, and waking is a system call. Owned by the worker.
type notes struct {
	n      int
	rounds int // with packets, that the first has waited
	list   [BurstSize]conntrack.ToServer
}

// notifyRounds is how many rounds with packets a notification waits for others
// at most. A round without packets, or a packet for the handoff worker, takes
// them along.
const notifyRounds = 32

// tell hands the notifications to the handoff worker, as far as there is room.
func (w *Worker) tell() {
	n := &w.notes
	if n.n == 0 {
		return
	}
	told := w.handoff.Out.PushBatch(n.list[:n.n])
	w.counters.NotifyLost += uint64(n.n - told)
	n.n, n.rounds, w.told = 0, 0, true
}

// wakeHandoff ends a round in which there is something for the handoff worker.
func (w *Worker) wakeHandoff(received int) {
	if !w.told && received > 0 && w.notes.rounds < notifyRounds {
		w.notes.rounds++
		return
	}
	w.tell()
	w.told = false
	w.handoff.Wake()
}

// overEntry64 opens a session over a server's cached entry, if there is one.
// Entries cost no question and no mapping of our own.
func (w *Worker) overEntry64(m *meta, f *conntrack.Foresight) (found bool) {
	k := &m.k64
	ek := conntrack.EntryKey64(k)
	if k.Proto == conntrack.ICMP || !w.table.Lookup64(&ek, f.Entry, &m.v64) {
		return false
	}
	m.v64.Touch(w.now)
	s := conntrack.Session{
		Key: *k, Mapped: m.v64.Mapped, MappedPort: m.v64.MappedPort, State: resumed(&m.p, false),
	}
	w.deltas(&s)
	if v := w.shard.InsertOver(&s, w.now); v != conntrack.OK {
		w.drop(m, verdictReasons[v])
		return true
	}
	if !w.table.Lookup64(k, m.hash, &m.v64) {
		w.drop(m, DropTableFull)
	}
	return true
}

// overEntry46 is overEntry64 from the IPv4 side. The client's owner inserts.
func (w *Worker) overEntry46(m *meta) (found bool) {
	k := &m.k46
	ek := conntrack.EntryKey46(k)
	if k.Proto == conntrack.ICMP || !w.table.Lookup46(&ek, w.table.Hash46(&ek), &m.v46) {
		return false
	}
	if owner := w.table.Owner(m.v46.Client, m.v46.ClientPort); owner != w.id {
		w.giveTo(owner, m)
		return true
	}
	m.v46.Touch(w.now)
	s := conntrack.Session{
		Key: conntrack.Key64{
			Client: m.v46.Client, ClientPort: m.v46.ClientPort, Server: k.Server, ServerPort: k.ServerPort,
			Proto: k.Proto, Pool6: m.v46.Pool6,
		},
		Mapped: k.Mapped, MappedPort: k.MappedPort, State: resumed(&m.p, true),
	}
	w.deltas(&s)
	if v := w.shard.InsertOver(&s, w.now); v != conntrack.OK {
		w.drop(m, verdictReasons[v])
		return true
	}
	if !w.table.Lookup46(k, m.hash, &m.v46) {
		w.drop(m, DropTableFull)
	}
	return true
}

// resumed is the state of a session over an entry: such a connection may be
// older than the session, or than this process.
func resumed(p *packet.Parsed, fromV4 bool) conntrack.TCPState {
	if p.Kind == packet.KindTCP && !opens(p.TCPFlags) {
		return conntrack.StateEstablished
	}
	return initial(p, fromV4)
}
