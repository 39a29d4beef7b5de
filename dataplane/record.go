package dataplane

import (
	"sync/atomic"
	"time"

	"handoff64/conntrack"
	"handoff64/ring"
)

// Log takes what happens to sessions and port blocks from one worker to
// whoever writes it down. The worker is the only producer of both rings. Blocks
// have one of their own, so that many sessions cannot crowd them out.
type Log struct {
	Sessions *ring.SPSC[conntrack.Event]
	Blocks   *ring.SPSC[conntrack.Event]
	lost     atomic.Uint64
}

// Rings of these sizes take what a worker makes while the writer is away for
// some tens of milliseconds.
const (
	sessionLogRing = 1 << 15
	blockLogRing   = 1 << 12
)

// NewLog makes the rings.
func NewLog() *Log {
	return &Log{Sessions: ring.NewSPSC[conntrack.Event](sessionLogRing), Blocks: ring.NewSPSC[conntrack.Event](blockLogRing)}
}

// Lost counts events that found their ring full. Any goroutine.
func (l *Log) Lost() uint64 { return l.lost.Load() }

// record hands on what happened in this round. It never waits: an event that
// finds its ring full is lost and counted.
func (w *Worker) record() {
	events := w.shard.Events()
	if len(events) == 0 || w.log == nil {
		return
	}
	now, lost := time.Now().UnixMilli(), 0 // once for all of a round
	for i := range events {
		events[i].At = now
	}
	for from := 0; from < len(events); { // what goes into one ring is shown there at once
		to, block := from+1, ofBlock(&events[from])
		for to < len(events) && ofBlock(&events[to]) == block {
			to++
		}
		ring := w.log.Sessions
		if block {
			ring = w.log.Blocks
		}
		lost += to - from - ring.PushBatch(events[from:to])
		from = to
	}
	if lost > 0 {
		w.log.lost.Add(uint64(lost))
	}
}

func ofBlock(e *conntrack.Event) bool {
	return e.Kind == conntrack.BlockAssigned || e.Kind == conntrack.BlockReturned
}
