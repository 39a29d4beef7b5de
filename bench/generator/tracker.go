package generator

// windowBits is how far back a sequence is remembered packet by packet, to tell
// a late packet from a second one.
const windowBits = 1 << 17

// tracker follows one sender's sequence as one queue receives it. Owned by one
// goroutine.
type tracker struct {
	next   uint64 // one more than the highest number received
	window [windowBits / 64]uint64

	fresh      uint64 // received since the last restart, without duplicates
	received   uint64 // without duplicates
	duplicated uint64
	reordered  uint64 // received behind a higher number (RFC 4737 §3.3)
	ancient    uint64 // of those, too far behind to know whether they are duplicates
}

// add notes that a number was received.
func (t *tracker) add(seq uint64) {
	word, bit := seq/64, uint64(1)<<(seq%64)
	slot := &t.window[word%uint64(len(t.window))]
	if seq >= t.next {
		t.clear((t.next+63)/64, word)
		*slot |= bit
		t.next = seq + 1
		t.fresh++
		t.received++
		return
	}
	if (t.next-1)/64-word >= uint64(len(t.window)) {
		t.fresh++
		t.received++
		t.reordered++
		t.ancient++
		return
	}
	if *slot&bit != 0 {
		t.duplicated++
		return
	}
	*slot |= bit
	t.fresh++
	t.received++
	t.reordered++
}

// restart makes the next number the first of another sequence. The counts go on.
func (t *tracker) restart() {
	t.window = [windowBits / 64]uint64{}
	t.next, t.fresh = 0, 0
}

// clear empties the words from one to another, which come into the window.
func (t *tracker) clear(from, to uint64) {
	if to-from >= uint64(len(t.window)) && to >= from {
		t.window = [windowBits / 64]uint64{}
		return
	}
	for ; from <= to; from++ {
		t.window[from%uint64(len(t.window))] = 0
	}
}
