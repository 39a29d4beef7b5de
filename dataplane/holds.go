package dataplane

import "handoff64/ring"

// holds are the fragments that wait in their frames: at a datagram, or, once
// its first fragment has decided, in the queue of those that are to go on.
type holds struct {
	limit    int // of waiting ones; a burst may exceed it until it is settled
	waiting  int
	released int
	slots    []heldFragment
	free     uint32
	head     uint32 // the queue of released ones
	tail     uint32
}

// heldFragment is one untranslated fragment. It holds no pointer.
type heldFragment struct {
	desc ring.Desc
	via  via
	role role
	next uint32
	at   piece // its share of the upper layer
	from uint16
	ref  datagramRef // of a first fragment that is to be decided
	what decision    // of a released one
}

func (h *holds) init(limit int) {
	h.limit = limit
	h.slots = make([]heldFragment, limit+BurstSize+1)
	for i := len(h.slots) - 1; i > 0; i-- {
		h.slots[i].next, h.free = h.free, uint32(i)
	}
}

// hold puts the packet's frame aside, at the end of the datagram's. It returns
// false when there is no room for it.
func (t *datagrams) hold(d *datagram, m *meta) bool {
	i := t.holds.free
	if i == 0 {
		return false
	}
	s := &t.slots[i]
	t.holds.free = s.next
	*s = heldFragment{
		desc: ring.Desc{Addr: m.addr, Len: m.len}, via: m.via, from: m.p.L4,
		at: piece{m.p.FragOffset, m.p.End - m.p.L4},
	}
	if d.back != 0 {
		t.slots[d.back].next = i
	} else {
		d.front = i
	}
	d.back = i
	d.held++
	t.waiting++
	m.verdict = gone
	return true
}

// takeFirst takes the first fragment off the datagram's, to the queue.
func (t *datagrams) takeFirst(d *datagram) {
	prev := uint32(0)
	for i := d.front; i != 0; prev, i = i, t.slots[i].next {
		s := &t.slots[i]
		if s.at.at != 0 {
			continue
		}
		if prev != 0 {
			t.slots[prev].next = s.next
		} else {
			d.front = s.next
		}
		if d.back == i {
			d.back = prev
		}
		d.held--
		t.waiting--
		s.role, s.ref, s.what, s.next = roleFirst, t.ref(d), d.decision, 0
		t.enqueue(i, i, 1)
		return
	}
}

// release sends all that the datagram holds after its first fragment.
func (t *datagrams) release(d *datagram) {
	if d.held == 0 {
		return
	}
	for i := d.front; i != 0; i = t.slots[i].next {
		t.slots[i].role, t.slots[i].what = roleFollower, d.decision
	}
	t.enqueue(d.front, d.back, int(d.held))
	t.waiting -= int(d.held)
	d.front, d.back, d.held = 0, 0, 0
}

func (h *holds) enqueue(first, last uint32, n int) {
	if h.tail != 0 {
		h.slots[h.tail].next = first
	} else {
		h.head = first
	}
	h.tail = last
	h.released += n
}

// dequeue takes the oldest of the queue.
func (h *holds) dequeue() (s heldFragment) {
	i := h.head
	s = h.slots[i]
	h.head = s.next
	if h.head == 0 {
		h.tail = 0
	}
	h.released--
	h.slots[i].next, h.free = h.free, i
	return s
}

// dropHeld loses all that a datagram holds.
func (w *Worker) dropHeld(d *datagram, r DropReason) {
	h := &w.datagrams.holds
	for i := d.front; i != 0; {
		next := h.slots[i].next
		w.counters.drop(r)
		w.frames.Push(h.slots[i].desc.Addr)
		h.slots[i].next, h.free = h.free, i
		i = next
	}
	h.waiting -= int(d.held)
	d.front, d.back, d.held = 0, 0, 0
}

// releaseBudget is how many held fragments go on in one go: no more than the
// rings behind them take.
const releaseBudget = 4 * BurstSize

// releaseHeld takes fragments that have been released through the steps.
func (w *Worker) releaseHeld() {
	t := w.datagrams
	for budget := releaseBudget; budget > 0 && t.released > 0; budget -= BurstSize {
		w.late.n = 0
		for w.late.n < BurstSize && t.released > 0 {
			s := t.dequeue()
			m := w.late.add(w.umem, s.desc, s.via)
			m.role, m.ref, m.what = s.role, s.ref, s.what
		}
		w.steps(&w.late)
		w.turnRound()
	}
}
