package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/benchmark"
	"handoff64/tools/lab/tunnels"
)

func tunnelsFlags(set *flag.FlagSet, s *settings) {
	set.StringVar(&s.tunnels.Name, "name", "nat64tun", "`name` of the networks, and prefix of their namespaces")
	set.StringVar(&s.binDir, "bin-dir", "", "`folder` of nat64d, nat64ctl and handoffd (default: where nat64lab is, then the PATH)")
	set.IntVar(&s.tunnels.Seconds, "seconds", 5, "`seconds` of each run")
	set.IntVar(&s.tunnels.Rounds, "rounds", 3, "`number` of rounds, in which all take turns; the median counts")
	set.StringVar(&s.json, "json", "", "`file` to write the results to, beside the table")
}

// runTunnels measures and prints.
func runTunnels(ctx context.Context, s *settings, args []string) (err error) {
	if err := noArguments(args); err != nil {
		return err
	}
	o := s.tunnels
	if o.Seconds < 1 || o.Rounds < 1 {
		return usageError{errors.New("--seconds and --rounds start at 1")}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	if o.Binaries, err = s.binaries(); err != nil {
		return err
	}
	if o.Nat64lab, err = os.Executable(); err != nil {
		return fmt.Errorf("find nat64lab: %w", err)
	}
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	r, err := tunnels.Measure(ctx, o)
	if err != nil {
		return err
	}
	if s.json != "" {
		content, err := json.MarshalIndent(r, "", " ")
		if err == nil {
			err = os.WriteFile(s.json, append(content, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	t := benchmark.TunnelsTable(r)
	return t.Text(s.out)
}

func tunnelFlags(set *flag.FlagSet, s *settings) {
	e := &s.tunnel
	set.StringVar(&e.Kind, "kind", tunnels.Plain, "`plain` or wireguard")
	set.StringVar(&e.Device, "device", "tunnel0", "`name` of the TUN device")
	set.IntVar(&e.MTU, "mtu", 1424, "MTU of the device in `octets`")
	set.Func("port", "UDP `port` of this end (default 51820)", func(text string) error {
		a, err := netip.ParseAddrPort("0.0.0.0:" + text)
		e.Port = a.Port()
		return err
	})
	set.TextVar(&e.Peer, "peer", netip.AddrPort{}, "`address:port` of the other end")
	set.BoolVar(&e.First, "first", false, "this is the first of the two ends (WireGuard's keys)")
	e.Port = 51820
}

// runTunnel is one end, until a signal.
func runTunnel(ctx context.Context, s *settings, args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	if !s.tunnel.Peer.IsValid() {
		return usageError{errors.New("--peer is missing")}
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGHUP)
	defer stop()
	return tunnels.RunEnd(ctx, s.tunnel)
}
