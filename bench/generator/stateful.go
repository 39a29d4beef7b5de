package generator

import (
	"context"
	"fmt"
	"time"

	"handoff64/bench/trial"
)

// Stateful is a Tester around a device whose connection tracking table can be
// emptied: an rfc9693.Device. It is used by one goroutine.
type Stateful struct {
	*Tester
	// Delete removes all entries of the device's table, and returns when they
	// are gone.
	Delete func(context.Context) error
}

// Empty implements rfc9693.Device.
func (s *Stateful) Empty(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	if err := s.Delete(ctx); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	s.table = nil
	return took, nil
}

// Packets that are sent to warm the device up: few, and slowly.
const (
	warmFlows = 64
	warmRate  = 1000
)

// Warm sends some packets in both directions, so that the first trial does not
// pay for neighbours that have to be resolved. It is an error if they do not
// get through within some tries.
func (t *Tester) Warm(ctx context.Context) error {
	flows := int(min(warmFlows, t.product.Len()))
	var there, back trial.Outcome
	begin := time.Now()
	for pass := 0; again(ctx, pass, begin); pass++ {
		var err error
		if there, err = t.Fill(ctx, flows, warmRate); err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		if back = (trial.Outcome{}); len(t.table) > 0 {
			if back, err = t.Validate(ctx, warmRate); err != nil {
				return fmt.Errorf("warming up: %w", err)
			}
		}
		if there.Received[trial.ToResponder] >= uint64(flows) && back.Received[trial.ToInitiator] >= uint64(flows) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	return fmt.Errorf("warming up: of %d packets %d came to the far side and %d back: is the device up, do its routes lead to both sides?",
		flows, there.Received[trial.ToResponder], back.Received[trial.ToInitiator])
}
