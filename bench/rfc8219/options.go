// Package rfc8219 holds the procedures of RFC 8219 §7 for a translator:
// throughput, latency, packet delay variation and frame loss rate.
//
// The RFC's durations (streams of 60 and 120 s, repeated twenty times) are what
// Default has. Whoever shortens them has to say so beside the result; the
// results here carry what was used.
package rfc8219

import (
	"fmt"
	"time"

	"handoff64/bench/search"
	"handoff64/bench/trial"
)

// Options are of all procedures of one device and frame size.
type Options struct {
	Size      int             // octets of an IPv6-side frame, see trial.Plan
	Direction trial.Direction // RFC 8219 §5.3 has both
	Search    search.Options  // bounds of throughput
	Trial     time.Duration   // of one trial of throughput and frame loss
	Latency   Stream
	PDV       Stream
}

// Stream is a stream whose delays are looked at.
type Stream struct {
	Duration    time.Duration
	TagAfter    time.Duration // latency only
	Tags        int           // latency only
	Repetitions int
}

// Default are the RFC's own numbers.
func Default(size int, maxRate float64) Options {
	return Options{
		Size: size, Direction: trial.Both, Trial: time.Minute,
		Search:  search.Options{High: maxRate, Error: maxRate / 1000},
		Latency: Stream{Duration: 2 * time.Minute, TagAfter: time.Minute, Tags: 500, Repetitions: 20},
		PDV:     Stream{Duration: time.Minute, Repetitions: 20},
	}
}

func (s Stream) check(what string) error {
	switch {
	case s.Duration <= 0:
		return fmt.Errorf("%s: duration %v of a stream: it must be above 0", what, s.Duration)
	case s.TagAfter < 0 || s.TagAfter >= s.Duration:
		return fmt.Errorf("%s: frames tagged after %v of %v: the stream is over by then", what, s.TagAfter, s.Duration)
	case s.Repetitions < 1:
		return fmt.Errorf("%s: %d repetitions: at least one is needed", what, s.Repetitions)
	}
	return nil
}
