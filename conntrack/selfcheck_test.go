package conntrack

import (
	"fmt"
	"math/bits"
)

// selfcheck verifies every invariant of a table at rest: both slots of each
// session, tags and overflow counts, mappings and their session counts, ports
// and summaries, the wheel, the filter state and the counters.
func (t *Table) selfcheck() error {
	c := checker{t: t, refs: map[uint32]uint32{}, tcp: map[uint32]uint64{}, static: map[mappedKey]uint32{}, counts: map[Addr6]uint64{}}
	for _, s := range t.shards {
		if err := c.shard(s); err != nil {
			return fmt.Errorf("shard %d: %w", s.id, err)
		}
	}
	if free := t.free.Load() + c.credits; free != int64(t.capacity-c.sessions) {
		return fmt.Errorf("room for %d sessions, want %d - %d", free, t.capacity, c.sessions)
	}
	if free := t.freeEntries.Load(); free != int64(t.entries-c.entries) {
		return fmt.Errorf("room for %d entries, want %d - %d", free, t.entries, c.entries)
	}
	if err := c.statics(); err != nil {
		return err
	}
	if err := c.pool(); err != nil {
		return err
	}
	if err := c.away(); err != nil {
		return err
	}
	if err := c.clients(); err != nil {
		return err
	}
	return c.t.checkBlocks()
}

// away checks that exactly the mappings that carry its mark are counted.
func (c *checker) away() error {
	a, want, words := &c.t.away, map[uint64]uint64{}, int64(0)
	p, n := c.t.ports, len(c.t.ports.addrs)
	for i, usable := range p.usable {
		for set := i / blocks; usable != 0; usable &= usable - 1 {
			e := &c.t.bib.entries[bibIndex(set, uint16(i%blocks<<blockShift|bits.TrailingZeros64(usable)))]
			if client, _, _, ok := e.read(); ok && e.meta.Load()&bibAway != 0 {
				want[c.t.hash.address(client)&awayClient|uint64(set%n)<<awayCountBits]++
			}
		}
	}
	for i := range a.words {
		if w := a.words[i].Load(); w != 0 {
			words++
			want[w&^awayCount] -= w & awayCount
		}
	}
	for key, n := range want {
		if n != 0 {
			return fmt.Errorf("away: %#x counts %d too few", key, int64(n))
		}
	}
	if known := a.known.Load(); known != words {
		return fmt.Errorf("away: %d words known, %d in use", known, words)
	}
	return nil
}

type checker struct {
	t        *Table
	sessions int
	entries  int
	credits  int64
	refs     map[uint32]uint32 // BIB index → sessions
	tcp      map[uint32]uint64 // and those of TCP
	static   map[mappedKey]uint32
	mappings int
	counts   map[Addr6]uint64 // what counts against clients' limits
}

func (c *checker) shard(s *Shard) error {
	n, entries := 0, 0
	peersWant := map[uint64]uint64{}
	for i := range s.index64.slots {
		var w words
		if _, ok := s.index64.slots[i].load(&w); !ok {
			continue
		}
		n++
		if err := c.session(s, uint32(i), &w); err != nil {
			return fmt.Errorf("slot %d: %w", i, err)
		}
		se := w.session()
		if se.Key.Proto == Entry {
			entries++
		}
		if w[4]&countedBit != 0 {
			c.counts[se.Key.Client] += oneSession
		}
		if se.Origin != OriginHandoff {
			peersWant[c.t.hash.peer(c.t.hash.client(se.Key.Client, se.Key.ClientPort), se.Key.Server, se.Key.Proto)>>peerShift]++
		}
	}
	c.sessions += n - entries
	c.entries += entries
	c.credits += s.credits
	st := s.Stats()
	if int(st.Used) != n-entries || int(st.Entries) != entries || s.wheel.count != n {
		return fmt.Errorf("%d sessions and %d entries, counters %d and %d, on the wheel %d",
			n-entries, entries, st.Used, st.Entries, s.wheel.count)
	}
	for name, x := range map[string]*index{"64": &s.index64, "46": &s.index46} {
		if err := checkIndex(c.t, x, name == "64", n); err != nil {
			return fmt.Errorf("index %s: %w", name, err)
		}
	}
	if err := checkWheel(s); err != nil {
		return err
	}
	if err := c.checkPeers(s, peersWant); err != nil {
		return err
	}
	return c.forward(s)
}

func (c *checker) session(s *Shard, i uint32, w *words) error {
	se := w.session()
	var w46 words
	b := &s.index46.slots[w.peer()]
	if _, ok := b.load(&w46); !ok {
		return fmt.Errorf("peer slot %d is empty", w.peer())
	}
	if want := se.words46(i, se.Origin); w46 != want {
		return fmt.Errorf("peer slot %d holds %x, want %x", w.peer(), w46, want)
	}
	if x, y := s.index64.slots[i].state.Load(), b.state.Load(); x != y {
		return fmt.Errorf("state %#x, mirror %#x", x, y)
	}
	if c.t.Owner(se.Key.Client, se.Key.ClientPort) != s.id {
		return fmt.Errorf("the client is another shard's")
	}
	var v64 View64
	var v46 View46
	k46 := se.key46()
	if !c.t.Lookup64(&se.Key, c.t.Hash64(&se.Key), &v64) || v64.self != i {
		return fmt.Errorf("not found by its key")
	}
	if !c.t.Lookup46(&k46, c.t.Hash46(&k46), &v46) || v46.self != w.peer() {
		return fmt.Errorf("not found by its other key")
	}
	if se.Origin == OriginHandoff {
		return nil
	}
	if se.Origin == OriginStatic {
		c.static[mappedKey{se.Mapped, se.MappedPort, se.Key.Proto}]++
		return nil
	}
	set, ok := c.t.poolSet(kindOf(se.Key.Proto), se.Mapped)
	if !ok {
		return fmt.Errorf("mapped address %s is not in pool4", ipv4(se.Mapped))
	}
	c.refs[bibIndex(set, se.MappedPort)]++
	if se.Key.Proto == TCP {
		c.tcp[bibIndex(set, se.MappedPort)]++
	}
	return nil
}

// checkIndex recounts tags and overflow counts from the slots.
func checkIndex(t *Table, x *index, is64 bool, n int) error {
	tags, passed := make([]uint64, len(x.tags)), make([]int, len(x.tags))
	live := 0
	for i := range x.slots {
		var w words
		if _, ok := x.slots[i].load(&w); !ok {
			continue
		}
		live++
		h := hashOf(t, &w, is64)
		tags[i/lanes] |= tagOf(h) << (i % lanes * 8)
		for b := x.bucketOf(h); b != uint64(i/lanes); b = x.next(b, tagOf(h)) {
			passed[b]++
		}
	}
	if live != n {
		return fmt.Errorf("%d slots in use, want %d", live, n)
	}
	for b := range tags {
		word := x.tags[b].Load()
		if word<<8 != tags[b]<<8 {
			return fmt.Errorf("bucket %d has tags %x, want %x", b, word<<8>>8, tags[b])
		}
		if count := int(word >> 56); count != passed[b] && count != passedFull {
			return fmt.Errorf("bucket %d says %d entries passed it, %d did", b, count, passed[b])
		}
	}
	return nil
}

func hashOf(t *Table, w *words, is64 bool) uint64 {
	if is64 {
		k := w.session().Key
		return t.Hash64(&k)
	}
	return t.Hash46(&Key46{Server: w.server(), Mapped: w.mapped(), ServerPort: uint16(w[2]), MappedPort: uint16(w[2] >> 16), Proto: w.proto()})
}

func checkWheel(s *Shard) error {
	n := 0
	for b, head := range s.wheel.heads {
		prev := wheelHead | uint32(b)
		for i := head; i != 0; i = s.index64.slots[i-1].next {
			if got := s.index64.slots[i-1].prev; got != prev {
				return fmt.Errorf("wheel: slot %d comes after %#x, says %#x", i-1, prev, got)
			}
			prev = i
			n++
		}
	}
	if n != s.wheel.count {
		return fmt.Errorf("wheel: %d sessions, count %d", n, s.wheel.count)
	}
	return nil
}

func (c *checker) checkPeers(s *Shard, want map[uint64]uint64) error {
	if s.peers.words == nil {
		return nil
	}
	n := 0
	for _, w := range s.peers.words {
		if w == 0 {
			continue
		}
		n++
		if want[w>>peerShift] != w&peerCount {
			return fmt.Errorf("filter state %x counts %d, want %d", w>>peerShift, w&peerCount, want[w>>peerShift])
		}
		if !s.peers.has(w) {
			return fmt.Errorf("filter state %x cannot be found", w>>peerShift)
		}
	}
	if n != len(want) {
		return fmt.Errorf("filter state: %d entries, want %d", n, len(want))
	}
	return nil
}

// forward checks that a shard finds each of its dynamic mappings.
func (c *checker) forward(s *Shard) error {
	n := 0
	for _, w := range s.forward.words {
		if w == 0 {
			continue
		}
		n++
		i := uint32(w) - 1
		client, port, _, ok := c.t.bib.entries[i].read()
		if !ok {
			return fmt.Errorf("BIB index names entry %d, which is no mapping", i)
		}
		k := s.t.bib.kindOf(i)
		hash := forwardHash(c.t.hash.client(client, port), k)
		if got, _, ok := s.forward.find(c.t.bib, hash, k, client, port); !ok || got != i {
			return fmt.Errorf("mapping %d cannot be found by its client", i)
		}
	}
	c.mappings += n
	if n != s.forward.used || n != int(s.stats.own[statBIB]) {
		return fmt.Errorf("%d mappings, index counts %d, counter %d", n, s.forward.used, s.stats.own[statBIB])
	}
	return nil
}

func (c *checker) statics() error {
	set := c.t.statics.Load()
	for key, n := range c.static {
		if set.serving(key) == nil {
			return fmt.Errorf("%d sessions of a static mapping that is gone: %+v", n, key)
		}
	}
	for _, m := range []map[mappedKey]*staticEntry{set.byMapped, set.retired} {
		for key, e := range m {
			if e.sessions.Load() != c.static[key] {
				return fmt.Errorf("%s counts %d sessions, has %d", e.Static, e.sessions.Load(), c.static[key])
			}
		}
	}
	return nil
}

// pool checks that a port is taken exactly when a mapping has it.
func (c *checker) pool() error {
	p, live := c.t.ports, 0
	for i, usable := range p.usable {
		set, block := i/blocks, i%blocks
		free := p.sets[set].free[block].Load()
		if free&^usable != 0 {
			return fmt.Errorf("set %d block %d: ports %x outside the ranges are free", set, block, free&^usable)
		}
		for par := range uint16(2) {
			sum := p.sets[set].sum[par][block>>6].Load()>>(block&63)&1 != 0
			if has := free&parityMask(par) != 0; sum != has {
				return fmt.Errorf("set %d block %d parity %d: summary %v, free %x", set, block, par, sum, free)
			}
		}
		for m := usable; m != 0; m &= m - 1 {
			port := uint16(block<<blockShift | bits.TrailingZeros64(m))
			if err := c.port(set, port, free>>(port&63)&1 != 0, &live); err != nil {
				return err
			}
		}
	}
	if live != c.mappings {
		return fmt.Errorf("%d mappings in the BIB, %d in the shards' indexes", live, c.mappings)
	}
	for set := range p.sets {
		k, a := set/len(p.addrs), set%len(p.addrs)
		if any := p.any[k][a>>6].Load()>>(a&63)&1 != 0; any == p.sets[set].empty() {
			return fmt.Errorf("set %d: address summary says %v", set, any)
		}
	}
	return nil
}

func (c *checker) port(set int, port uint16, free bool, live *int) error {
	i, n := bibIndex(set, port), len(c.t.ports.addrs)
	client, _, sessions, ok := c.t.bib.entries[i].read()
	if ok && c.t.bib.entries[i].meta.Load()&bibCounted != 0 {
		c.counts[client] += onePort
	}
	held := c.t.statics.Load().holder(kind(set/n), c.t.ports.addrs[set%n], port) != nil
	if ok {
		*live++
		if sessions != c.refs[i] || sessions == 0 {
			return fmt.Errorf("mapping %d counts %d sessions, has %d", i, sessions, c.refs[i])
		}
		if tcp := c.t.bib.entries[i].counts.Load() >> 32; tcp != c.tcp[i] {
			return fmt.Errorf("mapping %d counts %d TCP sessions, has %d", i, tcp, c.tcp[i])
		}
		if m := c.t.bib.entries[i].meta.Load()&bibHeld != 0; m != held {
			return fmt.Errorf("mapping %d: held %v, a static mapping there %v", i, m, held)
		}
	}
	if free == (ok || held) {
		return fmt.Errorf("set %d port %d: free %v, mapping %v, static %v", set, port, free, ok, held)
	}
	return nil
}

// clients checks that the counts of clients are those of what is marked as
// counted, and that no place is held by a client that has nothing.
func (c *checker) clients() error {
	cl, live, known := &c.t.clients, 0, map[uint64]Addr6{}
	for a := range c.counts {
		known[c.t.hash.address(a)] = a
	}
	for i := range cl.slots {
		s := &cl.slots[i]
		n := s.count.Load()
		published := cl.words[i/clientLanes].Load()>>(i%clientLanes*4)&15 != 0
		if n&clientState == clientFree && !published {
			continue
		}
		live++
		a := known[s.hash.Load()]
		if n&clientState != clientLive || !published {
			return fmt.Errorf("clients: place %d has state %d, published %v", i, n&clientState>>44, published)
		}
		if got := n & (sessionCount | portCount); got != c.counts[a] {
			return fmt.Errorf("clients: %s counts %d sessions and %d ports, has %d and %d", ipv6(a),
				got&sessionCount, got/onePort, c.counts[a]&sessionCount, c.counts[a]/onePort)
		}
		if sessions, ports := c.t.ClientHas(a); uint64(sessions)+uint64(ports)*onePort != c.counts[a] {
			return fmt.Errorf("clients: %s cannot be found", ipv6(a))
		}
	}
	if live != len(c.counts) || int(c.t.Stats().Clients) != live {
		return fmt.Errorf("clients: %d places are taken, stats say %d, %d clients have something", live, c.t.Stats().Clients, len(c.counts))
	}
	return nil
}

// checkBlocks recounts the mappings of each port block, and checks that a block
// is free, or a client's, and then found by it and on the list if it is empty.
func (t *Table) checkBlocks() error {
	b := &t.blocks
	if !b.on() {
		return nil
	}
	mappings := map[uint32]uint32{}
	for _, s := range t.shards {
		for _, w := range s.forward.words {
			if w != 0 {
				i := uint32(w) - 1
				mappings[b.at(s.addrOf(i), uint16(i))]++
			}
		}
	}
	assigned := 0
	for i := range b.blocks {
		e := &b.blocks[i]
		meta, addr, n := e.meta.Load(), i/b.perAddr, i%b.perAddr
		free := b.free[addr*b.words+n/64].Load()>>(n%64)&1 != 0
		if meta&blockAssigned == 0 {
			if mappings[uint32(i)] != 0 || uint32(meta) != 0 {
				return fmt.Errorf("block %d is nobody's and has %d mappings", i, mappings[uint32(i)])
			}
			continue
		}
		assigned++
		client := Addr6{e.hi.Load(), e.lo.Load()}
		if free || uint32(meta) != mappings[uint32(i)] || uint32(meta) == 0 && e.waiting == 0 {
			return fmt.Errorf("block %d: free %v, counts %d mappings, has %d, waiting %d", i, free, uint32(meta), mappings[uint32(i)], e.waiting)
		}
		o := &t.shards[t.Owner(client, 0)].blocks
		found := false
		for at := o.index.home(uint32(t.hash.address(client))); o.index.words[at] != 0; at = o.index.after(at) {
			found = found || uint32(o.index.words[at]) == uint32(i)+1
		}
		if !found {
			return fmt.Errorf("block %d cannot be found by its client", i)
		}
	}
	if assigned != int(t.Stats().Blocks) {
		return fmt.Errorf("%d blocks are assigned, stats say %d", assigned, t.Stats().Blocks)
	}
	return nil
}
