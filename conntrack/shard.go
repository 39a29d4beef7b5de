package conntrack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

// Session is what Insert writes: both directions of one flow.
type Session struct {
	Key        Key64
	Mapped     uint32
	MappedPort uint16
	Delta64    uint16 // checksum difference that View64.Delta will give
	Delta46    uint16 // and View46.Delta
	State      TCPState
	Origin     Origin // OriginStatic is found out by Insert itself
}

// Mapping is a BIB entry's IPv4 side.
type Mapping struct {
	Addr   uint32
	Port   uint16
	Static bool
}

// Shard is the part of the table that one worker writes. Its methods are for
// that worker alone, but for Stats.
type Shard struct {
	t       *Table
	id      int
	index64 index
	index46 index
	forward forward
	peers   peers
	picker  picker
	wheel   wheel
	sweep   sweep
	credits int64
	probes  []Session // see Probes; its capacity is maxProbes
	hand    uint32    // where evict goes on
	recent  recents   // sessions over entries, for evict
	// recentEntries is recent for the entries themselves.
	recentEntries recents
	swept         atomic.Uint32 // Table.sweeps as of the last sweep carried out
	// generation numbers sessions; its low 24 bits go into their state words.
	generation uint32
	mem        [3]region
	now        Tick // as of the last call that was told
	blocks     ownBlocks
	journal    journal

	stats tallies
}

// keyStream is the source of port choices: ChaCha8 with a key of the shard's
// own, so ports seen do not tell the next one (RFC 6056 §3.1).
type keyStream struct{ g *rand.ChaCha8 }

func (k keyStream) next() uint64 { return k.g.Uint64() }

// newShard allocates a shard. slots64 is where the 64 slots lie when they lie
// in a file.
func newShard(t *Table, id, buckets int, slots64 []slot, seed [32]byte) (s *Shard, err error) {
	s = &Shard{t: t, id: id, probes: make([]Session, 0, maxProbes)}
	n := buckets * lanes
	if slots64 == nil {
		if s.mem[0], err = mapAnonymous(sizeOf[slot](n)); err != nil {
			return nil, fmt.Errorf("sessions, direction 64: %w", err)
		}
		slots64 = overlay[slot](s.mem[0], 0, n)
	}
	if s.mem[1], err = mapAnonymous(sizeOf[slot](n)); err != nil {
		return nil, errors.Join(fmt.Errorf("sessions, direction 46: %w", err), s.close())
	}
	tags := roundUp(sizeOf[tagWord](buckets), 64)
	if s.mem[2], err = mapAnonymous(2 * tags); err != nil {
		return nil, errors.Join(fmt.Errorf("session index: %w", err), s.close())
	}
	s.index64 = index{overlay[tagWord](s.mem[2], 0, buckets), slots64}
	s.index46 = index{overlay[tagWord](s.mem[2], tags, buckets), overlay[slot](s.mem[1], 0, n)}
	if s.forward, err = newForward(n + n/16); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if t.blocks.on() {
		if s.blocks.index, err = newForward(len(t.blocks.blocks) + len(t.blocks.blocks)/4 + 8); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	if s.journal, err = newJournal(n); err != nil {
		return nil, errors.Join(fmt.Errorf("beginnings of sessions: %w", err), s.close())
	}
	s.picker = picker{pool: t.ports, rng: keyStream{rand.NewChaCha8(seed)}}
	for i := range s.picker.own {
		s.picker.own[i] = t.ports.own(uint64(id), i)
	}
	return s, nil
}

func (s *Shard) close() error {
	errs := []error{s.forward.mem.unmap(), s.peers.mem.unmap(), s.blocks.index.mem.unmap(), s.journal.mem.unmap()}
	for i := range s.mem {
		errs = append(errs, s.mem[i].unmap())
	}
	return errors.Join(errs...)
}

// Map finds the mapping of a client's transport address, or makes one
// (RFC 6146 §3.5.1.1). A new one lasts only if a session follows: call Insert,
// or Unmap when there will be none.
func (s *Shard) Map(client Addr6, port uint16, p Proto) (Mapping, Verdict) {
	defer s.stats.publish()
	f := Foresight{client: s.t.hash.client(client, port), random: s.picker.rng.next()}
	if s.t.hash.owner(f.client) != uint64(s.id) {
		return Mapping{}, NotOwner
	}
	return s.MapForeseen(&Key64{Client: client, ClientPort: port, Proto: p}, &f)
}

// MapForeseen is Map for one of the keys that Foresee was given, which are this
// shard's. Open follows, or Unmap.
func (s *Shard) MapForeseen(key *Key64, f *Foresight) (Mapping, Verdict) {
	client, port := key.Client, key.ClientPort
	f.mapped, f.fresh = false, false
	if set := s.t.statics.Load(); len(set.byClient) > 0 {
		if e := set.byClient[clientKey{client, port, key.Proto}]; e != nil {
			return Mapping{e.Mapped, e.MappedPort, true}, OK
		}
	}
	k := kindOf(key.Proto)
	hash := forwardHash(f.client, k)
	if i, _, ok := s.forward.find(s.t.bib, hash, k, client, port); ok {
		f.bib, f.mapped = i, true
		return s.mapping(i), OK
	}
	if s.forward.full() {
		return Mapping{}, TableFull
	}
	mark, v := s.takePort(client, false)
	if v != OK {
		return Mapping{}, v
	}
	i, v := s.choose(k, client, port, f)
	if v != OK {
		s.giveBack(client, mark, onePort)
		return Mapping{}, v
	}
	s.openBIB(i, hash, client, port, mark)
	f.bib, f.mapped, f.fresh = i, true, true
	return s.mapping(i), OK
}

// FindMapping finds the mapping of a client's transport address that sessions
// of the protocol use, and makes none.
func (s *Shard) FindMapping(client Addr6, port uint16, p Proto) (Mapping, bool) {
	if set := s.t.statics.Load(); len(set.byClient) > 0 {
		if e := set.byClient[clientKey{client, port, p}]; e != nil {
			return Mapping{e.Mapped, e.MappedPort, true}, true
		}
	}
	k := kindOf(p)
	i, _, ok := s.forward.find(s.t.bib, forwardHash(s.t.hash.client(client, port), k), k, client, port)
	if !ok || !s.t.bib.entries[i].serves(p) {
		return Mapping{}, false
	}
	return s.mapping(i), true
}

// choose claims a port for a new mapping, and gives the mapping's place: the
// port that was foreseen, if it is still free.
func (s *Shard) choose(k kind, client Addr6, port uint16, f *Foresight) (uint32, Verdict) {
	p := s.t.ports
	if f.chosen && p.claim(int(f.guess>>16), uint16(f.guess)) {
		return f.guess, OK
	}
	if f.random == 0 { // a mapping was foreseen, which was another client's
		f.random = s.picker.rng.next()
	}
	if s.t.blocks.on() {
		addr, mapped, v := s.pickFromBlocks(k, client, port, f.random)
		return bibIndex(p.set(k, addr), mapped), v
	}
	first, home := s.paired(client)
	addr, mapped, ok := s.picker.pick(k, first, home, port, f.random)
	if !ok {
		return 0, PortsUsedUp
	}
	return bibIndex(p.set(k, addr), mapped), OK
}

func (s *Shard) openBIB(i, hash uint32, client Addr6, port uint16, mark uint64) {
	mark |= s.goAway(client, s.addrOf(i))
	s.t.bib.entries[i].open(client, port, mark)
	s.forward.insert(hash, i)
	s.hold(i)
	s.stats.add(statBIB, 1)
}

func (s *Shard) mapping(i uint32) Mapping {
	return Mapping{Addr: s.t.ports.addrs[s.addrOf(i)], Port: uint16(i)}
}

// addrOf gives the index of a BIB entry's pool4 address.
func (s *Shard) addrOf(i uint32) int { return s.t.ports.addrOf(int(i >> 16)) }

// Unmap drops the dynamic mapping that Map may have made, unless a session
// uses it.
func (s *Shard) Unmap(client Addr6, port uint16, p Proto) {
	s.unmap(client, port, p)
	s.stats.publish()
}

func (s *Shard) unmap(client Addr6, port uint16, p Proto) {
	c, k := s.t.hash.client(client, port), kindOf(p)
	if s.t.hash.owner(c) != uint64(s.id) {
		return
	}
	i, at, ok := s.forward.find(s.t.bib, forwardHash(c, k), k, client, port)
	if ok && s.t.bib.entries[i].sessions() == 0 {
		s.closeBIB(i, at, client)
	}
}

// closeBIB ends a dynamic mapping and frees its port.
func (s *Shard) closeBIB(i uint32, at int, client Addr6) {
	flags := s.t.bib.entries[i].close()
	s.forward.remove(at)
	s.stats.add(statBIB, -1)
	s.giveBack(client, flags&bibCounted, onePort)
	if flags&bibAway != 0 {
		s.t.away.drop(s.t.hash.address(client), s.addrOf(i))
	}
	s.letBlock(i)
	if flags&bibHeld == 0 {
		s.t.ports.release(int(i>>16), uint16(i))
	}
}

// acquire makes a session count on its mapping: the static one of its
// protocol, else the dynamic one. false when the client has no such mapping.
func (s *Shard) acquire(se *Session, f *Foresight) (Origin, bool) {
	k := &se.Key
	if se.Origin == OriginHandoff {
		return OriginHandoff, true // the mapping is the server's
	}
	if f.fresh { // no static one has its port, and nothing else uses it
		s.t.bib.entries[f.bib].count(k.Proto, 1)
		return OriginNAT64, true
	}
	if set := s.t.statics.Load(); len(set.byMapped) > 0 {
		key := mappedKey{se.Mapped, se.MappedPort, k.Proto}
		e := set.byMapped[key]
		if e != nil && e.Client == k.Client && e.ClientPort == k.ClientPort && e.acquire() {
			if s.t.statics.Load().byMapped[key] == e {
				return OriginStatic, true
			}
			e.release() // removed just now; from here on the next sweep would see the session
		}
	}
	set, ok := s.t.poolSet(kindOf(k.Proto), se.Mapped)
	if !ok {
		return 0, false
	}
	e := &s.t.bib.entries[bibIndex(set, se.MappedPort)]
	if !e.is(k.Client, k.ClientPort) {
		return 0, false
	}
	e.count(k.Proto, 1)
	s.countMapping(e, k.Client)
	return OriginNAT64, true
}

// letGo undoes acquire, and ends a dynamic mapping with its last session. c is
// the hash of the client's transport address.
func (s *Shard) letGo(se *Session, origin Origin, c uint64) {
	k := &se.Key
	if origin == OriginHandoff {
		return
	}
	if origin == OriginStatic {
		key := mappedKey{se.Mapped, se.MappedPort, k.Proto}
		s.t.statics.Load().serving(key).release()
		return
	}
	kind := kindOf(k.Proto)
	set, _ := s.t.poolSet(kind, se.Mapped)
	i := bibIndex(set, se.MappedPort)
	if s.t.bib.entries[i].count(k.Proto, -1) == 0 {
		s.closeBIB(i, s.forward.place(forwardHash(c, kind), i), k.Client)
	}
}
