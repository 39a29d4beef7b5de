package search

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"handoff64/bench/trial"
)

// limited is a device that loses what exceeds its limit, behind a tester that
// can send no faster than top.
func limited(limit, top float64) func(context.Context, float64) (trial.Outcome, error) {
	return func(_ context.Context, rate float64) (trial.Outcome, error) {
		rate = min(rate, top)
		out := trial.Outcome{Elapsed: time.Second}
		out.Sent[0] = uint64(rate)
		out.Received[0] = uint64(min(rate, limit))
		return out, nil
	}
}

func TestHighest(t *testing.T) {
	const huge = math.MaxFloat64
	for _, c := range []struct {
		name       string
		o          Options
		limit, top float64
		want       float64
		atLeast    bool
	}{
		{"within", Options{High: 1e7, Error: 1000}, 1_234_567, huge, 1_234_567, false},
		{"near the top", Options{High: 1e7, Error: 1000}, 9_999_000, huge, 9_999_000, false},
		{"loss is acceptable", Options{High: 1e7, Error: 1000, Loss: 0.01}, 990_000, huge, 1_000_000, false},
		{"limit of the search", Options{High: 1e6, Error: 10}, 2e6, huge, 1e6, true},
		{"limit of the tester", Options{High: 1e7, Error: 10}, 2e6, 500_000, 500_000, true},
		{"tester faster than the device, not as fast as asked", Options{High: 1e7, Error: 10}, 400_000, 500_000, 400_000, false},
		{"nothing passes", Options{Low: 1e6, High: 1e7, Error: 1000}, 100, huge, 0, false},
		{"to a thousandth", Options{High: 1e7, Error: 1, Relative: 0.001}, 1_234_567, huge, 1_234_567, false},
		{"coarse", Options{High: 1e7, Error: 1e6}, 1_234_567, huge, 1_234_567, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Highest(context.Background(), c.o, limited(c.limit, c.top))
			if err != nil {
				t.Fatal(err)
			}
			allowed := max(c.o.Error, c.want*c.o.Relative)
			if f.Rate > c.want+1 || f.Rate < c.want-allowed-1 || f.AtLeast != c.atLeast {
				t.Errorf("found %.0f (at least: %v), want %.0f (%v) within %.0f; %d steps", f.Rate, f.AtLeast, c.want, c.atLeast, allowed, len(f.Steps))
			}
			if f.Rate > 0 && !f.AtLeast && f.Error > allowed {
				t.Errorf("states an error of %.0f, allowed are %.0f", f.Error, allowed)
			}
			if n := len(f.Steps); n > 2+int(math.Log2((c.o.High-c.o.Low)/allowed)) {
				t.Errorf("%d trials", n)
			}
		})
	}
}

// A device that drops everything passes at no rate, whatever loss is accepted.
func TestNothingArrives(t *testing.T) {
	f, err := Highest(context.Background(), Options{High: 1000, Error: 1, Loss: 0.999}, limited(0, 1e9))
	if err != nil || f.Rate != 0 || f.AtLeast {
		t.Errorf("found %+v, %v", f, err)
	}
}

func TestVerifyRepeatsWhatWasLost(t *testing.T) {
	device := limited(1000, 1e9)
	calls := 0
	// Every second trial loses a frame that the device does not lose.
	flaky := func(ctx context.Context, rate float64) (trial.Outcome, error) {
		out, err := device(ctx, rate)
		if calls++; calls%2 == 1 {
			out.Received[0]--
		}
		return out, err
	}
	f, err := Highest(context.Background(), Options{High: 4096, Error: 1, Verify: 1}, flaky)
	if err != nil || math.Abs(f.Rate-1000) > 1 {
		t.Errorf("with verification %.0f, want 1000; %v", f.Rate, err)
	}
	if f, err = Highest(context.Background(), Options{High: 4096, Error: 1}, flaky); err != nil || f.Rate > 999 {
		t.Errorf("without verification %.0f: the lost frames must count; %v", f.Rate, err)
	}
}

func TestRefusesBadOptions(t *testing.T) {
	for _, o := range []Options{
		{}, {High: 1}, {High: math.NaN(), Error: 1}, {High: 1, Low: 2, Error: 1}, {High: 1, Error: 1, Loss: 1}, {High: 1, Error: 1, Loss: -0.1},
		{High: 1, Error: 1, Verify: -1}, {High: math.Inf(1), Error: 1}, {High: 1, Error: 1, Relative: 1},
	} {
		if _, err := Highest(context.Background(), o, limited(1, 1)); err == nil {
			t.Errorf("accepts %+v", o)
		}
	}
}

func TestErrorsAndCancellation(t *testing.T) {
	broken := errors.New("no such interface")
	_, err := Highest(context.Background(), Options{High: 10, Error: 1}, func(context.Context, float64) (trial.Outcome, error) {
		return trial.Outcome{}, broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("the tester's error is %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Highest(ctx, Options{High: 10, Error: 1}, limited(1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled search ends with %v", err)
	}
}

// A tester that was held up in one trial has no limit there: neither what
// passed nor what was lost then ends the search.
func TestHeldUp(t *testing.T) {
	for name, lost := range map[string]uint64{"and passed": 0, "and lost": 5000} {
		for at := 2; at <= 6; at++ {
			device, calls := limited(700_000, 1e9), 0
			f, err := Highest(context.Background(), Options{High: 1e6, Error: 1, Relative: 0.01}, func(ctx context.Context, rate float64) (trial.Outcome, error) {
				if calls++; calls == at {
					out, err := device(ctx, rate*0.6)
					out.Received[0] -= lost
					return out, err
				}
				return device(ctx, rate)
			})
			if err != nil || f.AtLeast || math.Abs(f.Rate-700_000) > 7001 || f.Error <= 0 {
				t.Errorf("held up in trial %d %s: %+v, %v", at, name, f, err)
			}
		}
	}
}

// One that is always held up finds what it can, and says no more than that.
func TestAlwaysHeldUp(t *testing.T) {
	device, calls := limited(700_000, 1e9), 0
	f, err := Highest(context.Background(), Options{High: 1e6, Error: 1, Relative: 0.01}, func(ctx context.Context, rate float64) (trial.Outcome, error) {
		if calls++; calls > 1 {
			rate *= 0.9
		}
		return device(ctx, rate)
	})
	if err != nil || f.Rate > 700_000 || f.Rate < 650_000 || f.Rate+f.Error < 700_000 || len(f.Steps) > 10 {
		t.Errorf("%+v after %d trials, %v", f, calls, err)
	}
}

// A trial that was interrupted passes nothing.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	f, err := Highest(ctx, Options{High: 1e6, Error: 1}, func(ctx context.Context, rate float64) (trial.Outcome, error) {
		cancel()
		return limited(1e9, 1e9)(ctx, rate)
	})
	if !errors.Is(err, context.Canceled) || f.Rate != 0 || len(f.Steps) != 0 {
		t.Errorf("%+v, %v", f, err)
	}
}
