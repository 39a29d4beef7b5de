package conntrack

import (
	"fmt"
	"sync/atomic"
)

// bibEntry is a dynamic mapping (client, client port) ↔ (pool4 address, mapped
// port), at the place in an array that its kind, address and mapped port give.
//
//	hi, lo  client address
//	meta    version 8 | flags 8 | client port 16 | 0 32
//	counts  sessions of TCP 32 | sessions 32
//
// A mapping serves TCP and UDP. It is one of RFC 6146's TCP BIB while TCP
// sessions use it, and one of the UDP BIB while others do.
//
// Whoever claimed the port writes the entry, so it has one writer at a time,
// but for bibHeld, which whoever changes the static mappings sets and clears.
// Readers take meta, the address, and meta again; version and flags tell
// whether the entry changed hands in between.
type bibEntry struct {
	hi, lo, meta, counts atomic.Uint64 // half a cache line
}

const (
	bibVersion = 1 << 56
	bibLive    = 1 << 48 // the entry is a mapping
	bibHeld    = 1 << 49 // a static mapping holds the port as well: do not free it
	bibCounted = 1 << 50 // the mapping counts against its client's limit
	bibWho     = ^uint64(bibHeld | bibCounted)
)

// bib holds the dynamic mappings of all shards. Memory is touched only where
// ports are in use.
type bib struct {
	entries []bibEntry
	mem     region
}

// densePool4 is the number of addresses up to which the entries get huge pages.
const densePool4 = 64

func newBIB(addrs int) (*bib, error) {
	n := kinds * addrs << 16
	mem, err := mapSparse(sizeOf[bibEntry](n), addrs <= densePool4)
	if err != nil {
		return nil, fmt.Errorf("BIB of %d pool4 addresses: %w", addrs, err)
	}
	return &bib{entries: overlay[bibEntry](mem, 0, n), mem: mem}, nil
}

// kindOf tells the number space of an entry.
func (b *bib) kindOf(index uint32) kind {
	if int(index) < len(b.entries)/kinds {
		return kindPorts
	}
	return kindICMP
}

// bibIndex numbers entries: set is the port set's number.
func bibIndex(set int, port uint16) uint32 { return uint32(set)<<16 | uint32(port) }

// read copies an entry. Any goroutine.
func (e *bibEntry) read() (client Addr6, port uint16, sessions uint32, ok bool) {
	m := e.meta.Load()
	client = Addr6{e.hi.Load(), e.lo.Load()}
	sessions = e.sessions()
	ok = m&bibLive != 0 && (e.meta.Load()^m)&bibWho == 0
	return client, uint16(m >> 32), sessions, ok
}

// is tells whether the entry maps this client. Owner of the client only, or
// whoever holds the port.
func (e *bibEntry) is(client Addr6, port uint16) bool {
	m := e.meta.Load()
	return m&bibLive != 0 && uint16(m>>32) == port && e.lo.Load() == client.Lo && e.hi.Load() == client.Hi
}

// open makes the entry a mapping without sessions. Holder of the port only.
// mark is bibCounted and bibAway, as far as they apply.
func (e *bibEntry) open(client Addr6, port uint16, mark uint64) {
	v := e.meta.Load()&^(bibVersion-1) + bibVersion
	storeEntry(e, client.Hi, client.Lo, v|bibLive|mark|uint64(port)<<32)
}

// close ends the mapping and tells its flags: whether a static mapping keeps the
// port, whether it counted. The client's words stay: only meta says whether
// they are valid.
func (e *bibEntry) close() (flags uint64) {
	for {
		m := e.meta.Load()
		if e.meta.CompareAndSwap(m, m&^(bibVersion-1)) {
			return m & (bibHeld | bibCounted | bibAway)
		}
	}
}

// One session in counts, and one of TCP's.
const (
	bibOne = 1
	bibTCP = 1<<32 + bibOne
)

// count adds to the sessions that use the mapping, or takes one off, and says
// how many they are then. Owner of the client only.
func (e *bibEntry) count(p Proto, n int64) uint32 {
	one := int64(bibOne)
	if p == TCP {
		one = bibTCP
	}
	c := e.counts.Load() + uint64(n*one)
	storeWord(&e.counts, c)
	return uint32(c)
}

// serves tells whether sessions of the protocol use the mapping. Any goroutine;
// the answer is as of a moment ago.
func (e *bibEntry) serves(p Proto) bool {
	c := e.counts.Load()
	if p == TCP {
		return c>>32 != 0
	}
	return uint32(c) > uint32(c>>32)
}

// sessions counts the sessions that use the mapping.
func (e *bibEntry) sessions() uint32 { return uint32(e.counts.Load()) }

// forward finds a client's dynamic mapping: open addressing over words of hash
// 32 | BIB index 32, with the hash giving the place. An entry's words in the
// BIB are compared on a hash match. Deletion shifts back, so probes stay as
// short as the load allows. Owned by one shard; nobody else reads it.
type forward struct {
	words []uint64 // hash<<32 | index+1; 0 is empty
	used  int
	mem   region
}

func newForward(n int) (forward, error) {
	mem, err := mapAnonymous(sizeOf[uint64](n))
	if err != nil {
		return forward{}, fmt.Errorf("BIB index of %d entries: %w", n, err)
	}
	return forward{words: overlay[uint64](mem, 0, n), mem: mem}, nil
}

// forwardHash keeps the two number spaces apart.
func forwardHash(client uint64, k kind) uint32 { return uint32(client) + uint32(k)*0x9e3779b9 }

func (f *forward) home(hash uint32) int { return int(scale(uint64(hash), uint64(len(f.words)))) }

// full leaves an eighth empty: probing ends at an empty word.
func (f *forward) full() bool { return f.used >= len(f.words)-len(f.words)/8 }

// find gives the BIB index of a client's mapping and where its word is.
func (f *forward) find(b *bib, hash uint32, k kind, client Addr6, port uint16) (index uint32, at int, ok bool) {
	for at = f.home(hash); f.words[at] != 0; at = f.after(at) {
		w := f.words[at]
		if uint32(w>>32) != hash {
			continue
		}
		if index = uint32(w) - 1; b.kindOf(index) == k && b.entries[index].is(client, port) {
			return index, at, true
		}
	}
	return 0, 0, false
}

// place is where the word of a BIB index, which is there, lies.
func (f *forward) place(hash, index uint32) int {
	at := f.home(hash)
	for f.words[at] != uint64(hash)<<32|uint64(index+1) {
		at = f.after(at)
	}
	return at
}

func (f *forward) after(at int) int {
	if at++; at == len(f.words) {
		return 0
	}
	return at
}

func (f *forward) insert(hash uint32, index uint32) {
	at := f.home(hash)
	for f.words[at] != 0 {
		at = f.after(at)
	}
	f.words[at] = uint64(hash)<<32 | uint64(index+1)
	f.used++
}

// remove empties a word and moves back those behind it that may come closer to
// their home (Knuth, TAOCP 3, §6.4, algorithm R).
func (f *forward) remove(at int) {
	f.used--
	f.words[at] = 0
	for hole := at; ; {
		if at = f.after(at); f.words[at] == 0 {
			return
		}
		if !between(hole, f.home(uint32(f.words[at]>>32)), at) {
			f.words[hole], f.words[at] = f.words[at], 0
			hole = at
		}
	}
}

// between tells whether home lies in (hole, at], around the end.
func between(hole, home, at int) bool {
	if hole <= at {
		return hole < home && home <= at
	}
	return hole < home || home <= at
}
