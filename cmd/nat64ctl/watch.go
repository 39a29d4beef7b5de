package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"handoff64/cmd/nat64d/control"
)

// headEvery is after how many lines the heads are repeated.
const headEvery = 20

// watch prints a line each second with what happened in it.
func (p *program) watch(ctx context.Context) error {
	before, err := p.askStats(ctx)
	if err != nil {
		return err
	}
	at := p.now()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-p.second:
		}
		s, err := p.askStats(ctx)
		if err != nil {
			return err
		}
		t := p.now()
		if p.json {
			err = p.printJSON(s)
		} else {
			err = p.watchLine(n, &before, &s, t.Sub(at))
		}
		if err = errors.Join(err, p.out.Flush()); err != nil {
			return fmt.Errorf("writing the output: %w", err)
		}
		before, at = s, t
	}
}

// watchColumn is a column of `stats --watch`: what grew, and how it is shown.
type watchColumn struct {
	head  string
	value func(*control.Stats) uint64
	show  func(uint64) string
}

func watchColumns() []watchColumn {
	rate := func(n uint64) string { return octets(n) + "/s" }
	return []watchColumn{
		{"RX IPv6", func(s *control.Stats) uint64 { return s.RX.IPv6.Packets }, count},
		{"RX IPv4", func(s *control.Stats) uint64 { return s.RX.IPv4.Packets }, count},
		{"TX IPv6", func(s *control.Stats) uint64 { return s.TX.IPv6.Packets }, count},
		{"TX IPv4", func(s *control.Stats) uint64 { return s.TX.IPv4.Packets }, count},
		{"RECEIVED", func(s *control.Stats) uint64 { return s.RX.IPv6.Bytes + s.RX.IPv4.Bytes }, rate},
		{"SENT", func(s *control.Stats) uint64 { return s.TX.IPv6.Bytes + s.TX.IPv4.Bytes }, rate},
		{"DROPPED", func(s *control.Stats) uint64 { return sum(s.Drops) }, count},
		{"SESSIONS", func(s *control.Stats) uint64 { return s.Sessions.Created }, count},
	}
}

// watchLine prints how much grew each second since before.
func (p *program) watchLine(n int, before, s *control.Stats, passed time.Duration) error {
	columns := watchColumns()
	if n%headEvery == 0 {
		fmt.Fprintln(p.out, "each second: packets on either side, octets, packets dropped, sessions created")
		for _, c := range columns {
			fmt.Fprintf(p.out, "%13s", c.head)
		}
		p.out.WriteByte('\n')
	}
	for _, c := range columns {
		// A nat64d that was restarted counts from zero again.
		grown := c.value(s)
		if was := c.value(before); was <= grown {
			grown -= was
		}
		fmt.Fprintf(p.out, "%13s", c.show(uint64(float64(grown)/max(passed.Seconds(), 1e-3)+0.5)))
	}
	return p.out.WriteByte('\n')
}
