package ring

import "sync/atomic"

// MPSC is a bounded ring from any number of producing goroutines to exactly
// one consuming goroutine: the way control commands reach a worker. It is
// Vyukov's bounded queue (1024cores.net, "Bounded MPMC queue") with a single
// consumer: a slot's turn says whose it is. Position p may be written when
// turn is p and read when turn is p+1; reading sets p+capacity. Use NewMPSC;
// the zero value is not usable.
type MPSC[T any] struct {
	slots []mpscSlot[T]
	mask  uint64
	_     [cacheLine]byte

	tail atomic.Uint64 // next position to claim; producers compete for it
	_    [cacheLine]byte

	head uint64 // next position to read; the consumer's own
	_    [cacheLine]byte
}

type mpscSlot[T any] struct {
	turn  atomic.Uint64
	value T
}

// NewMPSC returns an empty ring that holds capacity elements, rounded up to a
// power of two and at least two (with one slot "written" and "free for the
// next round" would be the same turn).
func NewMPSC[T any](capacity int) *MPSC[T] {
	n := ceilPowerOfTwo(max(capacity, 2))
	q := &MPSC[T]{slots: make([]mpscSlot[T], n), mask: uint64(n - 1)}
	for i := range q.slots {
		q.slots[i].turn.Store(uint64(i))
	}
	return q
}

// Push appends v, or returns false when the ring is full. Any goroutine.
func (q *MPSC[T]) Push(v T) bool {
	for {
		pos := q.tail.Load()
		slot := &q.slots[pos&q.mask]
		switch ahead := int64(slot.turn.Load() - pos); {
		case ahead < 0:
			return false // still holds what was written one round ago
		case ahead > 0:
			continue // another producer was faster
		}
		if q.tail.CompareAndSwap(pos, pos+1) {
			slot.value = v
			slot.turn.Store(pos + 1)
			return true
		}
	}
}

// Pop takes the oldest element, or returns false when there is none. Consumer
// only. A producer that has claimed a slot and not written it yet hides those
// behind it for that moment.
func (q *MPSC[T]) Pop() (v T, ok bool) {
	slot := &q.slots[q.head&q.mask]
	if slot.turn.Load() != q.head+1 {
		return v, false
	}
	var zero T
	v, slot.value = slot.value, zero
	slot.turn.Store(q.head + q.mask + 1)
	q.head++
	return v, true
}

// Cap is the number of elements the ring holds.
func (q *MPSC[T]) Cap() int { return len(q.slots) }
