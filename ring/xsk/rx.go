package xsk

import (
	"sync/atomic"

	"handoff64/ring"
)

// RXRing is where the kernel puts received packets: it writes the producer
// index, we write the consumer index. Owned by one worker.
type RXRing struct {
	producer, consumer *atomic.Uint32
	slots              []ring.Desc
	mask               uint32

	cachedProducer uint32 // the kernel's index as last seen
	cachedConsumer uint32 // our index; nobody else writes it
}

// take copies received descriptors into descs, oldest first, and gives their
// slots back.
func (r *RXRing) take(descs []ring.Desc) int {
	avail := r.cachedProducer - r.cachedConsumer
	if avail < uint32(len(descs)) {
		r.cachedProducer = r.producer.Load()
		avail = r.cachedProducer - r.cachedConsumer
	}
	n := min(avail, uint32(len(descs)))
	for i := range n {
		descs[i] = r.slots[(r.cachedConsumer+i)&r.mask]
	}
	if n > 0 {
		r.cachedConsumer += n
		r.consumer.Store(r.cachedConsumer)
	}
	return int(n)
}

// held lists the frames in the ring.
func (r *RXRing) held() []uint64 {
	var frames []uint64
	for i := r.consumer.Load(); i != r.producer.Load(); i++ {
		frames = append(frames, r.slots[i&r.mask].Addr)
	}
	return frames
}
