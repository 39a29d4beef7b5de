package nexthop

import "sync/atomic"

// Question is a destination that a packet waits for the neighbour of. A plain
// value. Of an IPv4 destination, Lo holds the address and Hi is 0.
type Question struct {
	Side   Side
	Hi, Lo uint64
}

const (
	askSlots  = 1024 // questions that may stand at a time
	askProbes = 8    // slots that one question may take

	// The two low bits of askSlot.state; the rest counts the uses, so that a
	// reader notices a slot that changed hands.
	askEmpty, askBusy, askFull uint64 = 0, 1, 2
	askPhase                   uint64 = 3
)

// askSlot holds one question. Writers compete for an empty slot; the manager
// alone empties a full one.
type askSlot struct {
	state  atomic.Uint64
	side   atomic.Uint32
	hi, lo atomic.Uint64
}

// askTable takes questions from all workers for one manager: bounded, each
// question once, no lock and no wait. A slot is direct-mapped by a hash of
// the question, and its content is all atomics, so that a writer may compare
// its own question with what stands there. Safe for concurrent use; take has
// one caller at a time.
type askTable struct {
	slots [askSlots]askSlot
	some  atomic.Bool // a slot may be full
}

// put notes a question. It returns false when the places for it are taken:
// the manager is behind.
func (t *askTable) put(q Question) bool {
	at := spread(q.Hi*0x9e3779b97f4a7c15 ^ q.Lo ^ uint64(q.Side)<<63)
	for i := range uint32(askProbes) {
		s := &t.slots[(at+i)%askSlots]
		state := s.state.Load()
		if state&askPhase == askEmpty && s.state.CompareAndSwap(state, state|askBusy) {
			s.side.Store(uint32(q.Side))
			s.hi.Store(q.Hi)
			s.lo.Store(q.Lo)
			s.state.Store(state | askFull)
			t.some.Store(true)
			return true
		}
		if state&askPhase == askFull && s.question() == q && s.state.Load() == state {
			return true // stands there already
		}
	}
	return false
}

func (s *askSlot) question() Question {
	return Question{Side(s.side.Load()), s.hi.Load(), s.lo.Load()}
}

// take hands out all questions that stand.
func (t *askTable) take(f func(Question)) {
	if !t.some.Swap(false) {
		return
	}
	for i := range t.slots {
		s := &t.slots[i]
		state := s.state.Load()
		if state&askPhase != askFull {
			continue // a writer that is at it will say so with some
		}
		q := s.question()
		s.state.Store((state | askPhase) + 1) // empty again, one use later
		f(q)
	}
}
