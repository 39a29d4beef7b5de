package xsk

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// TXRing is where we put packets for the kernel to send: we write the producer
// index, it writes the consumer index. Owned by one worker.
type TXRing struct {
	producer, consumer, flags *atomic.Uint32
	slots                     []ring.Desc
	mask                      uint32

	cachedProducer uint32 // our index; nobody else writes it
	cachedConsumer uint32 // the kernel's index as last seen
}

// put copies descriptors into the ring as far as there is room and shows them
// to the kernel.
func (r *TXRing) put(descs []ring.Desc) int {
	size := r.mask + 1
	room := size - (r.cachedProducer - r.cachedConsumer)
	if room < uint32(len(descs)) {
		r.cachedConsumer = r.consumer.Load()
		room = size - (r.cachedProducer - r.cachedConsumer)
	}
	n := min(room, uint32(len(descs)))
	for i := range n {
		// Options of a received descriptor mean nothing on the way out, and
		// the kernel refuses those that it does not know.
		r.slots[(r.cachedProducer+i)&r.mask] = ring.Desc{Addr: descs[i].Addr, Len: descs[i].Len}
	}
	if n > 0 {
		r.cachedProducer += n
		r.producer.Store(r.cachedProducer)
	}
	return int(n)
}

// pending is the number of packets that the kernel has not taken yet.
func (r *TXRing) pending() uint32 {
	r.cachedConsumer = r.consumer.Load()
	return r.cachedProducer - r.cachedConsumer
}

// needsWakeup says whether the kernel waits for a system call. Sequentially
// consistent atomics order it behind put's store, so that a wish which the
// kernel expressed before it went to sleep is seen.
func (r *TXRing) needsWakeup() bool { return r.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }

// held lists the frames in the ring.
func (r *TXRing) held() []uint64 {
	var frames []uint64
	for i := r.consumer.Load(); i != r.producer.Load(); i++ {
		frames = append(frames, r.slots[i&r.mask].Addr)
	}
	return frames
}
