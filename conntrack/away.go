package conntrack

import (
	"fmt"
	"sync/atomic"
)

// A client's mappings lie at the pool4 address that a hash of its own address
// points at, so shards agree on it without a word (paired pooling, RFC 4787
// REQ-2). But when that address had no free port, or a static mapping of the
// client names another one, some lie elsewhere, and by RFC 6146 §3.5.1.1 new
// ones shall go where there is one already. away remembers such clients while
// they have mappings elsewhere. It is shared by all shards: words of
//
//	fingerprint of the client 35 | pool4 address 12 | mappings there 17
//
// in buckets of one cache line. A client whose bucket is full is not remembered;
// its next mapping is where its hash points.
type away struct {
	words []awayWord
	known atomic.Int64 // no fewer than words in use: mostly none, and then nobody looks
	mem   region
}

// awayWord is one client at one address; any shard changes it, by
// compare-and-swap.
type awayWord struct{ atomic.Uint64 }

const (
	awayBuckets   = 1 << 12
	awayWays      = 8
	awayCountBits = 17
	awayCount     = 1<<awayCountBits - 1
	awayAddrBits  = 12 // maxPool4
	awayAddr      = (1<<awayAddrBits - 1) << awayCountBits
	awayClient    = ^uint64(awayAddr | awayCount)
)

// bibAway marks a mapping that is counted in away.
const bibAway = 1 << 51

// allocate makes room, if the pool has an elsewhere.
func (a *away) allocate(addrs int) (err error) {
	if addrs == 1 {
		return nil
	}
	const n = awayBuckets * awayWays
	if a.mem, err = mapAnonymous(sizeOf[awayWord](n)); err != nil {
		return fmt.Errorf("clients away from their pool4 address: %w", err)
	}
	a.words = overlay[awayWord](a.mem, 0, n)
	return nil
}

// bucket gives the client's words and what they have in common.
func (a *away) bucket(h uint64) (words []awayWord, client uint64) {
	at := h % awayBuckets * awayWays
	return a.words[at : at+awayWays], h & awayClient
}

// find gives an address at which the client of the hash has mappings, other
// than where its hash points. Any goroutine.
func (a *away) find(h uint64) (addr int, ok bool) {
	if a.known.Load() == 0 {
		return 0, false
	}
	words, client := a.bucket(h)
	for i := range words {
		if w := words[i].Load(); w != 0 && w&awayClient == client {
			return int(w & awayAddr >> awayCountBits), true
		}
	}
	return 0, false
}

// add counts a mapping elsewhere. It returns false when there is no room for
// it. Two shards may make two words for one client: both count, and each is
// found until its last mapping goes.
func (a *away) add(h uint64, addr int) bool {
	words, client := a.bucket(h)
	key := client | uint64(addr)<<awayCountBits
again:
	free := -1
	for i := range words {
		w := words[i].Load()
		switch {
		case w == 0:
			free = i
		case w&^awayCount == key && w&awayCount != awayCount:
			if !words[i].CompareAndSwap(w, w+1) {
				goto again
			}
			return true
		}
	}
	if free < 0 {
		return false
	}
	a.known.Add(1) // first: who counts on in the new word must find it at once
	if !words[free].CompareAndSwap(0, key|1) {
		a.known.Add(-1)
		goto again
	}
	return true
}

// drop uncounts a mapping that add counted.
func (a *away) drop(h uint64, addr int) {
	words, client := a.bucket(h)
	key := client | uint64(addr)<<awayCountBits
again:
	for i := range words {
		w := words[i].Load()
		if w == 0 || w&^awayCount != key {
			continue
		}
		next := w - 1
		if next&awayCount == 0 {
			next = 0
		}
		if !words[i].CompareAndSwap(w, next) {
			goto again
		}
		if next == 0 {
			a.known.Add(-1)
		}
		return
	}
	panic("conntrack: uncounting a mapping of a client that has none away")
}

// paired says where a new mapping of a client shall lie: home is what its hash
// points at, first where it has another mapping, static ones included.
func (s *Shard) paired(client Addr6) (first, home int) {
	p := s.t.ports
	home = int(scale(pairing(client), uint64(len(p.addrs))))
	if len(p.addrs) == 1 {
		return home, home
	}
	if addr, ok := s.t.away.find(s.t.hash.address(client)); ok {
		return addr, home
	}
	if set := s.t.statics.Load(); len(set.paired) > 0 {
		if addr, ok := set.paired[client]; ok {
			return int(addr), home
		}
	}
	return home, home
}

// goAway remembers a mapping that is about to lie elsewhere than home, and gives
// its mark.
func (s *Shard) goAway(client Addr6, addr int) (mark uint64) {
	p := s.t.ports
	if len(p.addrs) == 1 || addr == int(scale(pairing(client), uint64(len(p.addrs)))) || !s.t.away.add(s.t.hash.address(client), addr) {
		return 0
	}
	return bibAway
}

// pair fills in which pool4 address each client has static mappings at: the
// first of them, if there are several. Addresses that dynamic mappings cannot
// lie at do not count.
func (s *staticSet) pair(p *ports) {
	s.paired = make(map[Addr6]uint16, len(s.byClient))
	for _, e := range s.byClient {
		addr, ok := p.indexOf(e.Mapped)
		if old, has := s.paired[e.Client]; ok && (!has || uint16(addr) < old) {
			s.paired[e.Client] = uint16(addr)
		}
	}
}
