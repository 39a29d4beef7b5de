package rfc9693

import (
	"context"
	"errors"
	"fmt"
	"math"

	"handoff64/bench/search"
)

// CapacityOptions are the parameters of §4.9.
type CapacityOptions struct {
	Safe    int     // C0: connections that the table surely holds
	Largest int     // where the exponential search ends; 0: nowhere
	Error   int     // E: of the capacity
	Alpha   float64 // of validation, see EstablishmentRate
	Beta    float64 // unacceptable drop of the rate during the exponential search, e.g. 0.1
	Gamma   float64 // the same during the binary search, e.g. 0.5

	MaxRate    float64 // where the first search for a rate begins
	RateErrors float64 // of the searches for a rate, as a share of what is found, e.g. 0.1
	Verify     int     // see search.Options
	// Progress, if not nil, hears of each number of connections that was tried.
	Progress func(CapacityStep)
}

// CapacityStep is one number of connections that was tried.
type CapacityStep struct {
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate"` // their establishment rate; 0 if the drop was found unacceptable first
	Fits        bool    `json:"fits"`
}

// Capacity is the result of §4.9.
type Capacity struct {
	Connections int            `json:"connections"` // the most that fit
	Error       int            `json:"error"`       // the least that did not is at most this many more
	AtLeast     bool           `json:"at_least,omitempty"`
	Rate        float64        `json:"rate"` // establishment rate of that many
	Steps       []CapacityStep `json:"steps"`
}

// errUnsafe is of a C0 that is not safe.
var errUnsafe = errors.New("not even the number of connections given as safe can be established")

// TableCapacity looks for the capacity of the device's table, first
// exponentially, then in halves (§4.9, figure 5). Each step is a search for an
// establishment rate that ends as soon as it is sure that the rate dropped
// unacceptably.
func TableCapacity(ctx context.Context, dev Device, o CapacityOptions) (Capacity, error) {
	if err := o.check(); err != nil {
		return Capacity{}, err
	}
	s := capacitySearch{ctx: ctx, dev: dev, o: o}
	safe, rate, err := o.Safe, 0.0, error(nil)
	if rate, err = s.rate(safe, o.MaxRate, 0); err != nil {
		return Capacity{}, err
	}
	if rate == 0 {
		return Capacity{Steps: s.steps}, fmt.Errorf("%w: %d", errUnsafe, safe)
	}
	tooMany := 0
	for tooMany == 0 {
		next := 2 * safe
		if o.Largest > 0 {
			next = min(next, o.Largest)
		}
		if next == safe {
			return Capacity{Connections: safe, AtLeast: true, Rate: rate, Steps: s.steps}, nil
		}
		r, err := s.rate(next, rate, o.Beta)
		if err != nil {
			return Capacity{}, err
		}
		if r == 0 {
			tooMany = next
		} else {
			safe, rate = next, r
		}
	}
	for tooMany-safe > o.Error {
		half := safe + (tooMany-safe)/2
		r, err := s.rate(half, rate, o.Gamma)
		if err != nil {
			return Capacity{}, err
		}
		if r == 0 {
			tooMany = half
		} else {
			safe, rate = half, r
		}
	}
	return Capacity{Connections: safe, Error: tooMany - safe, Rate: rate, Steps: s.steps}, nil
}

func (o CapacityOptions) check() error {
	switch {
	case o.Safe < 1:
		return fmt.Errorf("safe number of connections %d: at least one is needed", o.Safe)
	case o.Largest != 0 && o.Largest < o.Safe:
		return fmt.Errorf("largest number of connections %d: it is below the safe one, %d", o.Largest, o.Safe)
	case o.Error < 1:
		return fmt.Errorf("error of the capacity %d: it must be 1 or more", o.Error)
	case !(o.Alpha > 0):
		return fmt.Errorf("validation at %v times the rate: it must be above 0", o.Alpha)
	case !(o.Beta > 0 && o.Beta < 1) || !(o.Gamma > 0 && o.Gamma < 1):
		return fmt.Errorf("unacceptable drops %v and %v: they lie between 0 and 1", o.Beta, o.Gamma)
	case !(o.RateErrors > 0 && o.RateErrors < 1):
		return fmt.Errorf("error of the rates %v: it lies between 0 and 1", o.RateErrors)
	case !(o.MaxRate > 0) || math.IsInf(o.MaxRate, 0):
		return fmt.Errorf("highest rate %v: it must be above 0", o.MaxRate)
	}
	return nil
}

// capacitySearch keeps what was tried.
type capacitySearch struct {
	ctx   context.Context
	dev   Device
	o     CapacityOptions
	steps []CapacityStep
}

// rate is the establishment rate of so many connections, looked for between
// drop·from and from; 0 if it lies below.
func (s *capacitySearch) rate(connections int, from, drop float64) (float64, error) {
	f, err := EstablishmentRate(s.ctx, s.dev, connections, s.o.Alpha, search.Options{
		Low: from * drop, High: from, Error: 1, Relative: s.o.RateErrors, Verify: s.o.Verify,
	})
	if err != nil {
		return 0, fmt.Errorf("%d connections: %w", connections, err)
	}
	step := CapacityStep{Connections: connections, Rate: f.Rate, Fits: f.Rate > 0}
	s.steps = append(s.steps, step)
	if s.o.Progress != nil {
		s.o.Progress(step)
	}
	return f.Rate, nil
}
