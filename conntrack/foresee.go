package conntrack

// Opening a session takes memory in seven places or more, nearly all of them
// out of the cache. A worker collects the packets of a burst that need a
// session, and Foresee goes over them before any is opened, in passes that
// either compute or load, so that the misses of all of them overlap (see
// probe.go). Nothing is changed or reserved by that. What it guesses wrong,
// Map and Insert find out, only slower.

// Foresight is what Foresee found out for one packet. A plain value; only
// Foresee makes one that says anything.
type Foresight struct {
	random  uint64 // what the port is chosen by
	client  uint64 // hash
	hash46  uint64
	peer    uint64 // hash
	forward uint32 // place of the client's word
	bib     uint32 // place of the mapping
}

// Foresee asks for what opening sessions for the keys is going to read and
// write. hashes are the keys' Hash64, f takes what MapForeseen wants to know.
// All keys are this shard's; there are at most 64.
func (s *Shard) Foresee(keys []*Key64, hashes []uint64, f []Foresight) {
	f, hashes = f[:len(keys)], hashes[:len(keys)]
	var words [together]*uint64
	for i, k := range keys {
		f[i].client = s.t.hash.client(k.Client, k.ClientPort)
		f[i].forward = uint32(s.forward.home(forwardHash(f[i].client, kindOf(k.Proto))))
		words[i] = &s.forward.words[f[i].forward]
	}
	prefetch(words[:len(keys)])
	var mappings [together]*bibEntry
	var tags [together]*tagWord
	for i, k := range keys {
		s.foreseeMapping(k, &f[i])
		mappings[i] = &s.t.bib.entries[f[i].bib]
		tags[i] = &s.index46.tags[s.index46.bucketOf(f[i].hash46)]
	}
	prefetch(mappings[:len(keys)])
	prefetch(tags[:len(keys)])
	if s.peers.words != nil {
		for i := range f {
			words[i] = &s.peers.words[s.peers.home(f[i].peer)]
		}
		prefetch(words[:len(keys)])
	}
	var slots [2 * together]*slot
	for i, h := range hashes {
		slots[2*i] = s.index64.firstFree(h)
		slots[2*i+1] = s.index46.firstFree(f[i].hash46)
	}
	prefetch(slots[:2*len(keys)])
}

// foreseeMapping finds the client's mapping, by its hash alone, or the port
// that Map would claim, and what follows from it.
func (s *Shard) foreseeMapping(k *Key64, f *Foresight) {
	kind := kindOf(k.Proto)
	f.random = s.picker.rng.next()
	if w := s.forward.words[f.forward]; w != 0 && uint32(w>>32) == forwardHash(f.client, kind) {
		f.bib = uint32(w) - 1
	} else {
		first, _ := s.paired(k.Client)
		addr, port := s.picker.foresee(kind, first, k.ClientPort, f.random)
		f.bib = bibIndex(s.t.ports.set(kind, addr), port)
	}
	m := s.mapping(f.bib)
	k46 := Key46{Server: k.Server, Mapped: m.Addr, ServerPort: k.ServerPort, MappedPort: m.Port, Proto: k.Proto}
	f.hash46 = s.t.hash.key46(&k46)
	f.peer = s.t.hash.peer(k.Client, k.ClientPort, k.Server, k.Proto)
}

// firstFree is the first free slot of a hash's first bucket, which is where
// most entries go, or the last lane's when there is none.
func (x *index) firstFree(h uint64) *slot { return &x.slots[x.lane(x.bucketOf(h), 0)] }
