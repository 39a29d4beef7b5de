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
// so tags, by which a SYN is found, may be read by all, and so may what
// invite.go finds it by; whoever opens the connection marks the tag, and the
// store's owner then forgets the SYN without an answer. Nothing waits and
// nothing is locked. A full store is a counted drop: what SYN floods cost is
// bounded, in memory and in ICMP errors.
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

// synStore is one worker's. What is not atomic is its owner's alone.
type synStore struct {
	count atomic.Int32 // SYNs that wait, so that others see an empty store at one glance
	_     [60]byte
	tags  [synBuckets][synWays]atomic.Uint64 // 0: free; bit 0: the client has opened the connection

	// The SYNs in the order that they came: the first has waited longest. They
	// are numbered from 1 on; order and senders.nodes are rings.
	first, n uint64
	order    [synSlots]uint16
	held     [synSlots]heldSYN
	senders  senders
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

// put stores the packet; sender is its bucket among senders. It returns false
// when there is no room; a SYN that is stored already, sent again, needs none.
func (s *synStore) put(m *meta, sender uint64, now conntrack.Tick) bool {
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
	s.senders.add(s.first+s.n, &h.key, tag, now, sender)
	s.count.Add(1)
	return true
}

// waits says whether a flow's SYN is there and the client's has not come. Any
// goroutine.
func (s *synStore) waits(tag uint64) bool {
	b := &s.tags[synBucket(tag)]
	for i := range b {
		if b[i].Load() == tag {
			return true
		}
	}
	return false
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
	slot := int(s.order[s.first%synSlots])
	if h = &s.held[slot]; now-h.since < lifetime {
		return nil, false
	}
	s.first++
	s.n--
	s.senders.drop(s.first)
	s.count.Add(-1)
	return h, s.tags[slot/synWays][slot%synWays].Swap(0)&1 != 0
}

// storeSYN keeps an unsolicited SYN for later, unless another worker has it: of
// one that was hairpinned before its client's session was open everywhere, the
// repetition may go round elsewhere.
func (w *Worker) storeSYN(m *meta) {
	for _, o := range w.group.workers {
		if o != w && o.syns.count.Load() != 0 && o.syns.waits(synTag(m.hash)) {
			w.drop(m, DropSYNStored)
			return
		}
	}
	if !w.syns.put(m, w.senderBucket(m.k46.Server, m.k46.ServerPort), w.now) {
		w.drop(m, DropSYNStoreFull)
		return
	}
	w.drop(m, DropSYNStored)
}

// awaited tells whether a SYN from the IPv4 side waits for the connection that
// a client opens right now. The tag, 0 if none waits, is what overtake wants
// once the connection is there.
func (w *Worker) awaited(s *conntrack.Session) (tag uint64) {
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
		if o.syns.waits(tag) {
			return tag
		}
	}
	return 0
}

// overtake sees to it that a SYN is not answered, whichever worker has it. Two
// may, if it was sent again and another worker received it.
func (w *Worker) overtake(tag uint64) {
	for _, o := range w.group.workers {
		if o.syns.count.Load() != 0 {
			o.syns.match(tag)
		}
	}
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
