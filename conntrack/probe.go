package conntrack

import "math/bits"

// A worker looks a burst of packets up in three passes, so that the cache
// misses of all of them overlap instead of queueing up:
//
//	Touch    every key's bucket of tags is asked for
//	Locate   the tags say which slot it probably is, and that is asked for
//	LookupAt the slot is compared and read; if it is another one, Lookup searches

// Touch64 asks for the bucket that each hash leads to. Any goroutine.
func (t *Table) Touch64(hashes []uint64) {
	var lines [together]*tagWord
	for len(hashes) > 0 {
		n := min(len(hashes), together)
		for i, h := range hashes[:n] {
			x := &t.shards[h>>56].index64
			lines[i] = &x.tags[x.bucketOf(h)]
		}
		prefetch(lines[:n])
		hashes = hashes[n:]
	}
}

// Touch46 is Touch64 for the other direction.
func (t *Table) Touch46(hashes []uint64) {
	var lines [together]*tagWord
	for len(hashes) > 0 {
		n := min(len(hashes), together)
		for i, h := range hashes[:n] {
			x := &t.shards[h>>56].index46
			lines[i] = &x.tags[x.bucketOf(h)]
		}
		prefetch(lines[:n])
		hashes = hashes[n:]
	}
}

// Locate64 writes to at where the session of each hash probably lies, and asks
// for that slot. at is as long as hashes. Any goroutine.
func (t *Table) Locate64(hashes []uint64, at []uint32) {
	var lines [together]*slot
	for len(hashes) > 0 {
		n := min(len(hashes), together)
		for i, h := range hashes[:n] {
			x := &t.shards[h>>56].index64
			at[i] = x.lane(x.bucketOf(h), tagOf(h))
			lines[i] = &x.slots[at[i]]
		}
		prefetch(lines[:n])
		hashes, at = hashes[n:], at[n:]
	}
}

// Locate46 is Locate64 for the other direction. With several shards it looks
// into the one that the mapped port belongs to.
func (t *Table) Locate46(hashes []uint64, at []uint32) {
	var lines [together]*slot
	for len(hashes) > 0 {
		n := min(len(hashes), together)
		for i, h := range hashes[:n] {
			x := &t.shards[h>>56].index46
			at[i] = x.lane(x.bucketOf(h), tagOf(h))
			lines[i] = &x.slots[at[i]]
		}
		prefetch(lines[:n])
		hashes, at = hashes[n:], at[n:]
	}
}

// lane is the first slot of a bucket that has the tag. Without a match it is
// the last lane's, which costs less than a mispredicted branch.
func (x *index) lane(b, tag uint64) uint32 {
	m := matches(x.tags[b].Load(), tag)
	return uint32(b)*lanes + uint32(bits.TrailingZeros64(m|1<<55))>>3
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
