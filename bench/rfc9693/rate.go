package rfc9693

import (
	"context"
	"fmt"
	"time"

	"handoff64/bench/search"
	"handoff64/bench/trial"
)

// DefaultAlpha is the rate of validation as a share of the rate of
// establishment (§4.6).
const DefaultAlpha = 0.5

// EstablishmentRate is the maximum connection establishment rate: the fastest
// at which so many connections, each tried with a frame of its own from an
// empty table, all exist afterwards (§4.5, §4.6). The options' Loss is the
// share of connections that may be missing; the RFC's is 0.
func EstablishmentRate(ctx context.Context, dev Device, connections int, alpha float64, o search.Options) (search.Found, error) {
	if connections < 1 {
		return search.Found{}, fmt.Errorf("%d connections: at least one is needed", connections)
	}
	if !(alpha > 0) {
		return search.Found{}, fmt.Errorf("validation at %v times the rate: it must be above 0", alpha)
	}
	return search.Highest(ctx, o, func(ctx context.Context, rate float64) (trial.Outcome, error) {
		return establish(ctx, dev, connections, rate, alpha, o.Loss)
	})
}

// TearDown is the result of §4.8.
type TearDown struct {
	Connections int           `json:"connections"`
	Rate        trial.Summary `json:"rate"` // connections deleted per second
}

// TearDownRate loads the connections at a safe rate and has all of them
// deleted at once, as many times as asked.
func TearDownRate(ctx context.Context, dev Device, connections int, rate float64, repetitions int) (TearDown, error) {
	if connections < 1 || repetitions < 1 {
		return TearDown{}, fmt.Errorf("tear-down of %d connections, %d times: at least one of each is needed", connections, repetitions)
	}
	var rates []float64
	for range repetitions {
		if err := Prepare(ctx, dev, connections, rate); err != nil {
			return TearDown{}, err
		}
		took, err := dev.Empty(ctx)
		if err != nil {
			return TearDown{}, fmt.Errorf("delete %d connections: %w", connections, err)
		}
		rates = append(rates, float64(connections)/max(took, time.Nanosecond).Seconds())
	}
	return TearDown{Connections: connections, Rate: trial.Summarize(rates)}, nil
}
