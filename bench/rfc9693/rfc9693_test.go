package rfc9693

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"handoff64/bench/search"
	"handoff64/bench/trial"
	"handoff64/bench/trial/trialtest"
)

var policies = map[string]trialtest.Policy{
	"refuse": trialtest.Refuse, "forward anyway": trialtest.ForwardAnyway, "replace oldest": trialtest.ReplaceOldest, "collect garbage": trialtest.CollectGarbage,
}

func TestEstablishmentRate(t *testing.T) {
	g := &trialtest.Gateway{Establishes: 123_456, Capacity: 20_000}
	f, err := EstablishmentRate(context.Background(), g, 10_000, DefaultAlpha, search.Options{High: 1e6, Error: 100})
	if err != nil || math.Abs(f.Rate-123_456) > 100 {
		t.Errorf("found %.0f, want 123456 within 100; %v", f.Rate, err)
	}
}

// A gateway that forwards the packets of connections that it does not remember
// passes phase 1 at any rate; validation finds it out.
func TestValidationFindsMissingConnections(t *testing.T) {
	for name, policy := range policies {
		g := &trialtest.Gateway{Establishes: 1e9, Capacity: 9_999, Policy: policy}
		f, err := EstablishmentRate(context.Background(), g, 10_000, DefaultAlpha, search.Options{High: 1e6, Error: 1000})
		if err != nil || f.Rate != 0 {
			t.Errorf("%s: %.0f connections/s although one is always missing; %v", name, f.Rate, err)
		}
	}
}

// A loss that is accepted does not spare the connections validation.
func TestAcceptedLossIsValidated(t *testing.T) {
	g := &lossy{trialtest.Gateway{Establishes: 1e9, Capacity: 5000, Policy: trialtest.ForwardAnyway}}
	f, err := EstablishmentRate(context.Background(), g, 10_000, DefaultAlpha, search.Options{High: 1e6, Error: 1000, Loss: 0.01})
	if err != nil || f.Rate != 0 {
		t.Errorf("%.0f connections/s although half of them are missing; %v", f.Rate, err)
	}
}

// lossy loses one packet of phase 1.
type lossy struct{ trialtest.Gateway }

func (l *lossy) Fill(ctx context.Context, n int, rate float64) (trial.Outcome, error) {
	out, err := l.Gateway.Fill(ctx, n, rate)
	out.Received[trial.ToResponder]--
	return out, err
}

func TestTableCapacity(t *testing.T) {
	for name, policy := range policies {
		for _, capacity := range []int{1000, 1023, 4096, 54_321} {
			g := &trialtest.Gateway{Establishes: 50_000, Capacity: capacity, Policy: policy}
			c, err := TableCapacity(context.Background(), g, CapacityOptions{
				Safe: 1000, Error: 10, Alpha: DefaultAlpha, Beta: 0.1, Gamma: 0.5, MaxRate: 1e6, RateErrors: 0.1,
			})
			if err != nil {
				t.Fatalf("%s, %d: %v", name, capacity, err)
			}
			if c.Connections > capacity || c.Connections+c.Error <= capacity || c.Error > 10 || c.AtLeast {
				t.Errorf("%s: found %d+%d, want %d", name, c.Connections, c.Error, capacity)
			}
		}
	}
}

func TestTableCapacityLimits(t *testing.T) {
	o := CapacityOptions{Safe: 1000, Largest: 8000, Error: 10, Alpha: 0.5, Beta: 0.1, Gamma: 0.5, MaxRate: 1e6, RateErrors: 0.1}
	c, err := TableCapacity(context.Background(), &trialtest.Gateway{Establishes: 50_000, Capacity: 1_000_000}, o)
	if err != nil || c.Connections != 8000 || !c.AtLeast {
		t.Errorf("with no more than 8000 connections to try: %+v, %v", c, err)
	}
	_, err = TableCapacity(context.Background(), &trialtest.Gateway{Establishes: 50_000, Capacity: 999}, o)
	if !errors.Is(err, errUnsafe) {
		t.Errorf("with a safe number that is none: %v", err)
	}
}

func TestTearDownRate(t *testing.T) {
	g := &trialtest.Gateway{Establishes: 1e6, Capacity: 1e6, Deletes: 250_000}
	d, err := TearDownRate(context.Background(), g, 10_000, 100_000, 3)
	if err != nil || math.Abs(d.Rate.Median-250_000) > 1 || d.Rate.Repetitions != 3 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := TearDownRate(context.Background(), g, 10_000, 2e6, 1); err == nil {
		t.Error("connections that were never made were torn down")
	}
}

func TestPrepareEmptiesFirst(t *testing.T) {
	g := &trialtest.Gateway{Establishes: 1e6, Capacity: 1000}
	for range 3 {
		if err := Prepare(context.Background(), g, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if err := Prepare(context.Background(), g, 1001, 1000); err == nil {
		t.Error("a thousand and one connections in a table of a thousand")
	}
}

// The tester's failures are not the device's.
func TestTesterFails(t *testing.T) {
	broken := errors.New("the link is down")
	for at := range 3 {
		dev := &failing{Gateway: trialtest.Gateway{Establishes: 1e9, Capacity: 100}, at: at, with: broken}
		_, err := EstablishmentRate(context.Background(), dev, 10, 0.5, search.Options{High: 10, Error: 1})
		if !errors.Is(err, broken) {
			t.Errorf("failure %d: %v", at, err)
		}
	}
}

type failing struct {
	trialtest.Gateway
	at   int
	with error
}

func (f *failing) Fill(ctx context.Context, n int, rate float64) (trial.Outcome, error) {
	out, err := f.Gateway.Fill(ctx, n, rate)
	if f.at == 1 {
		err = f.with
	}
	return out, err
}

func (f *failing) Validate(ctx context.Context, rate float64) (trial.Outcome, error) {
	out, err := f.Gateway.Validate(ctx, rate)
	if f.at == 2 {
		err = f.with
	}
	return out, err
}

func (f *failing) Empty(ctx context.Context) (d time.Duration, err error) {
	d, err = f.Gateway.Empty(ctx)
	if f.at == 0 {
		err = f.with
	}
	return d, err
}

func TestRefusesBadOptions(t *testing.T) {
	g := &trialtest.Gateway{Establishes: 1, Capacity: 1}
	ok := search.Options{High: 10, Error: 1}
	if _, err := EstablishmentRate(context.Background(), g, 0, 0.5, ok); err == nil {
		t.Error("no connections")
	}
	if _, err := EstablishmentRate(context.Background(), g, 1, 0, ok); err == nil {
		t.Error("no validation")
	}
	if _, err := TearDownRate(context.Background(), g, 1, 1, 0); err == nil {
		t.Error("no repetition")
	}
	if _, err := TableCapacity(context.Background(), g, CapacityOptions{}); err == nil {
		t.Error("nothing given")
	}
}
