package xsk

import (
	"sync/atomic"

	"handoff64/ring"
)

// CompletionRing is where the kernel returns the frames of sent packets: it
// writes the producer index, we write the consumer index. Owned by one worker.
type CompletionRing struct {
	producer, consumer *atomic.Uint32
	slots              []uint64
	mask               uint32

	cachedConsumer uint32 // our index; nobody else writes it
}

// reclaim moves all returned frames to the stack and returns how many.
func (r *CompletionRing) reclaim(free *ring.FrameStack) int {
	n := r.producer.Load() - r.cachedConsumer
	for i := range n {
		// The kernel returns the address as it was sent; the stack finds the
		// start of the frame.
		free.Push(r.slots[(r.cachedConsumer+i)&r.mask])
	}
	if n > 0 {
		r.cachedConsumer += n
		r.consumer.Store(r.cachedConsumer)
	}
	return int(n)
}

// held lists the frames in the ring.
func (r *CompletionRing) held() []uint64 {
	var frames []uint64
	for i := r.consumer.Load(); i != r.producer.Load(); i++ {
		frames = append(frames, r.slots[i&r.mask])
	}
	return frames
}
