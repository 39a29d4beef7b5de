package conntrack

import (
	"math/bits"
	"sync/atomic"
)

// The index is open addressing over buckets of seven slots, after the idea of
// F14 (Bronson and Shi, "Open-sourcing F14", 2019). Beside the slots lies one
// word per bucket:
//
//	octets 0–6  tags: eight bits of the hash of the entry in that slot, 0 for empty
//	octet 7     how many entries passed this bucket because it was full (sticky at 255)
//
// A lookup loads the tag word, compares seven tags at once and visits only slots
// that match; it goes on to another bucket only when something ever passed this
// one. Entries never move. Where to go on depends on the tag, so that keys which
// meet in one bucket part again (double hashing).
const (
	lanes      = 7
	probeBound = 16 // buckets looked at; at the planned load of 0.8 one insert in 10⁷ would need more
	laneOnes   = 0x0001_0101_0101_0101
	laneHighs  = 0x0080_8080_8080_8080
	passedOne  = 1 << 56
	passedFull = 255
)

// tagWord is one bucket's tags. The shard's owner stores it, anyone loads it.
type tagWord struct{ atomic.Uint64 }

// index is one direction's slots and tags in one shard. The owner writes,
// everybody may find.
type index struct {
	tags  []tagWord
	slots []slot
}

// query is a key laid out like a slot's words: client, w[2], and the matched
// bits of w[4]. For direction 46, lo holds the mapped address instead. It is
// passed by value, which is in registers.
type query struct{ hi, lo, w2, tail uint64 }

// tagOf makes 1–255 out of a hash's 16 low bits.
func tagOf(h uint64) uint64 { return h&0xffff*255>>16 + 1 }

// bucketOf picks a bucket with the 32 bits above the tag's.
func (x *index) bucketOf(h uint64) uint64 { return scale(h>>16, uint64(len(x.tags))) }

// step gives the distance between an entry's buckets. The number of buckets is
// a prime above 255, so any step visits every bucket before it repeats one.
func step(tag uint64) uint64 { return tag }

// next goes on to the following bucket of an entry's sequence.
func (x *index) next(b, tag uint64) uint64 {
	b += step(tag)
	if n := uint64(len(x.tags)); b >= n {
		b -= n
	}
	return b
}

// matches marks, with the top bit of its octet, each lane that holds tag. A
// lane above a true match may be marked falsely; the caller compares keys.
func matches(word, tag uint64) uint64 {
	x := word ^ tag*laneOnes
	return (x - laneOnes) &^ x & laneHighs
}

// find64 finds a slot by its IPv6 side. What else the caller reads of the slot
// counts only if its seq is still the one returned.
func (x *index) find64(h uint64, q query) (s *slot, i, seq uint32) {
	tag, b := tagOf(h), x.bucketOf(h)
	for range probeBound {
		word := x.tags[b].Load()
		for m := matches(word, tag); m != 0; m &= m - 1 {
			i = uint32(b)*lanes + uint32(bits.TrailingZeros64(m))>>3
			s = &x.slots[i]
			if seq = s.seq.Load(); seq&1 == 0 && s.is64(q) {
				return s, i, seq
			}
		}
		if word>>56 == 0 {
			break
		}
		b = x.next(b, tag)
	}
	return nil, 0, 0
}

// find46 finds a slot by its IPv4 side, as find64 does.
func (x *index) find46(h uint64, q query) (s *slot, i, seq uint32) {
	tag, b := tagOf(h), x.bucketOf(h)
	for range probeBound {
		word := x.tags[b].Load()
		for m := matches(word, tag); m != 0; m &= m - 1 {
			i = uint32(b)*lanes + uint32(bits.TrailingZeros64(m))>>3
			s = &x.slots[i]
			if seq = s.seq.Load(); seq&1 == 0 && s.is46(q) {
				return s, i, seq
			}
		}
		if word>>56 == 0 {
			break
		}
		b = x.next(b, tag)
	}
	return nil, 0, 0
}

// free finds an empty slot for a hash without taking it. Owner only.
func (x *index) free(h uint64) (uint32, bool) {
	tag, b := tagOf(h), x.bucketOf(h)
	for range probeBound {
		if m := matches(x.tags[b].Load(), 0); m != 0 {
			return uint32(b)*lanes + uint32(bits.TrailingZeros64(m))>>3, true
		}
		b = x.next(b, tag)
	}
	return 0, false
}

// publish makes a written slot findable: first the buckets on the way learn
// that something passed them, then the tag appears. Owner only.
func (x *index) publish(h uint64, i uint32) {
	tag, b := tagOf(h), x.bucketOf(h)
	for b != uint64(i/lanes) {
		if w := x.tags[b].Load(); w>>56 != passedFull {
			storeWord(&x.tags[b].Uint64, w+passedOne)
		}
		b = x.next(b, tag)
	}
	storeWord(&x.tags[b].Uint64, x.tags[b].Load()|tag<<(i%lanes*8))
}

// hide undoes publish. A counter that reached 255 lost count and stays: lookups
// that pass it take longer, none goes wrong. Owner only.
func (x *index) hide(h uint64, i uint32) {
	at := uint64(i / lanes)
	storeWord(&x.tags[at].Uint64, x.tags[at].Load()&^(0xff<<(i%lanes*8)))
	tag, b := tagOf(h), x.bucketOf(h)
	for b != at {
		if w := x.tags[b].Load(); w>>56 != passedFull {
			storeWord(&x.tags[b].Uint64, w-passedOne)
		}
		b = x.next(b, tag)
	}
}

// minBuckets is the smallest prime above every step.
const minBuckets = 257

// bucketsFor gives the prime number of buckets that holds n entries at a load
// of at most 0.8.
func bucketsFor(n int) int {
	b := max((n*5+4*lanes-1)/(4*lanes), minBuckets)
	for !isPrime(b) {
		b++
	}
	return b
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}
