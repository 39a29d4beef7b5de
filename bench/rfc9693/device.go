// Package rfc9693 holds the procedures of RFC 9693 for stateful translators:
// maximum connection establishment rate with validation, connection tear-down
// rate, connection tracking table capacity, and the two phases by which RFC
// 8219's procedures become possible.
//
//	phase 1   initiator ──N frames, a connection each──► device ──► responder: notes the four tuple of each
//	phase 2   initiator ◄── device ◄──── responder: sends by the four tuples that it noted
package rfc9693

import (
	"context"
	"errors"
	"fmt"
	"time"

	"handoff64/bench/trial"
)

// Device is a stateful device with a tester at both its ends. Procedures call
// it from one goroutine.
type Device interface {
	// Trial is of phase 2: the initiator sends packets of connections that Fill
	// made, the responder by its state table, in pseudorandom order both.
	trial.Device

	// Fill is phase 1: the responder's state table is emptied; then the
	// initiator sends one frame for each of the connections, in pseudorandom
	// order, at rate frames/s; what the responder receives fills the table.
	Fill(ctx context.Context, connections int, rate float64) (trial.Outcome, error)

	// Validate has the responder send one frame for each entry of its state
	// table at rate frames/s (§4.6).
	Validate(ctx context.Context, rate float64) (trial.Outcome, error)

	// Empty deletes all entries of the device's connection tracking table
	// through whatever control the device has, and returns how long that took.
	Empty(ctx context.Context) (time.Duration, error)
}

// establish is one elementary step of §4.6: from an empty table, make the
// connections at the rate, then see whether each of them is there. What it
// returns counts a connection as received if both its frames arrived. When more
// than the acceptable loss are missing already, they are not validated.
func establish(ctx context.Context, dev Device, connections int, rate, alpha, loss float64) (trial.Outcome, error) {
	if _, err := dev.Empty(ctx); err != nil {
		return trial.Outcome{}, fmt.Errorf("empty the connection tracking table: %w", err)
	}
	out, err := dev.Fill(ctx, connections, rate)
	if err != nil {
		return out, fmt.Errorf("phase 1 with %d connections: %w", connections, err)
	}
	if out.Loss() > loss {
		return out, nil // validation could only find the same again
	}
	valid, err := dev.Validate(ctx, rate*alpha)
	if err != nil {
		return out, fmt.Errorf("validation of %d connections: %w", connections, err)
	}
	out.Received[trial.ToResponder] = min(out.Received[trial.ToResponder], valid.Received[trial.ToInitiator])
	return out, nil
}

// prepareTries is how often Prepare begins anew: a tester or device that was held
// up for a moment has lost something at any rate.
const prepareTries = 3

// Prepare is phase 1 before phase 2: an empty table is filled at a rate that is
// safely below the establishment rate (§4.2). It is an error if connections are
// lost each time.
func Prepare(ctx context.Context, dev Device, connections int, rate float64) (err error) {
	for range prepareTries {
		if err = prepare(ctx, dev, connections, rate); !errors.Is(err, errRate) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// errRate: something was lost.
var errRate = errors.New("choose a lower rate")

func prepare(ctx context.Context, dev Device, connections int, rate float64) error {
	if _, err := dev.Empty(ctx); err != nil {
		return fmt.Errorf("empty the connection tracking table: %w", err)
	}
	out, err := dev.Fill(ctx, connections, rate)
	if err != nil {
		return fmt.Errorf("phase 1 with %d connections: %w", connections, err)
	}
	if sent, received := out.Total(); received < sent || sent < uint64(connections) {
		return fmt.Errorf("phase 1: %d connections, %d frames sent at %.0f/s, %d arrived: %w", connections, sent, rate, received, errRate)
	}
	return nil
}
