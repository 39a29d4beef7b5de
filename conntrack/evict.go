package conntrack

import "math/bits"

// takeRoom takes the room for one session or entry. When there is none, the
// cache gives way: something that a handoff server can give again is removed.
func (s *Shard) takeRoom(p Proto) bool {
	if p == Entry {
		return s.takeEntry() || s.evict(Entry) && s.takeEntry()
	}
	return s.takeCredit() || s.evict(p) && s.takeCredit()
}

func (s *Shard) takeEntry() bool {
	for {
		free := s.t.freeEntries.Load()
		if free <= 0 {
			return false
		}
		if s.t.freeEntries.CompareAndSwap(free, free-1) {
			return true
		}
	}
}

// The search for something to evict compares what a few buckets hold, and goes
// on to more, within a bound, while it has found nothing. That finds enough
// where handoff's share of the table is large. A small one, such as a cache of
// a few entries in a table of a million slots, is found through recents.
const (
	evictBuckets = 64
	evictAtMost  = 5 * evictBuckets
	// maxRecents is so many that what is beyond them is dense enough to be
	// found without: in a table of 2²² slots, ten among those that are looked at.
	maxRecents = 1 << 14
)

// recents holds the slots into which a shard has put the latest entries, or
// sessions over entries. What a slot holds now may be something else. Owned by
// the shard's worker; a nil one remembers nothing.
type recents struct {
	slots []uint32
	at    int // the next place to write, and where a search begins
}

// newRecents has room for limit things and no more than maxRecents.
func newRecents(limit int) recents { return recents{slots: make([]uint32, min(limit, maxRecents))} }

func (r *recents) add(i uint32) {
	if len(r.slots) == 0 {
		return
	}
	r.slots[r.at] = i
	if r.at++; r.at == len(r.slots) {
		r.at = 0
	}
}

// evict removes the longest unused of some handoff sessions, or entries.
func (s *Shard) evict(p Proto) bool {
	if p != Entry && s.stats.own[statHandoff] == 0 {
		return false
	}
	c := choice{s: s, entries: p == Entry, recent: &s.recent}
	if c.entries {
		c.recent = &s.recentEntries
	}
	if len(c.recent.slots) < maxRecents { // nearly all of the kind are there
		c.amongRecents()
	}
	if !c.found {
		c.amongSlots()
	}
	if !c.found {
		c.amongRecents()
	}
	if c.found {
		s.expire(&ending{i: c.oldest})
	}
	return c.found
}

// choice looks for something to evict. For one search.
type choice struct {
	s       *Shard
	entries bool // entries, not sessions over them
	recent  *recents
	found   bool
	oldest  uint32
}

// consider compares what a slot holds with the longest unused so far.
func (c *choice) consider(i uint32) (better bool) {
	slots := c.s.index64.slots
	w4 := slots[i].w[4].Load()
	if Origin(w4>>4&0xf) != OriginHandoff || (protoOf(w4) == Entry) != c.entries {
		return false
	}
	if c.found && !before(Tick(slots[i].stamp.Load()), Tick(slots[c.oldest].stamp.Load())) {
		return false
	}
	c.found, c.oldest = true, i
	return true
}

// amongSlots looks at the next few buckets that the shard's hand comes by.
func (c *choice) amongSlots() {
	s := c.s
	for looked := 0; looked < evictAtMost && !(c.found && looked >= evictBuckets); looked++ {
		if s.hand++; int(s.hand) >= len(s.index64.tags) {
			s.hand = 0
		}
		tags := s.index64.tags[s.hand].Load()
		for full := matchesAny(tags); full != 0; full &= full - 1 {
			c.consider(s.hand*lanes + uint32(bits.TrailingZeros64(full))>>3)
		}
	}
}

// amongRecents looks at what was put in lately. The place of what is found is
// the next to be written, so that those that stay are not forgotten for it.
func (c *choice) amongRecents() {
	r := c.recent
	n, place := len(r.slots), r.at
	for looked := 0; looked < min(evictAtMost, n) && !(c.found && looked >= evictBuckets); looked++ {
		at := r.at + looked
		if at >= n {
			at -= n
		}
		// An empty slot still has the words of what it held.
		if i := r.slots[at]; c.s.index64.slots[i].seq.Load()&1 == 0 && c.consider(i) {
			place = at
		}
	}
	if !c.found && n > 0 {
		place = (r.at + min(evictAtMost, n)) % n // on to others next time
	}
	r.at = place
}

// matchesAny marks, with the top bit of its octet, each lane that has a tag.
func matchesAny(word uint64) uint64 {
	const low7 = 0x007f_7f7f_7f7f_7f7f
	return ((word&low7 + low7) | word) & laneHighs
}
