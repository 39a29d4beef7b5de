package conntrack

// The counters of a shard. Its worker writes them, anyone reads.
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

// Stats reads the shard's counters. Any goroutine.
func (s *Shard) Stats() Stats {
	restored := s.stats[statRestored].Load() // first: the difference is never negative
	return Stats{
		Used: s.stats[statUsed].Load(), Created: s.stats[statCreated].Load() - restored, Restored: restored,
		Expired: s.stats[statExpired].Load(), Refused: s.stats[statRefused].Load(),
		BIB:    s.stats[statBIB].Load(),
		Blocks: s.stats[statBlocks].Load(), EventsLost: s.stats[statEventsLost].Load(),
		Clients: s.stats[statClients].Load(), Uncounted: s.stats[statUncounted].Load(),
		Entries: s.stats[statEntries].Load(), Cached: s.stats[statEntriesCached].Load(), Purged: s.stats[statPurged].Load(),
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
