package generator

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// lesson is the flows as the far side sees them. Each packet of a lesson is of
// another flow, so that lanes never write to the same one.
type lesson struct {
	shares []share // by sender
	table  traffic.Table
	known  []bool
	ipv6   atomic.Bool // the family on the far side
}

func newLesson(flows uint64) *lesson {
	return &lesson{table: make(traffic.Table, flows), known: make([]bool, flows)}
}

func (l *lesson) note(lane int, sequence uint64, p *traffic.Packet) {
	flow := l.shares[lane].flow(sequence)
	l.table[flow] = p.Reverse(p.Protocol)
	l.known[flow] = true
	if p.IPv6 != l.ipv6.Load() {
		l.ipv6.Store(p.IPv6)
	}
}

// missing lists the flows that are not known.
func (l *lesson) missing() (flows []uint64) {
	for flow, known := range l.known {
		if !known {
			flows = append(flows, uint64(flow))
		}
	}
	return flows
}

// remember makes the responder know what was learned, and nothing else.
func (t *Tester) remember(l *lesson) {
	t.responder6 = l.ipv6.Load()
	table := l.table[:0]
	for flow, known := range l.known {
		if known {
			table = append(table, l.table[flow])
		}
	}
	t.table = table
}

// Fill is phase 1 of RFC 9693: the responder forgets what it knows; then the
// initiator sends one frame for each of the first connections flows, in
// pseudorandom order, at rate frames/s. What arrives is what the responder
// answers from now on.
func (t *Tester) Fill(ctx context.Context, connections int, rate float64) (trial.Outcome, error) {
	if connections < 1 || uint64(connections) > t.product.Len() {
		return trial.Outcome{}, fmt.Errorf("generator: %d connections: there are 1 to %d flows", connections, t.product.Len())
	}
	t.connections, t.table = uint64(connections), nil
	l := newLesson(t.connections)
	r, err := t.Run(ctx, Run{Rate: rate, Packets: t.connections, Protocol: t.cfg.Flows.Protocol.Opening(), lesson: l})
	if err != nil {
		return trial.Outcome{}, err
	}
	t.remember(l)
	return r.Outcome(), nil
}

// The first packets through a device that has just come up, or has to resolve
// its neighbours, are lost: Learn and Warm try so often, and so long at least.
const (
	learnPasses = 5
	learnTime   = 10 * time.Second
)

// again says whether to try once more.
func again(ctx context.Context, pass int, begin time.Time) bool {
	return ctx.Err() == nil && (pass < learnPasses || time.Since(begin) < learnTime)
}

// Learn is Fill with all flows and patience: what did not arrive is sent again,
// some times. It returns how many flows did not get through. Of TCP, the far
// side then opens the connections.
func (t *Tester) Learn(ctx context.Context, rate float64) (missing int, err error) {
	t.connections, t.table = t.product.Len(), nil
	l := newLesson(t.connections)
	todo, begin := l.missing(), time.Now()
	for pass := 0; len(todo) > 0 && again(ctx, pass, begin); pass++ {
		run := Run{Rate: rate, Packets: uint64(len(todo)), Protocol: t.cfg.Flows.Protocol.Opening(), lesson: l}
		if pass > 0 {
			run.only = todo
		}
		if _, err := t.Run(ctx, run); err != nil {
			return len(todo), err
		}
		todo = l.missing()
	}
	t.remember(l)
	if len(todo) > 0 || ctx.Err() != nil || t.cfg.Flows.Protocol != traffic.TCP {
		return len(todo), nil
	}
	out, err := t.Validate(ctx, rate)
	return int(t.connections - min(t.connections, out.Received[trial.ToInitiator])), err
}
