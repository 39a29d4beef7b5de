package xsk

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// FillRing is where we put free frames for the kernel to receive into: we
// write the producer index, it writes the consumer index. Owned by one worker.
type FillRing struct {
	producer, consumer, flags *atomic.Uint32
	slots                     []uint64
	mask                      uint32

	cachedProducer uint32 // our index; nobody else writes it
	cachedConsumer uint32 // the kernel's index as last seen
}

// put moves up to n frames from the stack into the ring and returns how many
// found room.
func (r *FillRing) put(free *ring.FrameStack, n int) int {
	size := r.mask + 1
	room := size - (r.cachedProducer - r.cachedConsumer)
	if room < uint32(n) {
		r.cachedConsumer = r.consumer.Load()
		room = size - (r.cachedProducer - r.cachedConsumer)
	}
	count := min(room, uint32(n), uint32(free.Len()))
	for i := range count {
		frame, _ := free.Pop() // count is at most free.Len()
		r.slots[(r.cachedProducer+i)&r.mask] = frame
	}
	if count > 0 {
		r.cachedProducer += count
		r.producer.Store(r.cachedProducer)
	}
	return int(count)
}

// needsWakeup says whether the driver stopped for want of frames and waits for
// a system call.
func (r *FillRing) needsWakeup() bool { return r.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }

// held lists the frames in the ring.
func (r *FillRing) held() []uint64 {
	var frames []uint64
	for i := r.consumer.Load(); i != r.producer.Load(); i++ {
		frames = append(frames, r.slots[i&r.mask])
	}
	return frames
}
