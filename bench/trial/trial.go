// Package trial says what a benchmarking procedure asks of a device under test
// and what it gets to know: frames sent, frames received, delays. Procedures
// (bench/rfc8219, bench/rfc9693) are written against it, so that they run over
// real interfaces, over a whole worker in memory, and against simulated devices
// whose limits are known.
//
//	initiator ──6──► device ──4──► responder
//	          ◄──6──        ◄──4──
//
// The names are RFC 9693 §3.1's.
package trial

import (
	"context"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Direction says who sends.
type Direction uint8

const (
	ToResponder Direction = iota // the initiator: from IPv6 to IPv4
	ToInitiator                  // the responder: from IPv4 to IPv6
	Both                         // each at the rate of the plan
)

func (d Direction) String() string {
	switch d {
	case ToResponder:
		return "6to4"
	case ToInitiator:
		return "4to6"
	case Both:
		return "both"
	}
	return fmt.Sprintf("direction %d", uint8(d))
}

// ParseDirection reads what String writes.
func ParseDirection(s string) (Direction, error) {
	for d := ToResponder; d <= Both; d++ {
		if s == d.String() {
			return d, nil
		}
	}
	return 0, fmt.Errorf("direction %q: choose 6to4, 4to6 or both", s)
}

// Senders are the directions that frames go in.
func (d Direction) Senders() []Direction {
	if d == Both {
		return []Direction{ToResponder, ToInitiator}
	}
	return []Direction{d}
}

// AllFrames as a plan's Tags stamps every frame of the stream.
const AllFrames = -1

// Plan is one stream of frames: RFC 2544's trial.
type Plan struct {
	Rate      float64       // frames per second, in each direction that has a sender
	Duration  time.Duration // of sending
	Size      int           // octets of a frame on the IPv6 side, Ethernet header included, check sequence not; 20 less on the other
	Direction Direction

	// Frames to stamp for their delay: so many, spread evenly over what is left
	// of the stream after TagAfter.
	Tags     int
	TagAfter time.Duration
}

// Outcome is what came of a stream. Counts are indexed by direction.
type Outcome struct {
	Sent, Received [2]uint64
	Elapsed        time.Duration           // of sending
	Latency        *hdrhistogram.Histogram // delays of stamped frames in nanoseconds; nil if none was stamped
}

// Loss is the greater share of lost frames of the two directions, 0 to 1. More
// frames received than sent is no loss.
func (o Outcome) Loss() (worst float64) {
	for d := range o.Sent {
		if o.Sent[d] > o.Received[d] {
			worst = max(worst, float64(o.Sent[d]-o.Received[d])/float64(o.Sent[d]))
		}
	}
	return worst
}

// Total adds up both directions.
func (o Outcome) Total() (sent, received uint64) {
	return o.Sent[0] + o.Sent[1], o.Received[0] + o.Received[1]
}

// Offered is the rate at which frames were really sent, frames per second, in
// the slower of the directions that were used.
func (o Outcome) Offered() float64 {
	if o.Elapsed <= 0 {
		return 0
	}
	slowest := max(o.Sent[0], o.Sent[1])
	for _, n := range o.Sent {
		if n > 0 {
			slowest = min(slowest, n)
		}
	}
	return float64(slowest) / o.Elapsed.Seconds()
}

// Device is a device under test with a tester at both its ends. Procedures
// call it from one goroutine.
type Device interface {
	// Trial sends the stream, waits for what is still under way, and counts. An
	// error is the tester's: a device that drops everything makes none.
	Trial(ctx context.Context, p Plan) (Outcome, error)
}

// NewHistogram holds delays from a nanosecond to ten seconds with three
// significant digits.
func NewHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 10_000_000_000, 3) }
