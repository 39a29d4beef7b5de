package dataplane

import (
	"sync/atomic"

	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// A SYN from the IPv4 side that nothing lets in is not answered at once: its
// client may be about to open the same connection from its side (simultaneous
// open). The SYN is stored for TCP_INCOMING_SYN; then, unless the client's SYN
// has come, it is answered with Port Unreachable (RFC 6146 §3.5.2.2 "CLOSED" and
// "V4 INIT", RFC 5382 REQ-4). What is stored is a copy of its start, enough for
// the error to quote all headers, so the packet itself counts as dropped.
//
// Each worker stores what it received. The client's SYN may reach any worker,
// so tags, by which a SYN is found, may be read by all; whoever opens the
// connection marks the tag, and the store's owner then forgets the SYN without
// an answer. Nothing waits and nothing is locked. A full store is a counted
// drop: what SYN floods cost is bounded, in memory and in ICMP errors.
const (
	synBuckets = 128
	synWays    = 8 // one cache line of tags
	synSlots   = synBuckets * synWays

	// synFrame is how much of a SYN is kept, from the Ethernet header on: the
	// longest IPv4 and TCP headers, and some data of TCP Fast Open. A power of
	// two, as frames are.
	synFrame = 256
	// synsPerRound bounds how many end in one round of the worker.
	synsPerRound = 32
)

// synStore is one worker's. All but count and tags is its owner's alone.
type synStore struct {
	count atomic.Int32 // SYNs that wait, so that others see an empty store at one glance
	_     [60]byte
	tags  [synBuckets][synWays]atomic.Uint64 // 0: free; bit 0: the client has opened the connection

	first, n int // order is a ring, oldest first
	order    [synSlots]uint16
	held     [synSlots]heldSYN
}

// heldSYN is the start of a stored packet and what is known of it.
type heldSYN struct {
	key   conntrack.Key46
	since conntrack.Tick
	via   via
	l3    uint16
	end   uint16
	frame [synFrame]byte
}

// synTag names a flow. The hash is keyed, so nobody can aim at a bucket.
func synTag(hash uint64) uint64 { return hash&^1 | 2 }

// synBucket is where a tag lies.
func synBucket(tag uint64) int { return int(tag >> 24 % synBuckets) }

// put stores the packet. It returns false when there is no room; a SYN that is
// stored already, sent again, needs none.
func (s *synStore) put(m *meta, now conntrack.Tick) bool {
	tag, free := synTag(m.hash), -1
	b := &s.tags[synBucket(tag)]
	for i := range b {
		switch b[i].Load() {
		case tag, tag | 1:
			return true
		case 0:
			free = i
		}
	}
	if free < 0 {
		return false
	}
	slot := synBucket(tag)*synWays + free
	h, from := &s.held[slot], m.offset()
	h.key, h.since, h.via = m.k46, now, m.via
	h.l3, h.end = m.p.L3-uint16(from), uint16(copy(h.frame[:], m.frame[from:m.p.End]))
	s.order[(s.first+s.n)%synSlots] = uint16(slot)
	s.n++
	b[free].Store(tag)
	s.count.Add(1)
	return true
}

// match marks a flow's SYN as overtaken by the client's. Any goroutine.
func (s *synStore) match(tag uint64) bool {
	b := &s.tags[synBucket(tag)]
	for i := range b {
		if b[i].Load() == tag && b[i].CompareAndSwap(tag, tag|1) {
			return true
		}
	}
	return false
}

// take ends the oldest SYN, if it is older than the lifetime. overtaken says
// that the client has opened the connection meanwhile. What it points to is
// valid until the next put.
func (s *synStore) take(now, lifetime conntrack.Tick) (h *heldSYN, overtaken bool) {
	if s.n == 0 {
		return nil, false
	}
	slot := int(s.order[s.first])
	if h = &s.held[slot]; now-h.since < lifetime {
		return nil, false
	}
	s.first = (s.first + 1) % synSlots
	s.n--
	s.count.Add(-1)
	return h, s.tags[slot/synWays][slot%synWays].Swap(0)&1 != 0
}

// storeSYN keeps an unsolicited SYN for later.
func (w *Worker) storeSYN(m *meta) {
	if !w.syns.put(m, w.now) {
		w.drop(m, DropSYNStoreFull)
		return
	}
	w.drop(m, DropSYNStored)
}

// awaited tells whether a SYN from the IPv4 side waits for the connection that
// a client opens right now, and if so, sees to it that it is not answered.
func (w *Worker) awaited(s *conntrack.Session) (found bool) {
	var tag uint64
	for _, o := range w.group.workers {
		if o.syns.count.Load() == 0 {
			continue
		}
		if tag == 0 {
			k := conntrack.Key46{
				Server: s.Key.Server, ServerPort: s.Key.ServerPort, Mapped: s.Mapped, MappedPort: s.MappedPort, Proto: conntrack.TCP,
			}
			tag = synTag(w.table.Hash46(&k))
		}
		found = o.syns.match(tag) || found
	}
	return found
}

// expireSYNs answers stored SYNs whose time has come.
func (w *Worker) expireSYNs() (ended int) {
	lifetime := w.table.IncomingSYN()
	for ; ended < synsPerRound; ended++ {
		h, overtaken := w.syns.take(w.now, lifetime)
		if h == nil {
			break
		}
		var v conntrack.View46
		if overtaken || w.table.Lookup46(&h.key, w.table.Hash46(&h.key), &v) {
			continue // RFC 5382 REQ-4: the connection is there, the SYN is dropped silently
		}
		w.answerSYN(h)
	}
	w.sendBack()
	return ended
}

// answerSYN sends Port Unreachable about a stored SYN. A flood of SYNs takes
// half of the ICMP errors at most, so that path MTU discovery goes on.
func (w *Worker) answerSYN(h *heldSYN) {
	if !w.limit.plenty() {
		w.counters.Suppressed++
		return
	}
	m := &w.aside
	*m = meta{frame: h.frame[:], len: uint32(h.end), via: h.via, dir: V4ToV6}
	m.p = packet.Parsed{
		L3: h.l3, End: h.end, Kind: packet.KindTCP, Proto: packet.ProtoTCP, Src4: h.key.Server, Dst4: h.key.Mapped,
	}
	w.answer4(m, 3, 3, 0)
}
