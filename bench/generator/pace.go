package generator

import "math"

// maxBurst is how many packets leave at once at most.
const maxBurst = 64

// maxArrears is how long a sender that was held up makes up for, in nanoseconds:
// what is overdue for longer is not sent any more, as it would come as a flood
// that nobody asked for. It is counted as missed.
const maxArrears = 2_000_000

// pace says how many packets are due: a token bucket that is filled by the
// clock and holds maxArrears. Owned by one goroutine.
type pace struct {
	perNano  float64 // packets per nanosecond; 0: as many as possible
	start    int64   // nanoseconds
	duration int64   // nanoseconds; 0: no end
	limit    uint64  // packets; 0: no end
	given    uint64  // packets accounted for: sent or missed
	missed   uint64
}

// newPace returns a pace for a rate in packets per second.
func newPace(rate float64, start, duration int64, limit uint64) pace {
	return pace{perNano: rate / 1e9, start: start, duration: duration, limit: limit}
}

// due is how many packets are to be sent now, and whether more will be later.
func (p *pace) due(now int64) (n int, more bool) {
	elapsed := max(now-p.start, 0)
	ended := p.duration > 0 && elapsed >= p.duration
	if ended {
		elapsed = p.duration
	}
	if p.perNano == 0 {
		if ended {
			return 0, false
		}
		return p.bounded(maxBurst)
	}
	total := uint64(float64(elapsed) * p.perNano)
	open := total - min(total, p.given)
	if most := max(maxBurst, uint64(math.Ceil(maxArrears*p.perNano))); open > most {
		p.miss(open - most)
		open = most
	}
	n, more = p.bounded(int(min(open, maxBurst)))
	return n, more && (!ended || uint64(n) < open)
}

// miss gives packets up that should have been sent by now. Where a number of
// packets is wanted they are sent later, as if all had begun later.
func (p *pace) miss(n uint64) {
	p.missed += n
	if p.limit == 0 {
		p.given += n
		return
	}
	p.start += int64(float64(n) / p.perNano)
}

// bounded applies the limit.
func (p *pace) bounded(n int) (int, bool) {
	if p.limit == 0 {
		return n, true
	}
	left := p.limit - p.given
	return int(min(uint64(n), left)), left > uint64(n)
}

// sent accounts for packets that due said.
func (p *pace) sent(n int) { p.given += uint64(n) }
