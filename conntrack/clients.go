package conntrack

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// A client's mappings are spread over shards, so what counts against its limits
// (limits.go) is counted in a table that all shards share: open addressing
// within one bucket per client, twelve places each, with one word per bucket
// beside them:
//
//	bits 0–47   tags: four bits of the hash of the client in each place, 0 for none
//	bits 48–63  version: changes with the word
//
// A place is taken first, filled, and then published by compare-and-swap of the
// bucket's word. Whoever publishes has looked for its client in that very word,
// so two shards never publish one client twice; a client whose counts are zero
// is dead at that instant (its generation changes with them), and whoever meets
// it may bury it. No operation waits for another shard: it starts anew only
// when another one has got on.
const (
	clientLanes   = 12
	clientOnes    = 0x1111_1111_1111
	clientHighs   = 0x8888_8888_8888
	clientVersion = 1 << 48
	// sessionsPerBucket says how many buckets there are: with two sessions for each
	// client one bucket in 400,000 is full when the table is; if every session were
	// of another client, one in 500, and a thousandth of the clients would be refused.
	sessionsPerBucket = 5
)

// clientSlot is one client and what it has. A client is known by its address's
// hash, whose 64 bits are keyed: of a million clients, two are taken for one with
// a probability of 3·10⁻⁸, and then share a limit.
//
//	count  sessions 26 | ports 18 | state 2 | generation 18
type clientSlot struct {
	hash, count atomic.Uint64
}

const (
	oneSession   = 1
	onePort      = 1 << 26
	sessionCount = onePort - 1
	portCount    = 1<<44 - onePort
	clientState  = 3 << 44
	clientFree   = 0 << 44 // nobody's; memory starts as zeros
	clientTaken  = 1 << 44 // being filled, not published yet
	clientLive   = 2 << 44
	clientDead   = 3 << 44 // has nothing any more; to be buried
	oneLife      = 1 << 46 // generation
)

// clients is the table. All its methods are for any goroutine.
type clients struct {
	words []tagWord
	slots []clientSlot
	mem   [2]region
}

// newClients reserves room for as many clients as there may be sessions. Pages
// take memory only once a client is counted there.
func newClients(sessions int) (c clients, err error) {
	n := max(sessions/sessionsPerBucket, 16)
	if c.mem[0], err = mapSparse(sizeOf[tagWord](n), false); err != nil {
		return c, fmt.Errorf("index of clients: %w", err)
	}
	if c.mem[1], err = mapSparse(sizeOf[clientSlot](n*clientLanes), false); err != nil {
		return c, fmt.Errorf("counts of %d clients: %w", n*clientLanes, err)
	}
	c.words, c.slots = overlay[tagWord](c.mem[0], 0, n), overlay[clientSlot](c.mem[1], 0, n*clientLanes)
	return c, nil
}

func (c *clients) close() error {
	if err := c.mem[0].unmap(); err != nil {
		return err
	}
	return c.mem[1].unmap()
}

// clientTag makes 1–15 out of bits of an address hash that bucketOf leaves.
func clientTag(h uint64) uint64 { return h>>40&0xffff*15>>16 + 1 }

func (c *clients) bucketOf(h uint64) uint64 { return scale(h, uint64(len(c.words))) }

// guess is a place where the client may be.
func (c *clients) guess(h uint64) *clientSlot {
	b := c.bucketOf(h)
	x := c.words[b].Load() ^ clientTag(h)*clientOnes
	lane := bits.TrailingZeros64((x-clientOnes)&^x&clientHighs|1<<47) / 4
	return &c.slots[int(b)*clientLanes+lane]
}

// clientPlace is where a client was found, and its counts then.
type clientPlace struct {
	s     *clientSlot
	count uint64
	lane  int
}

// find looks for the client of an address's hash. The word is the bucket's while it looked: if the
// client was not found, it is in no place as long as the word stays.
func (c *clients) find(h uint64) (p clientPlace, word uint64) {
	b, tag := c.bucketOf(h), clientTag(h)
again:
	word = c.words[b].Load()
	x := word ^ tag*clientOnes
	for m := (x - clientOnes) &^ x & clientHighs; m != 0; m &= m - 1 {
		lane := bits.TrailingZeros64(m) / 4
		if word>>(4*lane)&15 != tag { // a borrow marks lanes above a match falsely
			continue
		}
		s := &c.slots[int(b)*clientLanes+lane]
		n := s.count.Load()
		mine := s.hash.Load() == h
		if c.words[b].Load() != word {
			goto again
		}
		// The word has not changed, so the place was published all the while.
		switch {
		case n&clientState == clientDead:
			c.bury(b, lane, n)
			goto again
		case mine:
			return clientPlace{s, n, lane}, word
		}
	}
	return clientPlace{}, word
}

// tally is what became of take.
type tally uint8

const (
	tallied   tally = iota
	overLimit       // the client has as many as it may
	noPlace         // the client's bucket is full
)

// take counts one more session or port of a client that has fewer than limit,
// which is in units of one. born says that the client had nothing before.
func (c *clients) take(h, one, limit uint64) (result tally, born bool) {
	mask := uint64(sessionCount)
	if one == onePort {
		mask = portCount
	}
	limit = min(limit*one, mask) // the field's largest value bounds what has no limit
	reserved := clientPlace{lane: -1}
	for {
		p, word := c.find(h)
		if p.s == nil {
			if reserved.lane < 0 && !c.reserve(&reserved, word, h, one) {
				return noPlace, false
			}
			if c.publish(&reserved, word, h) {
				return tallied, true
			}
			continue
		}
		over := p.count&mask >= limit
		if !over && !p.s.count.CompareAndSwap(p.count, p.count+one) {
			continue
		}
		if reserved.lane >= 0 { // another shard was faster
			reserved.s.count.Store(reserved.count&^(oneLife-1) + oneLife | clientFree)
		}
		if over {
			return overLimit, false
		}
		return tallied, false
	}
}

// reserve takes a free place of a bucket and fills it.
func (c *clients) reserve(p *clientPlace, word, h, one uint64) bool {
	b := c.bucketOf(h)
	for lane := range clientLanes {
		s := &c.slots[int(b)*clientLanes+lane]
		n := s.count.Load()
		if word>>(4*lane)&15 != 0 || n&clientState != clientFree || !s.count.CompareAndSwap(n, n|clientTaken) {
			continue
		}
		s.hash.Store(h)
		n = n&^(oneLife-1) + oneLife | clientLive | one
		s.count.Store(n) // nobody looks before it is published
		*p = clientPlace{s, n, lane}
		return true
	}
	return false
}

// publish shows a filled place to all, unless the bucket has changed.
func (c *clients) publish(p *clientPlace, word, h uint64) bool {
	return c.words[c.bucketOf(h)].CompareAndSwap(word, word+clientVersion|clientTag(h)<<(4*p.lane))
}

// give counts one less of what take counted. died says that the client has
// nothing any more.
func (c *clients) give(h, one uint64) (died bool) {
	for {
		p, _ := c.find(h)
		if p.s == nil {
			panic("conntrack: uncounting something of a client that has nothing")
		}
		n := p.count - one
		if n&(sessionCount|portCount) == 0 {
			n = n&^clientState + oneLife | clientDead
		}
		if !p.s.count.CompareAndSwap(p.count, n) {
			continue
		}
		if n&clientState == clientDead {
			c.bury(c.bucketOf(h), p.lane, n)
			return true
		}
		return false
	}
}

// bury frees the place of a dead client. Several may try; the one whose
// compare-and-swap takes the tag away gives the place back.
func (c *clients) bury(b uint64, lane int, dead uint64) {
	s, tag := &c.slots[int(b)*clientLanes+lane], uint64(15)<<(4*lane)
	for {
		word := c.words[b].Load()
		if word&tag == 0 || s.count.Load() != dead {
			return // done, or being done, by another
		}
		if c.words[b].CompareAndSwap(word, word&^tag+clientVersion) {
			s.count.Store(dead&^clientState | clientFree)
			return
		}
	}
}

// has gives a client's counts.
func (c *clients) has(h uint64) (sessions, ports int) {
	p, _ := c.find(h)
	return int(p.count & sessionCount), int(p.count & portCount / onePort)
}
