package conntrack

import "math/bits"

// The timer wheel has one list of sessions per tick of the next 13 minutes. A
// session sits where it can expire at the earliest; packets do not move it.
// When its tick comes it is looked at: still idle, it is removed, otherwise it
// is put where it can expire now. A FIN or an RST shortens a lifetime while the
// session sits far out, and so may SetTimeouts, so no session sits further out
// than recheckTicks, TCP sessions an eighth of the transitory lifetime.
const (
	wheelSize    = 8192
	recheckTicks = 30 * TicksPerSecond
	wheelHead    = 1 << 31 // a slot's prev: the list of a tick, not another slot
	bucketsPerOp = 16      // empty ticks that cost as much as one session
)

// wheel links the 64 slots of a shard through their prev and next, which hold
// slot numbers plus one, 0 for none. Owned by the shard's worker.
type wheel struct {
	heads [wheelSize]uint32
	tick  Tick // the next one to look at
	count int
}

// link puts a slot on the list of a tick, which lies within the wheel's reach.
func (w *wheel) link(slots []slot, i uint32, due Tick) {
	b := uint32(due % wheelSize)
	s := &slots[i]
	s.prev, s.next = wheelHead|b, w.heads[b]
	if s.next != 0 {
		slots[s.next-1].prev = i + 1
	}
	w.heads[b] = i + 1
	w.count++
}

func (w *wheel) unlink(slots []slot, i uint32) {
	s := &slots[i]
	if s.next != 0 {
		slots[s.next-1].prev = s.prev
	}
	if s.prev&wheelHead != 0 {
		w.heads[s.prev&^wheelHead] = s.next
	} else {
		slots[s.prev-1].next = s.next
	}
	w.count--
}

// foreseeUnlink asks for the slots that unlink writes.
func (w *wheel) foreseeUnlink(slots []slot, i uint32) {
	if next := slots[i].next; next != 0 {
		prefetchLine(&slots[next-1])
	}
	if prev := slots[i].prev; prev&wheelHead == 0 {
		prefetchLine(&slots[prev-1])
	}
}

// before tells whether a comes before b; ticks wrap.
func before(a, b Tick) bool { return int32(a-b) < 0 }

// arm puts a session on the wheel for the time it may expire.
func (s *Shard) arm(i uint32, now, due Tick, p Proto) {
	w := &s.wheel
	if w.count == 0 {
		w.tick = now + 1 // an empty wheel has nothing to catch up with
	}
	reach := Tick(recheckTicks)
	if p == TCP {
		reach = min(reach, max(TicksPerSecond, s.t.lifetime(TCP, StateTrans)/8))
	}
	if before(now+reach, due) {
		due = now + reach
	}
	if before(due, now+1) {
		due = now + 1
	}
	if before(due, w.tick) {
		due = w.tick
	}
	if last := w.tick + wheelSize - 1; before(last, due) {
		due = last
	}
	w.link(s.index64.slots, i, due)
}

// Expire ends sessions that were idle for their lifetime and says how many.
// Established TCP connections it moves to TRANS first, and lists in Probes.
// It does work for at most budget sessions; what is left, the next call does.
// A worker calls it once per burst.
func (s *Shard) Expire(now Tick, budget int) (expired int) {
	defer s.stats.publish()
	w := &s.wheel
	s.now = now
	s.probes = s.probes[:0]
	if s.blocks.first != 0 {
		s.returnBlocks(now)
	}
	if budget -= s.sweepSome(budget, &expired); budget <= 0 || w.count == 0 {
		return expired
	}
	if last := now - (wheelSize - 1); before(w.tick, last) {
		w.tick = last // one turn visits every session, however long the pause was
	}
	for work := budget * bucketsPerOp; work > 0 && !before(now, w.tick) && w.count > 0 && len(s.probes) < maxProbes; work-- {
		if w.heads[w.tick%wheelSize] == 0 {
			w.tick++
			continue
		}
		n := s.expireList(w.heads[w.tick%wheelSize], now, (work+bucketsPerOp-1)/bucketsPerOp, &expired)
		work -= n*bucketsPerOp - 1
	}
	return expired
}

// expireList looks at sessions of a tick's list, of which the first is given: at
// budget of them at most, and no more than may be probed. It says how many it
// looked at. A list can be read only one after the other, so what each session
// needs is asked for while those before it are dealt with.
func (s *Shard) expireList(next uint32, now Tick, budget int, expired *int) (n int) {
	var queue [endAhead]ending
	slots, ahead := s.index64.slots, 0
	for n < budget && len(s.probes) < maxProbes {
		for ; next != 0 && ahead < n+endAhead && ahead < budget; ahead++ {
			a := &slots[next-1]
			due := Tick(a.stamp.Load()) + s.t.lifetime(protoOf(a.w[4].Load()), stateOf(a.state.Load()))
			s.look(&queue[ahead%endAhead], next-1, !before(now, due))
			if next = a.next; next != 0 {
				prefetchLine(&slots[next-1])
			}
		}
		if n == ahead {
			break
		}
		if s.recheck(&queue[n%endAhead], now) {
			*expired++
		}
		n++
	}
	return n
}

// recheck ends a session whose place on the wheel has come, or gives it
// another.
func (s *Shard) recheck(e *ending, now Tick) (expired bool) {
	a := &s.index64.slots[e.i]
	w4 := a.w[4].Load()
	p := protoOf(w4)
	used, other := Tick(a.stamp.Load()), Tick(s.index46.slots[w4>>32].stamp.Load())
	if before(used, other) {
		used = other
		a.stamp.Store(uint32(used)) // the session file has this slot alone
	}
	state := a.state.Load()
	due := used + s.t.lifetime(p, stateOf(state))
	if !before(now, due) && p == TCP && stateOf(state) == StateEstablished && s.linger(e.i, state, now) {
		due = now + s.t.lifetime(TCP, StateTrans)
	}
	if before(now, due) {
		s.wheel.unlink(s.index64.slots, e.i)
		s.arm(e.i, now, due, p)
		return false
	}
	s.expire(e)
	return true
}

// expire removes a session whose time has come. Entries are counted apart.
func (s *Shard) expire(e *ending) {
	if protoOf(s.index64.slots[e.i].w[4].Load()) != Entry {
		s.stats.add(statExpired, 1)
	}
	s.end(e)
}

// sweep is a walk over a shard's slots that removes what a control command
// ended, a bounded number per call of Expire. Owned by the shard's worker.
type sweep struct {
	at                    uint32 // next bucket
	statics, all, handoff uint32 // the table's counters when the walk began
	limits                uint32
	active                bool
	flush, purge          bool // everything; what handoff servers gave
	count                 bool // nothing is removed, only counted against its client
}

// Swept says whether every shard has carried out the last Flush, FlushHandoff
// and RemoveStatic. Any goroutine.
func (t *Table) Swept() bool {
	want := t.sweeps()
	for _, s := range t.shards {
		if s.swept.Load() != want {
			return false
		}
	}
	return true
}

// sweeps counts all calls that start a sweep.
func (t *Table) sweeps() uint32 {
	return t.sweepStatics.Load() + t.sweepAll.Load() + t.sweepHandoff.Load() + t.sweepLimits.Load()
}

// sweepSome goes on with the walk, or begins one, and says how much of the
// budget it used.
func (s *Shard) sweepSome(budget int, removed *int) (used int) {
	w := &s.sweep
	statics, all, handoff := s.t.sweepStatics.Load(), s.t.sweepAll.Load(), s.t.sweepHandoff.Load()
	limits := s.t.sweepLimits.Load()
	if statics != w.statics || all != w.all || handoff != w.handoff || limits != w.limits {
		w.flush = w.active && w.flush || all != w.all
		w.purge = w.active && w.purge || handoff != w.handoff
		w.count = w.active && w.count || limits != w.limits
		w.at, w.active, w.statics, w.all, w.handoff, w.limits = 0, true, statics, all, handoff, limits
	}
	for ; w.active && used < budget; used++ {
		if int(w.at) == len(s.index64.tags) {
			w.active, w.flush, w.purge, w.count = false, false, false, false
			s.swept.Store(w.statics + w.all + w.handoff + w.limits)
			break
		}
		*removed += s.sweepBucket(w.at)
		w.at++
	}
	return used
}

// sweepBucket removes a bucket's sessions: all, those of handoff servers, or
// those of static mappings that are no more.
func (s *Shard) sweepBucket(bucket uint32) (removed int) {
	var ends [lanes]ending
	slots := s.index64.slots
	tags := s.index64.tags[bucket].Load()
	for full := matchesAny(tags); full != 0; full &= full - 1 {
		i := bucket*lanes + uint32(bits.TrailingZeros64(full))>>3
		if next := i + lanes; int(next) < len(slots) {
			prefetchLine(&slots[next])
		}
		if !s.sweep.flush && !s.outdated(i) {
			if s.sweep.count {
				s.countLate(i)
			}
			continue
		}
		s.look(&ends[removed], i, true)
		s.wheel.foreseeUnlink(slots, i)
		removed++
	}
	for n := range removed {
		s.expire(&ends[n])
	}
	return removed
}

// outdated tells whether a sweep removes a session: its static mapping is no
// more, or what handoff servers gave is to be forgotten.
func (s *Shard) outdated(i uint32) bool {
	var w words
	s.index64.slots[i].load(&w)
	if w.origin() == OriginHandoff {
		return s.sweep.purge
	}
	if w.origin() != OriginStatic {
		return false
	}
	return s.t.statics.Load().byMapped[mappedKey{w.mapped(), uint16(w[3] >> 16), w.proto()}] == nil
}
