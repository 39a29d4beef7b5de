package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"handoff64/cmd/nat64d/control"
	"handoff64/conntrack"
	"handoff64/dataplane"
)

const (
	// tapRecords is how many records of a worker may wait to be read.
	tapRecords = 1024
	// tapPause is how long a reader sleeps who finds nothing; workers wake nobody.
	tapPause = 5 * time.Millisecond
)

// Trace implements control.Daemon.
func (d *daemon) Trace(ctx context.Context, f control.PacketFilter, sink control.Sink[control.TraceEvent]) (uint64, error) {
	t := d.run.Load()
	if t == nil {
		return 0, errNotReady
	}
	text := teller{rules: t.rules, names: d.interfaceNames(t)}
	left := f.Count
	c := dataplane.TapConfig{Records: tapRecords}
	return d.look(ctx, t, f, c, func() bool { return sink.Started(text.names) }, sink.Rest, func(s *dataplane.Sight, _ []byte) bool {
		left--
		return sink.Each(text.event(s)) && left != 0
	})
}

// Capture implements control.Daemon.
func (d *daemon) Capture(ctx context.Context, f control.PacketFilter, octets int, sink control.Sink[control.Frame]) (uint64, error) {
	t := d.run.Load()
	if t == nil {
		return 0, errNotReady
	}
	names := d.interfaceNames(t)
	left := f.Count
	c := dataplane.TapConfig{Records: tapRecords, Octets: octets, Sent: true}
	return d.look(ctx, t, f, c, func() bool { return sink.Started(names) }, sink.Rest, func(s *dataplane.Sight, octets []byte) bool {
		if len(octets) == 0 {
			return true // it did not come from an interface, or another worker shows it
		}
		left--
		p := control.Frame{
			Time: time.Unix(0, s.Time), Side: int(s.Side), Out: s.Kind == dataplane.SightOut, Worker: int(s.Worker), Packet: s.Serial,
			Octets: octets, Wire: int(s.Wire),
		}
		if s.Left == dataplane.LeftDropped && !p.Out {
			p.Comment = "dropped: " + s.Reason.String()
		}
		return sink.Each(p) && left != 0
	})
}

func (d *daemon) interfaceNames(t *translator) [2]string {
	ipv6, ipv4 := t.device.Info()
	return [2]string{ipv6.Name, ipv4.Name}
}

// look opens a tap and hands on what it shows until ctx ends or somebody has
// had enough. What was in the rings when ctx ended is still shown.
func (d *daemon) look(
	ctx context.Context, t *translator, f control.PacketFilter, c dataplane.TapConfig,
	started, rest func() bool, each func(*dataplane.Sight, []byte) bool,
) (missed uint64, err error) {
	if c.Filter, err = t.tapFilter(&f); err != nil {
		return 0, err
	}
	tap, err := t.taps.Open(c)
	if err != nil {
		return 0, err
	}
	defer t.taps.Close(tap)
	for deadline := time.Now().Add(followTimeout); !t.taps.Watched() && ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the workers do not take up the trace within %v", followTimeout)
		}
	}
	if !started() {
		return 0, errors.New("the reader is gone")
	}
	wanted := true
	drain := func() int {
		return tap.Drain(func(s *dataplane.Sight, octets []byte) { wanted = wanted && each(s, octets) })
	}
	for wanted && ctx.Err() == nil {
		if drain() > 0 {
			wanted = rest() && wanted
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(tapPause):
		}
	}
	if wanted {
		t.taps.Close(tap)
		drain()
	}
	return tap.Missed(), nil
}

// tapFilter puts a filter into the terms of the workers.
func (t *translator) tapFilter(f *control.PacketFilter) (out dataplane.TapFilter, err error) {
	out = dataplane.TapFilter{
		Proto: f.Protocol, ClientPort: f.ClientPort, ServerPort: f.ServerPort, MappedPort: f.MappedPort, Port: f.Port, Dropped: f.Dropped,
		HasSide: f.Side != "",
	}
	if f.Side == "ipv4" {
		out.Side = dataplane.IPv4
	}
	if f.Client.IsValid() {
		out.Client, out.ClientBits = addr6(f.Client.Addr()), f.Client.Bits()
	}
	if f.Mapped.IsValid() {
		out.Mapped, out.HasMapped = addr4(f.Mapped), true
	}
	if f.Server.IsValid() {
		if out.Server, out.ServerBits, err = t.serverOf(f.Server); err != nil {
			return out, err
		}
	}
	if f.Reason == "" {
		return out, nil
	}
	dataplane.EachReason(func(r dataplane.DropReason, row dataplane.Reason) {
		if row.Name == f.Reason {
			out.Reason = r
		}
	})
	if out.Reason == dataplane.NotDropped {
		return out, control.ConfigError{Problems: []string{
			fmt.Sprintf("filter drop: %q is no drop reason of the workers; nat64ctl drops --all shows them", f.Reason)}}
	}
	return out, nil
}

// serverOf is the IPv4 prefix of servers, which may be given as clients see it.
func (t *translator) serverOf(p netip.Prefix) (uint32, int, error) {
	if p.Addr().Is4() {
		return addr4(p.Addr()), p.Bits(), nil
	}
	a := addr6(p.Addr())
	for _, prefix := range t.rules.Pool6 {
		if prefix.Contains(a.Hi, a.Lo) && p.IsSingleIP() {
			return prefix.Extract(a.Hi, a.Lo), 32, nil
		}
	}
	return 0, 0, control.ConfigError{Problems: []string{fmt.Sprintf("filter server: %s is no address inside pool6; give the IPv4 address", p)}}
}

// endText writes an end of a session; an address that is not known is empty.
func endText(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

func known6(a conntrack.Addr6) bool { return a != conntrack.Addr6{} }
