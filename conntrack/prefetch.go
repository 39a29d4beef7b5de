package conntrack

import "unsafe"

// together is how many cache lines are asked for in one go: a worker's burst.
const together = 64

// prefetch asks for the cache lines that the pointers lead to, and waits for
// none of them. A plain load would do the same, but a processor that has to
// keep a load's place until the line has come runs out of places after a few:
// the burst's misses then overlap by tens of instructions, not by hundreds.
// Measured, this takes a quarter off a packet's whole time at 65,536 flows.
//
// unsafe: pointers to any type look alike, so the slice is only renamed; what
// they point to is neither read nor written.
func prefetch[T offHeap](lines []*T) {
	prefetchLines(*(*[]unsafe.Pointer)(unsafe.Pointer(&lines)))
}

// prefetchLine asks for one line.
//
// unsafe: as prefetch.
func prefetchLine[T any](line *T) { prefetchOne(unsafe.Pointer(line)) }
