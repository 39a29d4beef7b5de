package conntrack

import "math/bits"

// A worker looks a burst of packets up in three passes, so that the cache
// misses of all of them overlap instead of queueing up:
//
//	Touch    every key's bucket of tags is loaded
//	Locate   the tags say which slot it probably is, and that is loaded
//	LookupAt the slot is compared and read; if it is another one, Lookup searches
//
// The first two are loops of a few instructions, because a processor looks only
// some hundred instructions ahead for loads that it can begin. A load needs no
// use of its result to be carried out: it is atomic, so the compiler keeps it.

// Touch64 loads the bucket that each hash leads to. Any goroutine.
func (t *Table) Touch64(hashes []uint64) {
	for _, h := range hashes {
		t.shards[h>>56].index64.touch(h)
	}
}

// Touch46 is Touch64 for the other direction.
func (t *Table) Touch46(hashes []uint64) {
	for _, h := range hashes {
		t.shards[h>>56].index46.touch(h)
	}
}

// Locate64 writes to at where the session of each hash probably lies, and loads
// that slot. at is as long as hashes. Any goroutine.
func (t *Table) Locate64(hashes []uint64, at []uint32) {
	at = at[:len(hashes)]
	for i, h := range hashes {
		at[i] = t.shards[h>>56].index64.locate(h)
	}
}

// Locate46 is Locate64 for the other direction. With several shards it looks
// into the one that the mapped port belongs to.
func (t *Table) Locate46(hashes []uint64, at []uint32) {
	at = at[:len(hashes)]
	for i, h := range hashes {
		at[i] = t.shards[h>>56].index46.locate(h)
	}
}

// LookupAt64 is Lookup64 that looks at the slot which Locate64 named first.
func (t *Table) LookupAt64(k *Key64, h uint64, at uint32, v *View64) bool {
	s := &t.shards[h>>56].index64.slots[at]
	if seq := s.seq.Load(); seq&1 == 0 && s.is64(k.query()) {
		return v.fill(s, at, seq, h)
	}
	return t.Lookup64(k, h, v)
}

// LookupAt46 is Lookup46 that looks at the slot which Locate46 named first.
func (t *Table) LookupAt46(k *Key46, h uint64, at uint32, v *View46) bool {
	s := &t.shards[h>>56].index46.slots[at]
	if seq := s.seq.Load(); seq&1 == 0 && s.is46(k.query()) {
		return v.fill(s, at, seq, h>>56)
	}
	return t.Lookup46(k, h, v)
}

// touch loads an entry's first bucket.
func (x *index) touch(h uint64) { x.tags[x.bucketOf(h)].Load() }

// locate loads the first slot whose tag matches, and says which it is.
func (x *index) locate(h uint64) uint32 {
	i := x.lane(x.bucketOf(h), tagOf(h))
	x.slots[i].seq.Load()
	return i
}

// lane is the first slot of a bucket that has the tag. Without a match it is
// the last lane's, which costs less than a mispredicted branch.
func (x *index) lane(b, tag uint64) uint32 {
	m := matches(x.tags[b].Load(), tag)
	return uint32(b)*lanes + uint32(bits.TrailingZeros64(m|1<<55))>>3
}
