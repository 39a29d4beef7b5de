package ring

import (
	"math/bits"
	"sync/atomic"
)

// cacheLine is the distance that keeps two variables out of one line, also
// where the adjacent line is prefetched along (x86) or lines are 128 octets
// (some arm64).
const cacheLine = 128

// SPSC is a bounded ring from exactly one producing goroutine to exactly one
// consuming goroutine; nobody ever waits. Each side has its index on a cache
// line of its own and a private copy of the other side's index, which it reads
// again only when the copy says full (or empty): in steady flow the two sides
// share a line once per burst. Use NewSPSC; the zero value holds nothing.
type SPSC[T any] struct {
	slots []T
	mask  uint64
	_     [cacheLine]byte

	head       atomic.Uint64 // next slot to read; written by the consumer only
	cachedTail uint64        // the consumer's copy of tail
	_          [cacheLine]byte

	tail       atomic.Uint64 // next slot to write; written by the producer only
	cachedHead uint64        // the producer's copy of head
	_          [cacheLine]byte
}

// NewSPSC returns an empty ring that holds capacity elements, rounded up to a
// power of two.
func NewSPSC[T any](capacity int) *SPSC[T] {
	n := ceilPowerOfTwo(capacity)
	return &SPSC[T]{slots: make([]T, n), mask: uint64(n - 1)}
}

// Push appends v, or returns false when the ring is full. Producer only.
func (q *SPSC[T]) Push(v T) bool {
	t := q.tail.Load()
	if q.room(t, 1) == 0 {
		return false
	}
	q.slots[t&q.mask] = v
	q.tail.Store(t + 1) // publishes the slot
	return true
}

// PushBatch appends as much of the front of vs as there is room for, shows it
// to the consumer at once, and returns how many that were. Producer only.
func (q *SPSC[T]) PushBatch(vs []T) int {
	t := q.tail.Load()
	n := min(q.room(t, uint64(len(vs))), uint64(len(vs)))
	for i := range n {
		q.slots[(t+i)&q.mask] = vs[i]
	}
	if n > 0 {
		q.tail.Store(t + n)
	}
	return int(n)
}

// room is the number of free slots in front of t as far as the producer
// knows; it looks at the consumer's index only if it knows of fewer than want.
func (q *SPSC[T]) room(t, want uint64) uint64 {
	size := q.mask + 1
	free := size - (t - q.cachedHead)
	if free < want {
		q.cachedHead = q.head.Load()
		free = size - (t - q.cachedHead)
	}
	return free
}

// Pop takes the oldest element, or returns false when there is none. Consumer
// only.
func (q *SPSC[T]) Pop() (v T, ok bool) {
	h := q.head.Load()
	if q.ready(h, 1) == 0 {
		return v, false
	}
	var zero T
	v = q.slots[h&q.mask]
	q.slots[h&q.mask] = zero // drops what v refers to from the ring
	q.head.Store(h + 1)      // gives the slot back
	return v, true
}

// PopBatch moves up to len(vs) of the oldest elements into vs and returns how
// many. Consumer only.
func (q *SPSC[T]) PopBatch(vs []T) int {
	h := q.head.Load()
	n := min(q.ready(h, uint64(len(vs))), uint64(len(vs)))
	var zero T
	for i := range n {
		vs[i] = q.slots[(h+i)&q.mask]
		q.slots[(h+i)&q.mask] = zero
	}
	if n > 0 {
		q.head.Store(h + n)
	}
	return int(n)
}

// ready is the number of elements from h on as far as the consumer knows.
func (q *SPSC[T]) ready(h, want uint64) uint64 {
	avail := q.cachedTail - h
	if avail < want {
		q.cachedTail = q.tail.Load()
		avail = q.cachedTail - h
	}
	return avail
}

// Len is the number of elements at some moment during the call. Any goroutine
// may ask.
func (q *SPSC[T]) Len() int {
	h := q.head.Load() // before tail, so that the difference is never negative
	return int(min(q.tail.Load()-h, q.mask+1))
}

// Cap is the number of elements the ring holds.
func (q *SPSC[T]) Cap() int { return len(q.slots) }

func ceilPowerOfTwo(n int) int {
	if n <= 1 {
		return 1
	}
	return 1 << bits.Len(uint(n-1))
}
