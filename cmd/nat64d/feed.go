package main

import (
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/ring/pcapport"
)

// fineTicks is how much of a pause a replay lives through tick by tick; the
// rest it lives through in steps of a second, so that a capture of days takes
// no longer than one of minutes.
const fineTicks = 15 * conntrack.TicksPerSecond

// tickTime is how long a tick takes.
const tickTime = time.Second / conntrack.TicksPerSecond

// feeder gives a worker the packets of captures in the order of their times.
// It has no other clock than them. For one goroutine.
type feeder struct {
	worker *dataplane.Worker
	ports  []*pcapport.Port
	// longest is after how many ticks nothing is left that a timer could end.
	longest int64

	first time.Time // when the first packet came
	tick  int64     // the worker's clock; that of the first packet is replayStart
}

// run feeds all packets. What the worker holds back is seen to its end: after
// held ticks it has been sent, answered or dropped.
func (f *feeder) run(held int64) {
	next, ok := f.next()
	if !ok {
		return
	}
	f.first, f.tick = next, replayStart
	for ; ok; next, ok = f.next() {
		f.pause(replayStart + int64(next.Sub(f.first)/tickTime))
		// The timers of this moment come before its packets.
		f.poll(next.Add(-1))
		f.poll(next)
	}
	f.pause(f.tick + held + 1)
	f.poll(f.time(f.tick))
}

// next is when the next packet comes on any port.
func (f *feeder) next() (next time.Time, ok bool) {
	for _, p := range f.ports {
		if t, more := p.Peek(); more && (!ok || t.Before(next)) {
			next, ok = t, true
		}
	}
	return next, ok
}

// pause lives through the time up to a tick. What timers send meanwhile, such
// as the probe of an idle connection, carries the time at which it was due.
func (f *feeder) pause(until int64) {
	begun, end := f.tick, min(until, f.tick+f.longest)
	for f.tick++; f.tick < end; {
		f.poll(f.time(f.tick))
		if f.tick-begun < fineTicks {
			f.tick++
		} else {
			f.tick += conntrack.TicksPerSecond
		}
	}
	f.tick = until
}

// time is when a tick begins.
func (f *feeder) time(tick int64) time.Time {
	return f.first.Add(time.Duration(tick-replayStart) * tickTime)
}

// poll sets the clock and has the worker do all that is due.
func (f *feeder) poll(now time.Time) {
	for _, p := range f.ports {
		p.SetNow(now)
	}
	for f.worker.Poll(conntrack.Tick(f.tick)) > 0 {
	}
}
