package rfc8219

import (
	"context"
	"errors"
	"fmt"

	"github.com/HdrHistogram/hdrhistogram-go"

	"handoff64/bench/trial"
)

// Latency is the result of RFC 8219 §7.2, in nanoseconds: from the moment a
// frame is handed over for sending to the moment it is seen (RFC 1242's
// latency of store and forward devices, seen from software).
type Latency struct {
	Rate    float64       `json:"rate"` // frames per second and direction
	Tags    int64         `json:"tags"` // stamped frames that arrived, of all repetitions
	Typical trial.Summary `json:"typical_ns"`
	Worst   trial.Summary `json:"worst_case_ns"`
	Loss    float64       `json:"loss"`        // the greatest of the repetitions
	Curve   []Percentile  `json:"percentiles"` // of all repetitions together
}

// Percentile is a point of a distribution of delays.
type Percentile struct {
	P  float64 `json:"p"`
	NS int64   `json:"ns"`
}

// curve lists what a plot of percentiles shows.
var curve = []float64{0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99, 100}

// MeasureLatency sends streams at the rate and takes the median and the 99.9th
// percentile of the tagged frames' delays.
func MeasureLatency(ctx context.Context, dev trial.Device, o Options, rate float64) (Latency, error) {
	s := o.Latency
	if err := s.check("latency"); err != nil {
		return Latency{}, err
	}
	if s.Tags < 1 {
		return Latency{}, fmt.Errorf("latency: %d frames to tag: at least one is needed", s.Tags)
	}
	p := trial.Plan{Rate: rate, Duration: s.Duration, Size: o.Size, Direction: o.Direction, Tags: s.Tags, TagAfter: s.TagAfter}
	l := Latency{Rate: rate}
	var typical, worst []float64
	all := trial.NewHistogram()
	err := repeat(ctx, dev, p, s.Repetitions, func(out trial.Outcome) {
		typical = append(typical, float64(out.Latency.ValueAtQuantile(50)))
		worst = append(worst, float64(out.Latency.ValueAtQuantile(99.9)))
		l.Loss = max(l.Loss, out.Loss())
		all.Merge(out.Latency)
	})
	if err != nil {
		return Latency{}, fmt.Errorf("latency: %w", err)
	}
	l.Typical, l.Worst = trial.Summarize(typical), trial.Summarize(worst)
	l.Tags, l.Curve = all.TotalCount(), percentiles(all)
	return l, nil
}

// PDV is the result of RFC 8219 §7.3.1, in nanoseconds.
type PDV struct {
	Rate float64       `json:"rate"`
	PDV  trial.Summary `json:"pdv_ns"`
	Min  trial.Summary `json:"min_ns"`
	Loss float64       `json:"loss"`
}

// MeasurePDV stamps every frame and takes the 99.9th percentile of the delays
// less the least of them.
func MeasurePDV(ctx context.Context, dev trial.Device, o Options, rate float64) (PDV, error) {
	s := o.PDV
	if err := s.check("PDV"); err != nil {
		return PDV{}, err
	}
	p := trial.Plan{Rate: rate, Duration: s.Duration, Size: o.Size, Direction: o.Direction, Tags: trial.AllFrames}
	result := PDV{Rate: rate}
	var pdv, least []float64
	err := repeat(ctx, dev, p, s.Repetitions, func(out trial.Outcome) {
		h := out.Latency
		pdv = append(pdv, float64(h.ValueAtQuantile(99.9)-h.Min()))
		least = append(least, float64(h.Min()))
		result.Loss = max(result.Loss, out.Loss())
	})
	if err != nil {
		return PDV{}, fmt.Errorf("PDV: %w", err)
	}
	result.PDV, result.Min = trial.Summarize(pdv), trial.Summarize(least)
	return result, nil
}

// errNoDelay is of a stream of which nothing with a stamp arrived.
var errNoDelay = errors.New("no stamped frame arrived")

func repeat(ctx context.Context, dev trial.Device, p trial.Plan, times int, hear func(trial.Outcome)) error {
	for i := range times {
		out, err := dev.Trial(ctx, p)
		if err == nil {
			err = ctx.Err() // a stream cut short has no result
		}
		if err == nil && (out.Latency == nil || out.Latency.TotalCount() == 0) {
			err = errNoDelay
		}
		if err != nil {
			return fmt.Errorf("stream %d of %d at %.0f frames/s: %w", i+1, times, p.Rate, err)
		}
		hear(out)
	}
	return nil
}

func percentiles(h *hdrhistogram.Histogram) []Percentile {
	points := make([]Percentile, len(curve))
	for i, p := range curve {
		points[i] = Percentile{P: p, NS: h.ValueAtQuantile(p)}
	}
	points[0].NS = h.Min()
	return points
}
