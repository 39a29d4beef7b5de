package dataplane

import "handoff64/conntrack"

// bucket limits the ICMP errors that a worker sends (RFC 4443 §2.4 f,
// RFC 1812 §4.3.2.8). Owned by the worker.
type bucket struct {
	tokens int // in tenths of an error, so that a tick's share is whole
}

// refill adds one worker's share for the ticks since the last round. At most a
// second's worth is saved up.
func (b *bucket) refill(now, last conntrack.Tick, perSecond, workers int) {
	full := max(perSecond*conntrack.TicksPerSecond/workers, min(perSecond, 1)*conntrack.TicksPerSecond)
	elapsed := min(int(now-last), conntrack.TicksPerSecond)
	b.tokens = min(b.tokens+elapsed*full/conntrack.TicksPerSecond, full)
}

func (b *bucket) take() bool {
	if b.tokens < conntrack.TicksPerSecond {
		return false
	}
	b.tokens -= conntrack.TicksPerSecond
	return true
}
