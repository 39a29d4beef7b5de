package conntrack

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
		i := w.heads[w.tick%wheelSize]
		if i == 0 {
			w.tick++
			continue
		}
		work -= bucketsPerOp - 1
		w.unlink(s.index64.slots, i-1)
		if s.recheck(i-1, now) {
			expired++
		}
	}
	return expired
}

// recheck ends the session of a slot that was just taken off the wheel, or
// puts it back.
func (s *Shard) recheck(i uint32, now Tick) (expired bool) {
	a := &s.index64.slots[i]
	w4 := a.w[4].Load()
	p := protoOf(w4)
	used, other := Tick(a.stamp.Load()), Tick(s.index46.slots[w4>>32].stamp.Load())
	if before(used, other) {
		used = other
		a.stamp.Store(uint32(used)) // the session file has this slot alone
	}
	state := a.state.Load()
	due := used + s.t.lifetime(p, stateOf(state))
	if !before(now, due) && p == TCP && stateOf(state) == StateEstablished && s.linger(i, state, now) {
		due = now + s.t.lifetime(TCP, StateTrans)
	}
	s.arm(i, now, due, p)
	if before(now, due) {
		return false
	}
	s.expire(i)
	return true
}

// expire removes a session whose time has come. Entries are counted apart.
func (s *Shard) expire(i uint32) {
	if protoOf(s.index64.slots[i].w[4].Load()) != Entry {
		s.stats.add(statExpired, 1)
	}
	s.removeSlot(i)
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
	tags := s.index64.tags[bucket].Load()
	for lane := range uint32(lanes) {
		if tags>>(lane*8)&0xff == 0 {
			continue
		}
		i := bucket*lanes + lane
		if !s.sweep.flush && !s.outdated(i) {
			if s.sweep.count {
				s.countLate(i)
			}
			continue
		}
		s.expire(i)
		removed++
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
