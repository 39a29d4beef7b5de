package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// search collects, for one direction, the packets of a burst that need a
// session. Owned by the worker; nothing in it survives the step.
type search struct {
	n      int
	hashes [BurstSize]uint64
	slots  [BurstSize]uint32 // where each session probably lies
	who    [BurstSize]uint8  // position in the burst
}

func (s *search) add(i int, hash uint64) {
	s.hashes[s.n&(BurstSize-1)], s.who[s.n&(BurstSize-1)] = hash, uint8(i)
	s.n++
}

// lookup finds every packet's session in passes over the burst, so that the
// cache misses of all its packets overlap (see conntrack's probe.go). What has
// no session goes the slow path.
func (w *Worker) lookup(b *burst) {
	s64, s46 := &w.search[V6ToV4], &w.search[V4ToV6]
	s64.n, s46.n = 0, 0
	for i := range b.n {
		m := &b.meta[i]
		switch {
		case m.verdict != undecided:
		case m.class == classError:
			w.lookupError(m)
		case m.dir == V6ToV4:
			m.key64()
			s64.add(i, w.table.Hash64(&m.k64))
		default:
			m.key46()
			s46.add(i, w.table.Hash46(&m.k46))
		}
	}
	w.lookupAll64(b, s64)
	w.lookupAll46(b, s46)
}

func (w *Worker) lookupAll64(b *burst, s *search) {
	w.table.Touch64(s.hashes[:s.n])
	w.table.Locate64(s.hashes[:s.n], s.slots[:s.n])
	w.missed.n = 0
	for i := range s.n {
		m := &b.meta[s.who[i]]
		m.hash = s.hashes[i]
		if !w.lookup64(m, s.slots[i]) {
			w.missed64(m)
		}
	}
	if w.missed.n > 0 {
		w.openAll64()
	}
}

func (w *Worker) lookupAll46(b *burst, s *search) {
	w.table.Touch46(s.hashes[:s.n])
	w.table.Locate46(s.hashes[:s.n], s.slots[:s.n])
	for i := range s.n {
		m := &b.meta[s.who[i]]
		m.hash = s.hashes[i]
		w.lookup46(m, s.slots[i])
	}
}

// key64 builds the session key of a packet from the IPv6 side. An echo has its
// identifier as client port and no server port.
func (m *meta) key64() {
	k := &m.k64
	k.Client = conntrack.Addr6{Hi: m.p.SrcHi, Lo: m.p.SrcLo}
	k.Server, k.Pool6 = m.server, m.pool6
	proto, echo := protocol(&m.p)
	k.Proto, k.ClientPort, k.ServerPort = conntrack.Proto(proto), m.p.SrcPort, m.p.DstPort
	if echo {
		k.ServerPort = 0
	}
}

func (m *meta) key46() {
	k := &m.k46
	k.Server, k.Mapped = m.p.Src4, m.p.Dst4
	proto, echo := protocol(&m.p)
	k.Proto, k.MappedPort, k.ServerPort = conntrack.Proto(proto), m.p.DstPort, m.p.SrcPort
	if echo {
		k.ServerPort = 0
	}
}

// lookup64 returns false for a packet without a session.
func (w *Worker) lookup64(m *meta, at uint32) (found bool) {
	if m.k64.Proto == conntrack.ICMP && w.capable(m.server) {
		w.tunnel6(m, w.ofSource(m), 0) // handoff draft §8, rule 1: the server answers echoes itself
		return true
	}
	if !w.table.LookupAt64(&m.k64, m.hash, at, &m.v64) {
		return false
	}
	w.used64(m)
	return true
}

// used64 notes a packet of the session in m.v64.
func (w *Worker) used64(m *meta) {
	if m.k64.Proto == conntrack.TCP {
		w.table.PacketTCP64(&m.v64, m.p.TCPFlags, w.now)
	} else {
		m.v64.Touch(w.now)
	}
}

func (w *Worker) lookup46(m *meta, at uint32) {
	if !w.table.LookupAt46(&m.k46, m.hash, at, &m.v46) {
		w.open46(m)
		return
	}
	if m.k46.Proto == conntrack.TCP {
		w.table.PacketTCP46(&m.v46, m.p.TCPFlags, w.now)
	} else {
		m.v46.Touch(w.now)
	}
}

// lookupError finds the session of the packet that an ICMP error quotes. The
// quoted packet went the other way, so its source is the error's destination.
// Errors keep no session alive (RFC 5508 §4.2, REQ-5).
func (w *Worker) lookupError(m *meta) {
	if m.dir == V6ToV4 {
		w.lookupError64(m)
	} else {
		w.lookupError46(m)
	}
}

func (w *Worker) lookupError64(m *meta) {
	if r := w.rules.refuseError64(m.p.SrcHi, m.p.SrcLo); r != NotDropped {
		w.drop(m, r)
		return
	}
	q := &m.quote
	if packet.ParseQuoted6(m.frame, int(m.p.L4)+icmpHeader, int(m.p.End), q) != packet.Good || !quotable(q) {
		w.drop(m, DropQuote)
		return
	}
	prefix := w.rules.pool6Index(q.SrcHi, q.SrcLo)
	if prefix < 0 {
		w.drop(m, DropErrorWithoutSession)
		return
	}
	if w.rules.Pool6[prefix].Extract(q.SrcHi, q.SrcLo) != m.server {
		w.drop(m, DropQuote) // not about a packet of the host that it is sent to
		return
	}
	proto, echo := protocol(q)
	m.k64 = conntrack.Key64{
		Client: conntrack.Addr6{Hi: q.DstHi, Lo: q.DstLo}, ClientPort: q.DstPort,
		Server: w.rules.Pool6[prefix].Extract(q.SrcHi, q.SrcLo), ServerPort: q.SrcPort,
		Proto: conntrack.Proto(proto), Pool6: uint8(prefix),
	}
	if echo {
		m.k64.ServerPort = 0
	}
	if w.table.Lookup64(&m.k64, w.table.Hash64(&m.k64), &m.v64) || w.entryOfError64(m) {
		return
	}
	if w.capable(m.server) {
		// Whoever sent the error, a router often: the entry is the client's.
		w.tunnel6(m, w.table.PairedAddress(m.k64.Client), 0)
		return
	}
	w.drop(m, DropErrorWithoutSession)
}

// entryOfError64 finds a server's entry for the quoted packet.
func (w *Worker) entryOfError64(m *meta) bool {
	k := conntrack.EntryKey64(&m.k64)
	return w.handoff != nil && m.k64.Proto != conntrack.ICMP && w.table.Lookup64(&k, w.table.Hash64(&k), &m.v64)
}

func (w *Worker) lookupError46(m *meta) {
	q := &m.quote
	if packet.ParseQuoted4(m.frame, int(m.p.L4)+icmpHeader, int(m.p.End), q) != packet.Good {
		w.drop(m, DropQuote)
		return
	}
	if q.Src4 != m.p.Dst4 {
		w.drop(m, DropQuote) // not about a packet of the address that it is sent to
		return
	}
	if !quotable(q) {
		w.errorForServer(m)
		return
	}
	proto, echo := protocol(q)
	m.k46 = conntrack.Key46{
		Server: q.Dst4, ServerPort: q.DstPort, Mapped: q.Src4, MappedPort: q.SrcPort, Proto: conntrack.Proto(proto),
	}
	if echo {
		m.k46.ServerPort = 0
	}
	if w.table.Lookup46(&m.k46, w.table.Hash46(&m.k46), &m.v46) || w.entryOfError46(m) {
		return
	}
	if echo {
		w.drop(m, DropErrorWithoutSession) // about an echo of ours: the NAT64 is the end of it
		return
	}
	w.errorForServer(m)
}

// entryOfError46 finds a server's entry for the quoted packet.
func (w *Worker) entryOfError46(m *meta) bool {
	k := conntrack.EntryKey46(&m.k46)
	return w.handoff != nil && m.k46.Proto != conntrack.ICMP && w.table.Lookup46(&k, w.table.Hash46(&k), &m.v46)
}

// errorForServer sends an ICMP error about a packet of no known session to the
// host that the packet was for: it may have the entry. (handoff draft §8 names
// the quoted source there, which by the rule before is the NAT64 itself.)
func (w *Worker) errorForServer(m *meta) {
	q := &m.quote
	switch {
	case !w.mayTell(q.Dst4) || q.FragOffset != 0 || q.Kind == packet.KindICMPError || q.Kind == packet.KindICMPOther:
		w.drop(m, DropErrorWithoutSession)
	case !w.rules.Pool4.Contains(q.Src4) || w.rules.Pool4.Contains(q.Dst4):
		w.drop(m, DropErrorWithoutSession)
	case packet.Fold(packet.Sum(m.frame[m.p.L4:m.p.End], 0)) != 0xffff:
		w.drop(m, DropICMPChecksum)
	default:
		w.tunnel4(m, q.Dst4)
	}
}

// icmpHeader is what stands in front of the quoted packet in an ICMP error of
// either version (RFC 792, RFC 4443 §2.1).
const icmpHeader = 8

// quotable says whether a quoted packet can have had a session.
func quotable(q *packet.Parsed) bool {
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP, packet.KindEchoRequest, packet.KindEchoReply:
		return true
	}
	return false
}
