package conntrack

// ending is what is known of a session that is to be removed. Removing takes as
// much out of memory as making one does, so look goes a few sessions ahead and
// asks for it. A plain value.
type ending struct {
	i      uint32 // its 64 slot
	known  bool   // whether the hashes are filled in
	client uint64 // hash
	h64    uint64
	h46    uint64
}

// endAhead is how many sessions look is ahead of end in a list.
const endAhead = 6

// look takes in the session in a 64 slot, and asks for what end is going to read
// and write, if it is sure to end. The slot itself should have been asked for.
func (s *Shard) look(e *ending, i uint32, sure bool) {
	*e = ending{i: i}
	var w words
	a := &s.index64.slots[i]
	if _, ok := a.load(&w); !ok {
		return // end tells
	}
	prefetchLine(&s.index46.slots[w.peer()])
	if !sure {
		return
	}
	if s.t.logSessions.Load() {
		prefetchLine(&s.journal.born[i])
	}
	s.hashes(e, &w)
	prefetchLine(&s.index64.tags[s.index64.bucketOf(e.h64)])
	prefetchLine(&s.index46.tags[s.index46.bucketOf(e.h46)])
	k := kindOf(w.proto())
	prefetchLine(&s.forward.words[s.forward.home(forwardHash(e.client, k))])
	if set, ok := s.t.poolSet(k, w.mapped()); ok {
		prefetchLine(&s.t.bib.entries[bibIndex(set, uint16(w[3]>>16))])
	}
	if s.peers.words != nil {
		key := w.session().Key
		prefetchLine(&s.peers.words[s.peers.home(s.t.hash.peer(e.client, key.Server, key.Proto))])
	}
}

func (s *Shard) hashes(e *ending, w *words) {
	se := w.session()
	k46 := se.key46()
	e.client = s.t.hash.client(se.Key.Client, se.Key.ClientPort)
	e.h64, e.h46, e.known = s.t.hash.session(e.client, &se.Key), s.t.hash.key46(&k46), true
}

// removeSlot ends the session in a 64 slot.
func (s *Shard) removeSlot(i uint32) { s.end(&ending{i: i}) }

// end removes the session that look saw. Tags go first, so that a reader finds
// the whole session or none.
func (s *Shard) end(e *ending) {
	var w words
	a := &s.index64.slots[e.i]
	if _, ok := a.load(&w); !ok {
		panic("conntrack: removing a session from an empty slot")
	}
	if !e.known {
		s.hashes(e, &w)
	}
	se, j := w.session(), w.peer()
	s.noteSession(SessionEnded, &se, se.Origin, e.i, a.state.Load())
	s.index64.hide(e.h64, e.i)
	s.index46.hide(e.h46, j)
	a.clear()
	s.index46.slots[j].clear()
	s.wheel.unlink(s.index64.slots, e.i)
	if s.peers.words != nil && se.Origin != OriginHandoff {
		s.peers.drop(s.t.hash.peer(e.client, se.Key.Server, se.Key.Proto))
	}
	s.letGo(&se, se.Origin, e.client)
	s.giveBack(se.Key.Client, w[4]&countedBit, oneSession)
	if se.Key.Proto == Entry {
		s.t.freeEntries.Add(1)
		s.stats.add(statEntries, -1)
		s.stats.add(statPurged, 1)
		return
	}
	if se.Origin == OriginHandoff {
		s.stats.add(statHandoff, -1)
	}
	s.giveCredit()
	s.stats.add(statUsed, -1)
}
