// Package trialtest is a simulated stateful gateway whose limits are known, for
// tests of procedures that are to find them. No time passes in it.
package trialtest

import (
	"context"
	"time"

	"handoff64/bench/trial"
)

// Policy is what a gateway does with a new connection when its table is full:
// the three of RFC 9693 §4.9.
type Policy uint8

const (
	Refuse         Policy = iota // drops its packet
	ForwardAnyway                // forwards it, and does not know the answer
	ReplaceOldest                // the least recently made connection goes
	CollectGarbage               // GarbageSize of them go
)

// GarbageSize is how many connections CollectGarbage deletes at once.
const GarbageSize = 100

// Gateway is a device whose limits are its fields. Frames above a rate limit
// are lost, evenly. It is its own tester and implements rfc9693.Device. Owned
// by one goroutine.
type Gateway struct {
	Limit       float64       // frames/s in both directions together that it forwards
	Establishes float64       // new connections/s
	Capacity    int           // of its table
	Policy      Policy        //
	Deletes     float64       // connections/s while it empties its table
	Delay       time.Duration // of each frame …
	Spike       time.Duration // … and of every thousandth
	OfferLimit  float64       // frames/s that the tester can send; 0: any
	Hiccups     int           // so many trials more lose a frame for no reason

	first, next int // connections in the table: [first, next)
	noted       int // entries of the responder's state table

	Trials   []trial.Plan // all that was asked for
	FillRate []float64
}

// Trial implements trial.Device.
func (g *Gateway) Trial(_ context.Context, p trial.Plan) (trial.Outcome, error) {
	g.Trials = append(g.Trials, p)
	out := trial.Outcome{Elapsed: p.Duration}
	rate := g.offered(p.Rate)
	senders := p.Direction.Senders()
	share := min(1, g.Limit/(rate*float64(len(senders))))
	for _, d := range senders {
		out.Sent[d] = uint64(rate * p.Duration.Seconds())
		out.Received[d] = uint64(float64(out.Sent[d]) * share)
	}
	if g.Hiccups > 0 && out.Received[senders[0]] > 0 {
		g.Hiccups--
		out.Received[senders[0]]--
	}
	if p.Tags == 0 {
		return out, nil
	}
	stamped := int64(p.Tags)
	if p.Tags == trial.AllFrames {
		sent, _ := out.Total()
		stamped = int64(sent)
	}
	out.Latency = trial.NewHistogram()
	for i := range stamped {
		delay := g.Delay
		if i%1000 == 999 {
			delay = g.Spike
		}
		_ = out.Latency.RecordValue(delay.Nanoseconds())
	}
	return out, nil
}

func (g *Gateway) offered(rate float64) float64 {
	if g.OfferLimit > 0 {
		return min(rate, g.OfferLimit)
	}
	return rate
}

// Fill implements rfc9693.Device.
func (g *Gateway) Fill(_ context.Context, connections int, rate float64) (trial.Outcome, error) {
	g.FillRate = append(g.FillRate, rate)
	rate = g.offered(rate)
	made := int(float64(connections) * min(1, g.Establishes/rate))
	g.noted = 0
	for range made {
		full := g.next-g.first >= g.Capacity
		if full && g.Policy == Refuse {
			break
		}
		g.noted++
		switch {
		case full && g.Policy == ForwardAnyway:
		case full && g.Policy == ReplaceOldest:
			g.first, g.next = g.first+1, g.next+1
		case full && g.Policy == CollectGarbage:
			g.first, g.next = g.first+GarbageSize, g.next+1
		default:
			g.next++
		}
	}
	return counted(trial.ToResponder, connections, g.noted, rate), nil
}

// Validate implements rfc9693.Device.
func (g *Gateway) Validate(_ context.Context, rate float64) (trial.Outcome, error) {
	known := min(g.next-g.first, g.noted)
	return counted(trial.ToInitiator, g.noted, known, rate), nil
}

// Empty implements rfc9693.Device.
func (g *Gateway) Empty(context.Context) (time.Duration, error) {
	n := g.next - g.first
	g.first, g.next = 0, 0
	if g.Deletes == 0 {
		return 0, nil
	}
	return time.Duration(float64(n) / g.Deletes * float64(time.Second)), nil
}

func counted(d trial.Direction, sent, received int, rate float64) trial.Outcome {
	out := trial.Outcome{Elapsed: time.Duration(float64(sent) / rate * float64(time.Second))}
	out.Sent[d], out.Received[d] = uint64(sent), uint64(received)
	return out
}
