package dataplane

import "handoff64/conntrack"

// bucket limits the ICMP errors that a worker sends (RFC 4443 §2.4 f,
// RFC 1812 §4.3.2.8). Owned by the worker.
type bucket struct {
	tokens int // in tenths of an error, so that a tick's share is whole
	full   int // a second's worth
}

// refill adds one worker's share for the ticks since the last round. At most a
// second's worth is saved up.
func (b *bucket) refill(now, last conntrack.Tick, perSecond, workers int) {
	full := max(perSecond*conntrack.TicksPerSecond/workers, min(perSecond, 1)*conntrack.TicksPerSecond)
	elapsed := min(int(now-last), conntrack.TicksPerSecond)
	b.tokens, b.full = min(b.tokens+elapsed*full/conntrack.TicksPerSecond, full), full
}

// plenty says whether more than half of what can be saved up is there: for
// errors that must leave room for others.
func (b *bucket) plenty() bool { return 2*b.tokens > b.full }

func (b *bucket) take() bool {
	if b.tokens < conntrack.TicksPerSecond {
		return false
	}
	b.tokens -= conntrack.TicksPerSecond
	return true
}
