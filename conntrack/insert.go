package conntrack

// Insert creates a session over a mapping that Map made or FindBIB found. The
// key's client must be this shard's (else NotOwner), and the mapping the
// client's (else NoMapping). A session that exists already is left as it is.
// When it refuses, a dynamic mapping that no session uses is dropped too.
//
// The order of loads matters: everything that has to come from memory is asked
// for before the first atomic store, because such a store waits for all of
// them (it is a full barrier on amd64) and would make the misses queue up.
func (s *Shard) Insert(se *Session, now Tick) Verdict { return s.insert(se, now, false) }

// insert is Insert; a session of an earlier process is not held to the limits
// of its client.
func (s *Shard) insert(se *Session, now Tick, restored bool) Verdict {
	k, k46 := &se.Key, se.key46()
	s.now = now
	if s.t.Owner(k.Client, k.ClientPort) != s.id {
		return NotOwner
	}
	h64, h46 := s.t.hash.key64(k), s.t.hash.key46(&k46)
	s.index46.tags[s.index46.bucketOf(h46)].Load()
	i, ok64 := s.index64.free(h64)
	s.index64.slots[i].seq.Load()
	j, ok46 := s.index46.free(h46)
	s.index46.slots[j].seq.Load()

	var v View64
	if s.t.Lookup64(k, h64, &v) {
		v.Touch(now)
		return OK
	}
	if v.slot != nil && v.State() == stateRevoked {
		s.removeSlot(v.self) // it would hide the new one until its time comes
	}
	origin, ok := s.acquire(se)
	if !ok {
		s.Unmap(k.Client, k.ClientPort, k.Proto)
		return NoMapping
	}
	s.displace(&k46, h46)
	mark, v2 := s.takeSession(k.Client, origin, k.Proto, restored)
	if v2 != OK {
		s.letGo(se, origin)
		return v2
	}
	if !ok64 || !ok46 || !s.takeRoom(k.Proto) {
		s.giveBack(k.Client, mark, oneSession)
		return s.refuse(se, origin)
	}
	s.write(se, origin, mark, [2]uint32{i, j}, [2]uint64{h64, h46}, now)
	s.arm(i, now, now+s.t.lifetime(k.Proto, se.State), k.Proto)
	s.countPeer(k, origin, s.peers.add)
	if k.Proto == Entry {
		s.recentEntries.add(i)
		s.stats[statEntriesCached].Add(1)
		s.stats[statEntries].Add(1)
		return OK
	}
	if origin == OriginHandoff {
		s.recent.add(i)
		s.stats[statHandoff].Add(1)
	}
	if !restored {
		s.noteSession(SessionCreated, se, origin, i, s.index64.slots[i].state.Load())
	}
	s.stats[statCreated].Add(1)
	s.stats[statUsed].Add(1)
	return OK
}

// write fills both slots and publishes them. mark is for the 64 slot alone.
func (s *Shard) write(se *Session, origin Origin, mark uint64, at [2]uint32, h [2]uint64, now Tick) {
	s.generation++
	state := stateWord(s.generation, se.State)
	w := se.words64(at[1], origin)
	w[4] |= mark
	s.index64.slots[at[0]].store(&w, state, now)
	w = se.words46(at[0], origin)
	s.index46.slots[at[1]].store(&w, state, now)
	s.index46.publish(h[1], at[1])
	s.index64.publish(h[0], at[0])
}

// refuse undoes acquire for a session that found no room.
func (s *Shard) refuse(se *Session, origin Origin) Verdict {
	s.letGo(se, origin)
	s.stats[statRefused].Add(1)
	return TableFull
}

// displace removes the session that has the same IPv4 side. There is one only
// when a client speaks, from the same port, to the same server through another
// pool6 prefix: what comes back can be translated to one of them, and the
// newer one is meant.
func (s *Shard) displace(k46 *Key46, h46 uint64) {
	if other, _, _ := s.index46.find46(h46, k46.query()); other != nil {
		s.removeSlot(uint32(other.w[4].Load() >> 32))
	}
}

// Remove ends the session that a view of this shard saw, if it still lives.
func (s *Shard) Remove(v *View64) {
	if int(v.Owner) == s.id && v.slot.seq.Load() == v.seq {
		s.removeSlot(v.self)
	}
}

// removeSlot ends the session in a 64 slot. Tags go first, so that a reader
// finds the whole session or none.
func (s *Shard) removeSlot(i uint32) {
	var w words
	a := &s.index64.slots[i]
	if _, ok := a.load(&w); !ok {
		panic("conntrack: removing a session from an empty slot")
	}
	se, j := w.session(), w.peer()
	k46 := se.key46()
	s.noteSession(SessionEnded, &se, se.Origin, i, a.state.Load())
	s.index64.hide(s.t.hash.key64(&se.Key), i)
	s.index46.hide(s.t.hash.key46(&k46), j)
	a.clear()
	s.index46.slots[j].clear()
	s.wheel.unlink(s.index64.slots, i)
	s.countPeer(&se.Key, se.Origin, s.peers.drop)
	s.letGo(&se, se.Origin)
	s.giveBack(se.Key.Client, w[4]&countedBit, oneSession)
	if se.Key.Proto == Entry {
		s.t.freeEntries.Add(1)
		s.stats[statEntries].Add(^uint64(0))
		s.stats[statPurged].Add(1)
		return
	}
	if se.Origin == OriginHandoff {
		s.stats[statHandoff].Add(^uint64(0))
	}
	s.giveCredit()
	s.stats[statUsed].Add(^uint64(0))
}

// Room for sessions is counted over all shards, so that the limit is the
// configured one wherever the flows fall. A shard takes room in small batches
// and keeps up to two of them, so creating a session rarely touches the shared
// count; what an idle shard keeps is at most 64 sessions, and none at all in
// small tables.

func (s *Shard) takeCredit() bool {
	if s.credits > 0 {
		s.credits--
		return true
	}
	for {
		free := s.t.free.Load()
		n := min(s.t.batch, free)
		if n <= 0 {
			return false
		}
		if s.t.free.CompareAndSwap(free, free-n) {
			s.credits = n - 1
			return true
		}
	}
}

func (s *Shard) giveCredit() {
	if s.credits++; s.t.batch == 1 || s.credits > 2*s.t.batch {
		n := min(s.credits, s.t.batch)
		s.credits -= n
		s.t.free.Add(n)
	}
}

// countPeer counts sessions over mappings of our own. What lies over a server's
// entry says nothing about those: a client that reaches a server through that
// server's entry alone has not used a mapping with it (handoff draft §8).
func (s *Shard) countPeer(k *Key64, o Origin, count func(hash uint64)) {
	if o != OriginHandoff {
		count(s.t.hash.peer(k.Client, k.ClientPort, k.Server, k.Proto))
	}
}

// HasSessionWith tells whether a client's transport address has a session over
// a mapping of our own with a server's address, whatever the port:
// address-dependent filtering lets only such servers in (RFC 6146 §3.5.1.2,
// RFC 4787 REQ-8). It answers no when the table was made without
// Config.AddressDependent and without room for entries.
func (s *Shard) HasSessionWith(client Addr6, port uint16, server uint32, p Proto) bool {
	return s.peers.has(s.t.hash.peer(client, port, server, p))
}
