package conntrack

// Insert creates a session over a mapping that Map made or FindBIB found. The
// key's client must be this shard's (else NotOwner), and the mapping the
// client's (else NoMapping). A session that exists already is left as it is.
// When it refuses, a dynamic mapping that no session uses is dropped too.
func (s *Shard) Insert(se *Session, now Tick) Verdict {
	defer s.stats.publish()
	k46 := se.key46()
	f := Foresight{hash64: s.t.hash.key64(&se.Key), hash46: s.t.hash.key46(&k46)}
	if int(f.hash64>>56) != s.id {
		return NotOwner
	}
	var v View64
	return s.insert(se, &f, now, false, &v)
}

// Open is Insert for one of the keys that Foresee was given, after MapForeseen.
// v gets the session as a lookup would find it.
func (s *Shard) Open(se *Session, f *Foresight, now Tick, v *View64) Verdict {
	if !f.mapped || s.mapping(f.bib) != (Mapping{Addr: se.Mapped, Port: se.MappedPort}) {
		f.mapped, f.fresh = false, false // MapAt's, or a static one
	}
	if !f.mapped || f.bib != f.guess {
		k46 := se.key46()
		f.hash46 = s.t.hash.key46(&k46)
	}
	return s.insert(se, f, now, false, v)
}

// insert is Insert; a session of an earlier process is not held to the limits
// of its client. Over a mapping made just now there is no session yet, but for
// such as handoff servers caused.
func (s *Shard) insert(se *Session, f *Foresight, now Tick, restored bool, v *View64) Verdict {
	k := &se.Key
	s.now = now
	alone := f.fresh && !s.t.capacityForEntries()
	if !alone && s.exists(k, f.hash64, now, v) {
		return OK
	}
	origin, ok := s.acquire(se, f)
	if !ok {
		s.unmap(k.Client, k.ClientPort, k.Proto)
		return NoMapping
	}
	mark, verdict := uint64(0), OK
	if alone {
		mark, verdict = s.takeSession(k.Client, origin, k.Proto, restored)
	} else {
		mark, verdict = s.takeOver(se, f.hash46, origin, restored)
	}
	if verdict != OK {
		s.letGo(se, origin, s.t.hash.client(k.Client, k.ClientPort))
		return verdict
	}
	i, ok64 := s.index64.free(f.hash64)
	j, ok46 := s.index46.free(f.hash46)
	if !ok64 || !ok46 || !s.takeRoom(k.Proto) {
		s.giveBack(k.Client, mark, oneSession)
		return s.refuse(se, origin)
	}
	s.write(se, origin, mark, [2]uint32{i, j}, [2]uint64{f.hash64, f.hash46}, now)
	s.arm(i, now, now+s.t.lifetime(k.Proto, se.State), k.Proto)
	if s.peers.words != nil && origin != OriginHandoff {
		s.peers.add(s.peerHash(k, f))
	}
	v.fill(&s.index64.slots[i], i, s.index64.slots[i].seq.Load(), f.hash64)
	s.inserted(se, origin, i, restored)
	return OK
}

// exists looks for the session that is about to be made.
func (s *Shard) exists(k *Key64, h64 uint64, now Tick, v *View64) bool {
	v.slot = nil
	if s.t.Lookup64(k, h64, v) {
		v.Touch(now)
		return true
	}
	if v.slot != nil && v.State() == stateRevoked {
		s.removeSlot(v.self) // it would hide the new one until its time comes
	}
	return false
}

// inserted counts a session that was just made, and notes it.
func (s *Shard) inserted(se *Session, origin Origin, i uint32, restored bool) {
	if se.Key.Proto == Entry {
		s.recentEntries.add(i)
		s.stats.add(statEntriesCached, 1)
		s.stats.add(statEntries, 1)
		return
	}
	if origin == OriginHandoff {
		s.recent.add(i)
		s.stats.add(statHandoff, 1)
	}
	if !restored {
		s.noteSession(SessionCreated, se, origin, i, s.index64.slots[i].state.Load())
	}
	s.stats.add(statCreated, 1)
	s.stats.add(statUsed, 1)
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
	s.letGo(se, origin, s.t.hash.client(se.Key.Client, se.Key.ClientPort))
	s.stats.add(statRefused, 1)
	return TableFull
}

// takeOver is takeSession where there may be a session that has the same IPv4
// side, which then ends. There is one when a client speaks, from the same port,
// to the same server through another pool6 prefix: what comes back can be
// translated to one of them, and the newer one is meant. The client then has no
// more sessions than before, so its limit does not matter.
func (s *Shard) takeOver(se *Session, h46 uint64, origin Origin, unlimited bool) (mark uint64, v Verdict) {
	k46 := se.key46()
	other, _, _ := s.index46.find46(h46, k46.query())
	if other == nil {
		return s.takeSession(se.Key.Client, origin, se.Key.Proto, unlimited)
	}
	old := uint32(other.w[4].Load() >> 32)
	var w words
	_, ok := s.index64.slots[old].load(&w)
	replaces := ok && w[4]&countedBit != 0 && w.session().Key.Client == se.Key.Client
	if mark, v = s.takeSession(se.Key.Client, origin, se.Key.Proto, unlimited || replaces); v == OK {
		s.removeSlot(old)
	}
	return mark, v
}

// Remove ends the session that a view of this shard saw, if it still lives.
func (s *Shard) Remove(v *View64) {
	if int(v.Owner) == s.id && v.slot.seq.Load() == v.seq {
		s.removeSlot(v.self)
		s.stats.publish()
	}
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

// peerHash is what a session over a mapping of our own is counted by. What lies
// over a server's entry says nothing about those: a client that reaches a server
// through that server's entry alone has not used a mapping with it (handoff
// draft §8).
func (s *Shard) peerHash(k *Key64, f *Foresight) uint64 {
	if f.peer != 0 {
		return f.peer
	}
	return s.t.hash.peer(s.t.hash.client(k.Client, k.ClientPort), k.Server, k.Proto)
}

// HasSessionWith tells whether a client's transport address has a session over
// a mapping of our own with a server's address, whatever the port:
// address-dependent filtering lets only such servers in (RFC 6146 §3.5.1.2,
// RFC 4787 REQ-8). It answers no when the table was made without
// Config.AddressDependent and without room for entries.
func (s *Shard) HasSessionWith(client Addr6, port uint16, server uint32, p Proto) bool {
	return s.peers.has(s.t.hash.peer(s.t.hash.client(client, port), server, p))
}
