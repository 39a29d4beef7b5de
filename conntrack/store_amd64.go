//go:build amd64 && !race

package conntrack

import "sync/atomic"

// What the owner of a shard writes is read by others, so it has to appear in
// the order in which it is written, and whole words at a time. That is all that
// an ordinary store of amd64 promises and all that is needed; but sync/atomic
// stores with XCHG, which moreover waits until everything stored before it has
// reached the cache. A new session would wait some twenty times. The language
// has no word for the cheaper store, so these are in assembly. The race
// detector, which sees no assembly, gets store_other.go.
//
// None of them keeps a pointer. They must not be used where a later load has to
// come after the store for every other processor (claiming a port, taking room).

// storeWord stores v.
//
//go:noescape
func storeWord(p *atomic.Uint64, v uint64)

// storeHalf stores v.
//
//go:noescape
func storeHalf(p *atomic.Uint32, v uint32)

// storeSlot writes a session into a slot: seq, which is odd, then everything,
// with stamp in the low half of stampState and state in the upper one, then
// seq+1.
//
//go:noescape
func storeSlot(s *slot, w *words, stampState uint64, seq uint32)

// storeEntry writes a BIB entry, meta last.
//
//go:noescape
func storeEntry(e *bibEntry, hi, lo, meta uint64)
