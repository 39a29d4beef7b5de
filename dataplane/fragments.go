package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// This step takes fragments to their datagrams (RFC 6146 §3.4). A fragment
// other than the first has no ports; it follows what the first of its datagram
// decided. Once that has passed, the others are translated as they come. Those
// that come before it are held in their frames.
//
//	fragment ─► owner of the datagram (by hash; over the rings if that is another worker)
//	              │ first                          │ later
//	              ▼                                ▼
//	          through the steps, settle.go     decided: follows; else held
//
// An echo, and a UDP datagram over IPv4 without a checksum, need all fragments
// for the checksum that the first is to carry: gather.go.

// role is the part that a fragment plays beyond those of its datagram.
type role uint8

const (
	roleNone     role = iota // no fragment, or one that has not been to its datagram
	roleSpoilt               // no datagram can contain it: all of it is refused
	roleFirst                // a first fragment whose fate decides for the others
	roleForeign              // the same, of another worker's datagram: here for its session
	roleFollower             // a fragment that knows what was decided
	roleVerdict              // not a packet: what became of a roleForeign
)

// fragmentReserve is how many free frames a worker keeps when it holds
// fragments: other packets need frames, too.
const fragmentReserve = BurstSize

// fragments takes a burst's fragments to their datagrams.
func (w *Worker) fragments(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		if m.verdict != undecided || !isFragment(&m.p) {
			continue
		}
		switch m.role {
		case roleFollower:
			w.follow(m)
		case roleForeign:
			m.outcome = outcomeSent
			w.classifyFirst(m)
		case roleFirst:
			if d := w.datagrams.deref(m.ref); d == nil || d.state != deciding {
				w.drop(m, DropFragmentNoFirst) // too long under way
				m.role = roleNone
				continue
			}
			m.outcome, m.p.Whole = outcomeSent, m.what.whole
			w.classifyFirst(m)
		default:
			w.admit(m)
		}
	}
}

func isFragment(p *packet.Parsed) bool { return p.MoreFrags || p.FragOffset != 0 }

// admit takes a fragment to its datagram, or to the worker that has it.
func (w *Worker) admit(m *meta) {
	k := datagramKey{
		srcHi: m.p.SrcHi, srcLo: m.p.SrcLo, dstHi: m.p.DstHi, dstLo: m.p.DstLo, id: m.p.ID, dir: m.dir,
	}
	if m.dir == V4ToV6 {
		k.srcLo, k.dstLo, k.proto = uint64(m.p.Src4), uint64(m.p.Dst4), m.p.Proto
	}
	hash := w.datagramHash(m)
	// A hairpinned fragment stays: its datagram came to this worker already.
	if owner := w.datagramOwner(hash); owner != w.id && m.via != viaHairpin {
		w.giveTo(owner, m)
		return
	}
	t := w.datagrams
	d := t.find(&k, hash)
	if d != nil && t.over(d, w.now) {
		w.endDatagram(d)
		d = nil
	}
	if d == nil {
		if t.free == 0 {
			w.evict(t.oldest())
		}
		d = t.open(&k, hash, w.now)
	} else if m.via == viaServer && w.returned(m, d) {
		return
	}
	if d.state == refusing {
		w.drop(m, d.reason)
		return
	}
	if r := w.addPiece(m, d); r != NotDropped {
		if r != DropFragmentDuplicate {
			w.refuse(d, r)
		}
		w.drop(m, r)
		return
	}
	if m.p.FragOffset == 0 {
		w.admitFirst(m, d)
	} else {
		w.admitLater(m, d)
	}
}

// datagramHash is keyed by the table's secret, so nobody can aim at a bucket
// or a worker. It need not tell all datagrams apart.
func (w *Worker) datagramHash(m *meta) uint64 {
	if m.dir == V6ToV4 {
		k := conntrack.Key64{
			Client: conntrack.Addr6{Hi: m.p.SrcHi, Lo: m.p.SrcLo}, Server: m.server, Pool6: m.pool6,
			ClientPort: uint16(m.p.ID), ServerPort: uint16(m.p.ID >> 16),
		}
		return w.table.Hash64(&k)
	}
	k := conntrack.Key46{
		Server: m.p.Src4, Mapped: m.p.Dst4, ServerPort: uint16(m.p.ID), Proto: conntrack.Proto(m.p.Proto),
	}
	return w.table.Hash46(&k)
}

// datagramOwner is the worker whose table has the datagram. The table's bucket
// comes from other bits of the hash.
func (w *Worker) datagramOwner(hash uint64) int {
	return int((hash >> 24 & 0xffffffff) * uint64(w.group.size()) >> 32)
}

// addPiece notes the fragment at its datagram. What it returns refuses all of
// the datagram, unless it is a duplicate.
func (w *Worker) addPiece(m *meta, d *datagram) DropReason {
	at, n := int(m.p.FragOffset), int(m.p.End-m.p.L4)
	switch {
	case m.role == roleSpoilt:
		return m.reason
	case m.p.Proto == packet.ProtoTCP && at != 0 && at < packet.TCPLen:
		return DropFragmentTiny // RFC 3128: it would rewrite the header's flags
	case at+n > maxUpper:
		return DropFragmentTooLong
	}
	switch d.add(at, n, m.p.MoreFrags) {
	case repeats:
		return DropFragmentDuplicate
	case overlaps:
		return DropFragmentOverlap
	case exceeds:
		return DropFragmentTooMany
	}
	return NotDropped
}

// admitFirst sends a first fragment on its way, or has it wait for the others.
func (w *Worker) admitFirst(m *meta, d *datagram) {
	m.role, m.ref, m.outcome = roleFirst, w.datagrams.ref(d), outcomeSent
	d.proto, d.srcPort, d.dstPort = m.p.Proto, m.p.SrcPort, m.p.DstPort
	if m.via == viaPort && m.dir == V4ToV6 && w.isHosts(m) {
		d.state = deciding
		w.pass(m)
		m.outcome = max(m.outcome, outcomePassed)
		return
	}
	if !w.needsAll(m) {
		d.state = deciding
		w.classifyFirst(m)
		return
	}
	d.state = gathering
	m.role = roleNone
	if w.holdFor(m, d) && d.complete() {
		w.gathered(d)
	}
}

// admitLater has a fragment follow its first, or wait for it.
func (w *Worker) admitLater(m *meta, d *datagram) {
	t := w.datagrams
	switch d.state {
	case translating, tunnelling, passing:
		m.what = d.decision
		if d.complete() && d.held == 0 {
			t.close(d) // what is complete needs no memory
		} else {
			t.refresh(d, w.now)
		}
		w.follow(m)
	default:
		if w.holdFor(m, d) && d.state == gathering && d.complete() {
			w.gathered(d)
		}
	}
}

// holdFor holds the packet for its datagram. If it cannot, the datagram will
// never be complete, so it is refused.
func (w *Worker) holdFor(m *meta, d *datagram) bool {
	r := DropFragmentLimit
	if w.frames.Len() < fragmentReserve {
		r = DropNoFrame
	} else if w.datagrams.hold(d, m) {
		return true
	}
	w.refuse(d, r)
	w.drop(m, r)
	return false
}

// classifyFirst finds out what a first fragment needs from the tables, as
// classify does for whole packets.
func (w *Worker) classifyFirst(m *meta) {
	switch m.p.Kind {
	case packet.KindTCP, packet.KindUDP, packet.KindEchoRequest, packet.KindEchoReply:
		m.class = classSession
	case packet.KindICMPError:
		w.drop(m, DropFragmentICMP)
	case packet.KindICMPOther:
		w.refuseICMP(m)
	default:
		w.refuseProtocol(m)
	}
}

// follow does with a fragment what was decided for its datagram.
func (w *Worker) follow(m *meta) {
	d := &m.what
	m.role = roleFollower
	switch d.state {
	case translating:
		m.class = classSession
		m.p.Proto, m.p.SrcPort, m.p.DstPort, m.p.Whole = d.proto, d.srcPort, d.dstPort, d.whole
	case passing:
		w.pass(m)
	case tunnelling:
		if m.dir == V6ToV4 {
			w.tunnel6(m, d.peer, 0)
		} else {
			w.tunnel4(m, d.peer)
		}
	default:
		w.drop(m, d.reason)
	}
}

// returned deals with a fragment that a handoff server sent back: it was
// counted when it went there. A first one decides anew.
func (w *Worker) returned(m *meta, d *datagram) (done bool) {
	first := m.p.FragOffset == 0
	switch d.state {
	case asking, tunnelling:
		if !first {
			w.drop(m, DropReturned)
			return true
		}
		w.datagrams.become(d, deciding, w.now)
		m.role, m.ref, m.outcome, m.p.Whole = roleFirst, w.datagrams.ref(d), outcomeSent, d.whole
		w.classifyFirst(m)
		return true
	case translating:
		m.what = d.decision
		w.follow(m)
		return true
	}
	return false
}

// refuse gives a datagram up: what is held of it, and what will come.
func (w *Worker) refuse(d *datagram, r DropReason) {
	w.dropHeld(d, r)
	d.reason = r
	w.datagrams.become(d, refusing, w.now)
}

// evict makes room for another datagram.
func (w *Worker) evict(d *datagram) {
	w.dropHeld(d, DropFragmentLimit)
	w.datagrams.close(d)
}

// endDatagram ends one whose time is over.
func (w *Worker) endDatagram(d *datagram) {
	r := DropFragmentNoFirst
	if d.state == gathering {
		r = DropFragmentIncomplete
	}
	w.dropHeld(d, r)
	w.datagrams.close(d)
}

// expireFragments ends up to budget datagrams whose time is over, and says how
// many. Every list has its oldest in front.
func (w *Worker) expireFragments(budget int) (ended int) {
	t := w.datagrams
	for i := range t.lists {
		for l := &t.lists[i]; l.n > 0 && ended < budget && t.over(&t.all[l.first], w.now); ended++ {
			w.endDatagram(&t.all[l.first])
		}
	}
	return ended
}
