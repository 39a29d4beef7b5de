//go:build !amd64 || race

package conntrack

import "sync/atomic"

// These are store_amd64.go's functions in the language's own words: where its
// atomic stores cost nothing extra (STLR of arm64), and for the race detector.

func storeWord(p *atomic.Uint64, v uint64) { p.Store(v) }

func storeHalf(p *atomic.Uint32, v uint32) { p.Store(v) }

func storeSlot(s *slot, w *words, stampState uint64, seq uint32) {
	s.seq.Store(seq)
	s.hop.Store(0)
	for i := range w {
		s.w[i].Store(w[i])
	}
	s.stamp.Store(uint32(stampState))
	s.state.Store(uint32(stampState >> 32))
	s.seq.Store(seq + 1)
}

func storeEntry(e *bibEntry, hi, lo, meta uint64) {
	e.hi.Store(hi)
	e.lo.Store(lo)
	e.counts.Store(0)
	e.meta.Store(meta)
}
