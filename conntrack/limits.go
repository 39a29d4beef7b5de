package conntrack

// Limits per client (RFC 6888 REQ-4, REQ-5; RFC 6146 §5.3). A client is an IPv6
// address.
//
// Sessions that count: every one over a mapping of ours, dynamic or static, of
// any protocol, whichever side opened it. Sessions over a handoff server's
// entry do not: they take no port, and make room for others when it is short.
// Ports that count: dynamic mappings, also those of ICMP identifiers. Static
// mappings were given by the administrator.
//
// Nothing is counted while there are no limits. What was counted is marked, in
// the session's 64 slot and in the BIB entry, so limits can be set and taken
// away at any time: what was there before is counted by a walk over the table
// (wheel.go), or when it is used again.

// countedBit in w[4] of a 64 slot marks a session that counts.
const countedBit = 1 << 3

// ClientLimits are the most that one client may have; 0 is without limit.
type ClientLimits struct {
	Sessions int
	Ports    int // mapped ports and ICMP identifiers together
}

// Largest limits that can be told from none.
const (
	MaxSessionsPerClient = sessionCount
	MaxPortsPerClient    = portCount / onePort
)

// SetClientLimits changes the limits. What a client has beyond them stays.
// Setting the first limit makes the shards count what there is, bit by bit in
// their calls of Expire; until that is done, which Swept tells, clients may
// have more. Any goroutine, one at a time.
func (t *Table) SetClientLimits(l ClientLimits) {
	if word := l.word(); t.limits.Swap(word) == 0 && word != 0 {
		t.sweepLimits.Add(1)
	}
}

func (l ClientLimits) word() uint64 {
	return uint64(min(max(l.Sessions, 0), MaxSessionsPerClient))<<32 | uint64(min(max(l.Ports, 0), MaxPortsPerClient))
}

// ClientLimits gives the limits in force. Any goroutine.
func (t *Table) ClientLimits() ClientLimits {
	l := t.limits.Load()
	return ClientLimits{Sessions: int(l >> 32), Ports: int(uint32(l))}
}

// ClientHas tells what a client has that counts: nothing while there are no
// limits. Any goroutine.
func (t *Table) ClientHas(client Addr6) (sessions, ports int) {
	return t.clients.has(t.hash.address(client))
}

// ClientBucket tells which bucket a client is counted in: when that is full,
// the client is refused (ClientsFull). Tests fill one.
func (t *Table) ClientBucket(client Addr6) int {
	return int(t.clients.bucketOf(t.hash.address(client)))
}

// ClientsPerBucket is how many clients a bucket has places for.
const ClientsPerBucket = clientLanes

// noLimit stands for 0.
const noLimit = 1 << 32

// limitOr is a limit, or noLimit.
func limitOr(l uint64) uint64 {
	if l == 0 {
		return noLimit
	}
	return l
}

// takeSession counts a session if there are limits. mark is what its slot is
// to remember. A session of an earlier process is taken in whatever the limit.
func (s *Shard) takeSession(client Addr6, origin Origin, p Proto, restored bool) (mark uint64, v Verdict) {
	l := s.t.limits.Load()
	if l == 0 || origin == OriginHandoff || p == Entry {
		return 0, OK
	}
	limit := limitOr(l >> 32)
	if restored {
		limit = noLimit
	}
	switch s.take(client, oneSession, limit) {
	case overLimit:
		return 0, ClientSessions
	case noPlace:
		if restored {
			return 0, OK
		}
		return 0, ClientsFull
	}
	return countedBit, OK
}

// takePort does the same for a mapping that is about to be made.
func (s *Shard) takePort(client Addr6, restored bool) (mark uint64, v Verdict) {
	l := s.t.limits.Load()
	if l == 0 {
		return 0, OK
	}
	limit := limitOr(uint64(uint32(l)))
	if restored {
		limit = noLimit
	}
	switch s.take(client, onePort, limit) {
	case overLimit:
		return 0, ClientPorts
	case noPlace:
		if restored {
			return 0, OK
		}
		return 0, ClientsFull
	}
	return bibCounted, OK
}

func (s *Shard) take(client Addr6, one, limit uint64) tally {
	result, born := s.t.clients.take(s.t.hash.address(client), one, limit)
	if born {
		s.stats.add(statClients, 1)
	}
	if result == noPlace {
		s.stats.add(statUncounted, 1)
	}
	return result
}

// giveBack undoes take for what carries a mark.
func (s *Shard) giveBack(client Addr6, mark, one uint64) {
	if mark != 0 && s.t.clients.give(s.t.hash.address(client), one) {
		s.stats.add(statClients, -1)
	}
}

// countLate counts a session, and its mapping, from before there were limits.
func (s *Shard) countLate(i uint32) {
	var w words
	a := &s.index64.slots[i]
	if _, ok := a.load(&w); !ok || w[4]&countedBit != 0 {
		return
	}
	se := w.session()
	if mark, _ := s.takeSession(se.Key.Client, se.Origin, se.Key.Proto, true); mark != 0 {
		a.w[4].Store(w[4] | mark) // no key has this bit, and nobody else writes here
	}
	if se.Origin != OriginNAT64 {
		return
	}
	if set, ok := s.t.poolSet(kindOf(se.Key.Proto), se.Mapped); ok {
		s.countMapping(&s.t.bib.entries[bibIndex(set, se.MappedPort)], se.Key.Client)
	}
}

// countMapping counts a mapping that is there already, if it does not count yet.
func (s *Shard) countMapping(e *bibEntry, client Addr6) {
	if s.t.limits.Load() == 0 || e.meta.Load()&bibCounted != 0 {
		return
	}
	if mark, _ := s.takePort(client, true); mark != 0 {
		e.meta.Or(mark)
	}
}
