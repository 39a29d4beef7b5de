package conntrack

// Opening a session takes memory in seven places or more, nearly all of them
// out of the cache. A worker collects the packets of a burst that need a
// session, and Foresee runs ahead of it, in stages that each need what the one
// before has asked for: while one session is opened, the memory for the next
// few is on its way. Asking for all of a burst's at once is slower: a processor
// can wait for two or three dozen lines, and has nothing else to do meanwhile.
// Nothing is changed or reserved by foreseeing. What it guesses wrong, Map and
// Insert find out, only slower.

// Foresight is what is known of one packet's session before there is one. A
// plain value. Foresee fills it in, MapForeseen says which mapping it became.
type Foresight struct {
	random  uint64 // what the port is chosen by
	client  uint64 // hash
	address uint64 // hash, if there are limits
	hash64  uint64
	hash46  uint64
	peer    uint64 // hash
	Entry   uint64 // Hash64 of the entry that a handoff server may have given for it
	forward uint32 // place of the client's word
	guess   uint32 // place of the mapping, as foreseen; hash46 is of that one
	bib     uint32 // place of the mapping; valid if mapped
	chosen  bool   // guess is a port to be claimed
	mapped  bool   // bib is the client's mapping
	fresh   bool   // and was made just now, so that no session has it yet
}

// stride is how many sessions lie between two stages of Foresee, Ahead how many
// between the first one and the opening. Long enough for memory to answer: it
// takes less than a session.
const (
	stride = 6
	Ahead  = 3 * stride
)

// Foresee does one step for the keys, of which hashes are the Hash64, and puts
// what it finds into f. All keys are this shard's. The steps count from 0; the
// session i may be opened after step i + Ahead:
//
//	for step := range len(keys) + Ahead {
//		s.Foresee(keys, hashes, f, step)
//		if i := step - Ahead; i >= 0 {
//			s.MapForeseen(keys[i], &f[i]) …
//
// It may be opened earlier as well, or never.
func (s *Shard) Foresee(keys []*Key64, hashes []uint64, f []Foresight, step int) {
	if i := step; i < len(keys) {
		k := keys[i]
		c := s.t.hash.client(k.Client, k.ClientPort)
		f[i] = Foresight{hash64: hashes[i], client: c, forward: uint32(s.forward.home(forwardHash(c, kindOf(k.Proto))))}
		prefetchLine(&s.forward.words[f[i].forward])
		if s.peers.words != nil {
			f[i].peer = s.t.hash.peer(c, k.Server, k.Proto)
			prefetchLine(&s.peers.words[s.peers.home(f[i].peer)])
		}
		if s.t.limits.Load() != 0 {
			f[i].address = s.t.hash.address(k.Client)
			prefetchLine(&s.t.clients.words[s.t.clients.bucketOf(f[i].address)])
		}
		if s.t.capacityForEntries() {
			e := EntryKey64(k)
			f[i].Entry = s.t.hash.session(c, &e)
			prefetchLine(&s.index64.tags[s.index64.bucketOf(f[i].Entry)])
		}
	}
	if i := step - stride; i >= 0 && i < len(keys) {
		s.foreseeMapping(keys[i], &f[i])
		prefetchLine(&s.t.bib.entries[f[i].guess])
		prefetchLine(&s.index46.tags[s.index46.bucketOf(f[i].hash46)])
	}
	if i := step - 2*stride; i >= 0 && i < len(keys) {
		at := s.index64.firstFree(f[i].hash64)
		prefetchLine(&s.index64.slots[at])
		prefetchLine(&s.index46.slots[s.index46.firstFree(f[i].hash46)])
		if s.t.logSessions.Load() {
			prefetchLine(&s.journal.born[at])
		}
		if f[i].address != 0 {
			prefetchLine(s.t.clients.guess(f[i].address))
		}
	}
}

// foreseeMapping finds the client's mapping, by its hash alone, or a port for
// it, and what follows from it. Nothing is claimed yet.
func (s *Shard) foreseeMapping(k *Key64, f *Foresight) {
	kind := kindOf(k.Proto)
	if w := s.forward.words[f.forward]; w != 0 && uint32(w>>32) == forwardHash(f.client, kind) {
		f.guess = uint32(w) - 1
	} else {
		f.random = s.picker.rng.next()
		first, _ := s.paired(k.Client)
		port, ok := s.picker.foresee(kind, first, k.ClientPort, f.random)
		f.guess = bibIndex(s.t.ports.set(kind, first), port)
		f.chosen = ok && !s.t.blocks.on()
	}
	m := s.mapping(f.guess)
	f.hash46 = s.t.hash.key46(&Key46{Server: k.Server, Mapped: m.Addr, ServerPort: k.ServerPort, MappedPort: m.Port, Proto: k.Proto})
}

// firstFree is the first free slot of a hash's first bucket, which is where
// most entries go, or the last lane's when there is none.
func (x *index) firstFree(h uint64) uint32 { return x.lane(x.bucketOf(h), 0) }
