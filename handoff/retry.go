package handoff

import (
	"time"

	"handoff64/conntrack"
)

const (
	maxRetries = 1 << 16
	// An entry is told again after 1, 2, 4, 8, 16 and 32 s; 64 s after the last
	// time it is given up.
	retryLevels = 7
	// resendBatch bounds what one round repeats.
	resendBatch = 256
)

// retryKey names an entry that a capable server has not echoed yet.
type retryKey struct {
	channelKey
	client     conntrack.Addr6
	clientPort uint16
	pool6      uint8
}

type retry struct {
	due        int64
	mappedPort uint16
	level      uint8
}

// retries is the bounded table of unacknowledged entries. Those that wait
// equally long form a queue, so each queue is sorted by due, and the head of
// the last queue that is not empty is the oldest of all. Owned by the worker's
// goroutine.
type retries struct {
	index  index[retryKey]
	slots  []retry
	places []place
	levels [retryLevels]list
}

func newRetries() *retries {
	r := &retries{index: newIndex[retryKey](maxRetries), slots: make([]retry, maxRetries), places: make([]place, maxRetries)}
	for i := range r.levels {
		r.levels[i] = emptyList()
	}
	return r
}

// crowded says that the table is so full that entries which can wait should.
func (r *retries) crowded() bool { return r.index.used > maxRetries*3/4 }

func (r *retries) enter(i int32, level uint8, now int64) {
	s := &r.slots[i]
	s.level, s.due = level, now+int64(time.Second)<<level
	r.levels[level].push(r.places, i)
}

func (r *retries) remove(i int32) {
	r.levels[r.slots[i].level].remove(r.places, i)
	r.index.remove(i)
}

// add begins to wait for the echo of an entry. It returns false when the same
// entry is being waited for already. When the table is full the oldest entry
// gives way.
func (r *retries) add(k retryKey, mappedPort uint16, now int64) (isNew, crowdedOut bool) {
	if i := r.index.find(k); i != none {
		if r.slots[i].mappedPort == mappedPort {
			return false, false
		}
		r.remove(i)
	}
	if r.index.full() {
		r.remove(r.oldest())
		crowdedOut = true
	}
	i := r.index.add(k)
	r.slots[i].mappedPort = mappedPort
	r.enter(i, 0, now)
	return true, crowdedOut
}

func (r *retries) oldest() int32 {
	for level := retryLevels - 1; ; level-- {
		if i := r.levels[level].head; i != none {
			return i
		}
	}
}

// acknowledge ends the wait for an entry; false when nobody waited.
func (r *retries) acknowledge(k retryKey) bool {
	i := r.index.find(k)
	if i == none {
		return false
	}
	r.remove(i)
	return true
}

// due is when the first wait ends; false when nothing is waited for.
func (r *retries) due() (at int64, ok bool) {
	for level := range r.levels {
		i := r.levels[level].head
		if i != none && (!ok || r.slots[i].due < at) {
			at, ok = r.slots[i].due, true
		}
	}
	return at, ok
}

// resend tells again what was not echoed in time.
func (w *Worker) resend() (worked bool) {
	r := w.retries
	for level := range r.levels {
		for range resendBatch {
			i := r.levels[level].head
			if i == none || r.slots[i].due > w.now {
				break
			}
			w.tellAgain(i, uint8(level))
			worked = true
		}
	}
	return worked
}

func (w *Worker) tellAgain(i int32, level uint8) {
	r := w.retries
	k := r.index.keys[i]
	if w.servers.state(k.server) != conntrack.ServerHandoff {
		r.remove(i) // nobody there to echo it; it is sent once the server is back
		return
	}
	if w.mapped != nil && !w.mapped(k.own, r.slots[i].mappedPort, k.client, k.clientPort) {
		w.count.outlived.Add(1)
		r.remove(i)
		return
	}
	if level == retryLevels-1 {
		w.count.unanswered.Add(1)
		r.remove(i)
		return
	}
	w.count.retries.Add(1)
	r.levels[level].remove(r.places, i)
	r.enter(i, level+1, w.now)
	w.tell(k.channelKey, note{client: k.client, clientPort: k.clientPort, mappedPort: r.slots[i].mappedPort, pool6: k.pool6})
}
