// Package search finds the highest rate that a device stands: the binary
// search of RFC 2544 §26.1 with a given acceptable loss.
package search

import (
	"context"
	"fmt"
	"math"

	"handoff64/bench/trial"
)

// Options bound a search. Rates are frames (or connections) per second.
type Options struct {
	Low, High float64 // where to look; High is tried first
	Error     float64 // the search ends when the interval is no wider …
	Relative  float64 // … or no wider than this share of its lower end
	Loss      float64 // share of frames that may be lost, 0 to 1; 0 is RFC 2544's
	// Verify repeats a trial that lost too much up to so many times, and counts
	// it as lost only if all of them did: the binary search with loss
	// verification of ETSI GS NFV-TST 009 §12.3.3, for machines where others
	// take the processor away for a moment. 0 is RFC 2544's.
	Verify int
	// Progress, if not nil, hears of each trial.
	Progress func(Step)
}

// Step is one trial of a search.
type Step struct {
	Rate    float64 `json:"rate"`    // asked for
	Offered float64 `json:"offered"` // really sent
	Loss    float64 `json:"loss"`
	Passed  bool    `json:"passed"`
}

// Found is the result of a search.
type Found struct {
	Rate  float64 `json:"rate"`  // the highest that passed; 0 if none did
	Error float64 `json:"error"` // the first that did not pass is at most this much higher
	// AtLeast is set when nothing failed: the limit is that of the search or of
	// the tester, not the device's.
	AtLeast bool   `json:"at_least,omitempty"`
	Steps   []Step `json:"steps"`
}

// shortfall is how far below the rate asked for a tester may stay before its
// own rate counts instead.
const shortfall = 0.02

// heldUpTries is how often a trial is repeated in which the tester was held up.
const heldUpTries = 3

// Highest runs trials at rates that it chooses. The trial says what came of the
// rate; a trial that passed at less than it was asked for shows the tester's
// limit, and ends the search. A tester that has sent as fast before was only
// held up: the trial says nothing, and is repeated.
func Highest(ctx context.Context, o Options, run func(ctx context.Context, rate float64) (trial.Outcome, error)) (Found, error) {
	if err := o.check(); err != nil {
		return Found{}, err
	}
	low, high := o.Low, o.High
	f := Found{AtLeast: true}
	fastest := 0.0 // of what the tester has sent at
	for rate := high; ; rate = (low + high) / 2 {
		step, heldUp, err := o.heard(ctx, rate, fastest, run)
		if err != nil {
			return f, err
		}
		fastest = math.Max(fastest, step.Offered)
		f.Steps = append(f.Steps, step)
		if o.Progress != nil {
			o.Progress(step)
		}
		short := step.short()
		if step.Passed {
			f.Rate = math.Max(f.Rate, math.Min(rate, step.Offered))
			reached := rate
			if heldUp {
				reached = math.Max(low, step.Offered)
			}
			gain := reached - low
			low = reached
			if short && !heldUp || rate == o.High || heldUp && gain <= math.Max(o.Error, o.Relative*low) {
				f.AtLeast, f.Error = true, high-low
				return f, nil
			}
		} else {
			f.AtLeast = false
			if high = rate; short && !heldUp {
				high = math.Max(step.Offered, low)
			}
		}
		if f.Error = high - low; f.Error <= math.Max(o.Error, o.Relative*low) {
			return f, nil
		}
	}
}

// short says whether the tester sent slower than it was asked to.
func (s Step) short() bool { return s.Offered < s.Rate*(1-shortfall) }

// heard is a trial in which the tester was not held up, if one of some is such.
func (o Options) heard(ctx context.Context, rate, fastest float64, run func(context.Context, float64) (trial.Outcome, error)) (s Step, heldUp bool, err error) {
	for range 1 + heldUpTries {
		if s, err = o.try(ctx, rate, run); err != nil {
			return s, false, err
		}
		if heldUp = s.short() && fastest >= rate*(1-shortfall); !heldUp {
			break
		}
	}
	return s, heldUp, nil
}

func (o Options) check() error {
	switch {
	case !(o.High > 0) || math.IsInf(o.High, 0):
		return fmt.Errorf("highest rate %v: it must be above 0", o.High)
	case !(o.Low >= 0 && o.Low < o.High):
		return fmt.Errorf("lowest rate %v: it must lie between 0 and the highest, %v", o.Low, o.High)
	case !(o.Error > 0):
		return fmt.Errorf("error of the search %v: it must be above 0", o.Error)
	case !(o.Loss >= 0 && o.Loss < 1):
		return fmt.Errorf("acceptable loss %v: it is a share from 0 to below 1", o.Loss)
	case !(o.Relative >= 0 && o.Relative < 1):
		return fmt.Errorf("relative error of the search %v: it is a share from 0 to below 1", o.Relative)
	case o.Verify < 0:
		return fmt.Errorf("verification %d: it must be 0 or more", o.Verify)
	}
	return nil
}

// try runs one rate, again if what was lost is to be verified.
func (o Options) try(ctx context.Context, rate float64, run func(context.Context, float64) (trial.Outcome, error)) (Step, error) {
	for left := o.Verify; ; left-- {
		if err := ctx.Err(); err != nil {
			return Step{}, err
		}
		out, err := run(ctx, rate)
		if err == nil {
			err = ctx.Err() // a trial cut short has no result
		}
		if err != nil {
			return Step{}, fmt.Errorf("trial at %.0f/s: %w", rate, err)
		}
		s := Step{Rate: rate, Offered: out.Offered(), Loss: out.Loss()}
		if sent, received := out.Total(); sent > 0 && received > 0 && s.Loss <= o.Loss {
			s.Passed = true
		}
		if s.Passed || left == 0 {
			return s, nil
		}
	}
}
