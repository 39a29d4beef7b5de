package rfc8219

import (
	"context"
	"fmt"

	"handoff64/bench/search"
	"handoff64/bench/trial"
)

// Throughput is the fastest rate at which no more than the acceptable share of
// frames is lost, in each direction (RFC 8219 §7.1, RFC 2544 §26.1).
func Throughput(ctx context.Context, dev trial.Device, o Options) (search.Found, error) {
	return search.Highest(ctx, o.Search, func(ctx context.Context, rate float64) (trial.Outcome, error) {
		return dev.Trial(ctx, trial.Plan{Rate: rate, Duration: o.Trial, Size: o.Size, Direction: o.Direction})
	})
}

// LossPoint is one row of a frame loss rate curve.
type LossPoint struct {
	Rate    float64 `json:"rate"`    // asked for
	Offered float64 `json:"offered"` // really sent
	Loss    float64 `json:"loss"`
}

// FrameLossRate offers the maximum rate and then a tenth of it less each time,
// until two trials in a row lose nothing (RFC 8219 §7.4, RFC 2544 §26.3).
func FrameLossRate(ctx context.Context, dev trial.Device, o Options) ([]LossPoint, error) {
	if err := o.checkRate(); err != nil {
		return nil, err
	}
	var points []LossPoint
	clean := 0
	for tenth := 10; tenth > 0 && clean < 2; tenth-- {
		rate := o.Search.High * float64(tenth) / 10
		out, err := dev.Trial(ctx, trial.Plan{Rate: rate, Duration: o.Trial, Size: o.Size, Direction: o.Direction})
		if err == nil {
			err = ctx.Err() // a trial cut short has no result
		}
		if err != nil {
			return points, fmt.Errorf("frame loss at %.0f frames/s: %w", rate, err)
		}
		p := LossPoint{Rate: rate, Offered: out.Offered(), Loss: out.Loss()}
		points = append(points, p)
		if clean++; p.Loss > 0 {
			clean = 0
		}
	}
	return points, nil
}

func (o Options) checkRate() error {
	if !(o.Search.High > 0) {
		return fmt.Errorf("highest rate %v: it must be above 0", o.Search.High)
	}
	return nil
}
