package conntrack

import (
	"math/bits"
	"sync/atomic"
)

// The counters of a shard. Its worker counts in plain words, for a session moves
// several of them, and publish copies what has changed to where anyone may read
// it: at the end of Expire, which a worker calls once per round, and of what
// else changes anything but Map and Open, which come before it.
const (
	statUsed    = iota
	statCreated // with those restored
	statExpired
	statRefused
	statRestored
	statBIB
	statHandoff // sessions over entries, now
	statEntries
	statEntriesCached
	statPurged
	statClients // clients that were counted first here, less those that were last; may be negative
	statBlocks
	statEventsLost
	statUncounted // what found no place to be counted in
	statCount
)

// Stats are a shard's counters, or a table's.
type Stats struct {
	Used       uint64 // sessions now
	Created    uint64 // sessions ever, without those of an earlier process
	Expired    uint64 // sessions ended by their lifetime or by a command
	Refused    uint64 // sessions that found no room
	Restored   uint64 // sessions of an earlier process
	BIB        uint64 // dynamic mappings now
	Entries    uint64 // entries of handoff servers now
	Cached     uint64 // entries of handoff servers ever
	Purged     uint64 // entries of handoff servers forgotten: flushed, replaced, idle or for lack of room
	Clients    uint64 // clients with something that counts against their limits; only in a table's Stats
	Uncounted  uint64 // sessions and mappings that found no place to be counted in: refused, or, if they were there before the limits, left
	Blocks     uint64 // port blocks assigned now
	EventsLost uint64 // events that found the journal full
	Statics    uint64 // static mappings now; in a shard's Stats always 0
}

// tallies are a shard's counters.
type tallies struct {
	own     [statCount]uint64
	changed uint32 // bit set of those that publish has to copy

	_      [64]byte // others read what follows: not on a line that lookups need
	public [statCount]atomic.Uint64
}

// add changes a counter. Owner only, as publish.
func (c *tallies) add(stat int, n int64) {
	c.own[stat] += uint64(n)
	c.changed |= 1 << stat
}

func (c *tallies) publish() {
	for ; c.changed != 0; c.changed &= c.changed - 1 {
		stat := bits.TrailingZeros32(c.changed)
		c.public[stat].Store(c.own[stat])
	}
}

// Stats reads the shard's counters. Any goroutine.
func (s *Shard) Stats() Stats {
	restored := s.stats.public[statRestored].Load() // first: the difference is never negative
	return Stats{
		Used: s.stats.public[statUsed].Load(), Created: s.stats.public[statCreated].Load() - restored, Restored: restored,
		Expired: s.stats.public[statExpired].Load(), Refused: s.stats.public[statRefused].Load(),
		BIB:    s.stats.public[statBIB].Load(),
		Blocks: s.stats.public[statBlocks].Load(), EventsLost: s.stats.public[statEventsLost].Load(),
		Clients: s.stats.public[statClients].Load(), Uncounted: s.stats.public[statUncounted].Load(),
		Entries: s.stats.public[statEntries].Load(), Cached: s.stats.public[statEntriesCached].Load(), Purged: s.stats.public[statPurged].Load(),
	}
}

// Stats sums up the shards. Any goroutine.
func (t *Table) Stats() Stats {
	sum := Stats{Statics: uint64(len(t.statics.Load().byMapped))}
	for _, s := range t.shards {
		one := s.Stats()
		sum.Used += one.Used
		sum.Created += one.Created
		sum.Expired += one.Expired
		sum.Refused += one.Refused
		sum.Restored += one.Restored
		sum.BIB += one.BIB
		sum.Entries += one.Entries
		sum.Cached += one.Cached
		sum.Purged += one.Purged
		sum.Clients += one.Clients
		sum.Blocks += one.Blocks
		sum.EventsLost += one.EventsLost
		sum.Uncounted += one.Uncounted
	}
	return sum
}
