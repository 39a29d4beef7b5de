// Package demo shows a NAT64 at work to a person at a terminal: it builds a
// network, carries TCP, UDP and ICMP through nat64d, lets the server take over
// the connection table, and says what came of it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// drawing is the network of the demonstration.
const drawing = `
    client ─────── r6 ─────── nat64 ─────── r4 ─────── server
    IPv6 only      router     nat64d        router     IPv4 only
    %-15s           pool6 %-14s         %s
                              pool4 %s

    Five network namespaces, joined by veth pairs. The client knows no IPv4,
    the server no IPv6; only nat64d carries packets from one to the other.
    The client calls the server %s.
`

// Options says how to show it.
type Options struct {
	Lab      lab.Options // Routers is set by Run
	Binaries lab.Binaries
	Out      io.Writer
	Keep     bool  // leave the network up afterwards
	Octets   int64 // of the download; default 100 MB
}

// show is one demonstration under way; for one goroutine.
type show struct {
	Options
	lab    *lab.Lab
	daemon *lab.Daemon
	server *lab.Handoffd
	web    string // the web server, as the client calls it
	step   int
	failed []string
}

// Run gives the demonstration. The error says what went wrong; the verdict
// has been printed by then.
func Run(ctx context.Context, o Options) (err error) {
	if o.Octets == 0 {
		o.Octets = 100_000_000
	}
	o.Lab.Routers = true
	start := time.Now()
	s := &show{Options: o}
	// What a demonstration that was killed has left would be in the way.
	if err := lab.Reap(o.Lab.Name); err != nil {
		return err
	}
	if s.lab, err = lab.Up(o.Lab); err != nil {
		return err
	}
	if o.Keep {
		err = s.lab.Disown()
	} else {
		defer func() { err = errors.Join(err, s.lab.Down()) }()
	}
	if err != nil {
		return err
	}
	s.print(drawing, s.lab.Client(), lab.Pool6, s.lab.Server(), lab.Pool4, lab.Embed(s.lab.Server()))
	if err := s.perform(ctx); err != nil {
		s.print("\nFAIL: %v\n", err)
		return err
	}
	if len(s.failed) > 0 {
		s.print("\nFAIL: %s\n", strings.Join(s.failed, "; "))
		return errors.New(strings.Join(s.failed, "; "))
	}
	s.print("\nPASS: TCP, UDP and ICMP went through nat64d both ways, and a download outlived its loss of memory, in %.0f s\n", time.Since(start).Seconds())
	if o.Keep {
		s.print("The network is still up: try `nat64lab exec --name %s client -- sh`, and `nat64lab down --name %s` when done.\n", s.lab.Options.Name, s.lab.Options.Name)
	}
	return nil
}

func (s *show) print(format string, args ...any) { fmt.Fprintf(s.Out, format, args...) }

// perform runs the steps. An error ends the demonstration; what a step finds
// wrong with the traffic goes to failed, and the next step still runs.
func (s *show) perform(ctx context.Context) error {
	s.daemon, s.server = s.lab.Daemon(s.Binaries), s.lab.Handoffd("server", s.Binaries)
	if err := s.start(ctx); err != nil {
		return err
	}
	web, err := traffic.ServeWeb(s.lab.Host("server"), s.lab.Server().String()+":80")
	if err != nil {
		return err
	}
	defer web.Close()
	echo, err := traffic.EchoUDP(s.lab.Host("server"), "udp4", s.lab.Server().String()+":7")
	if err != nil {
		return err
	}
	defer echo.Close()
	s.web = netip.AddrPortFrom(lab.Embed(s.lab.Server()), 80).String()
	for _, act := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"TCP: download over HTTP", s.tcp},
		{"UDP: datagrams of several sizes, echoed", s.udp},
		{"ICMP: ping", s.ping},
		{"ICMP errors: traceroute", s.trace},
		{"nat64ctl sessions", s.sessions},
		{"Handoff: the server takes over the connection table, and nat64d loses its memory", s.handoff},
		{"nat64ctl stats, since the new start", s.stats},
	} {
		s.heading(act.name)
		if err := act.run(ctx); err != nil {
			s.print("    WRONG: %v\n", err)
			s.failed = append(s.failed, fmt.Sprintf("%s: %v", act.name, err))
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
	}
	if s.Keep {
		return nil
	}
	s.heading("Stop handoffd and nat64d")
	if s.server.Running() {
		if err := s.server.Stop(); err != nil {
			return err
		}
	}
	if err := s.daemon.Stop(); err != nil {
		return err
	}
	s.print("    nat64d gave back what it held, both ended with exit code 0\n")
	return nil
}

func (s *show) heading(name string) {
	s.step++
	s.print("\n%d. %s\n", s.step, name)
}

// start starts nat64d.
func (s *show) start(ctx context.Context) error {
	s.heading("Start nat64d")
	began := time.Now()
	if err := s.daemon.Start(ctx); err != nil {
		return err
	}
	status, err := s.daemon.Status(ctx)
	if err != nil {
		return err
	}
	s.print("    ready after %d ms; XDP %s on %s, %s on %s; %d worker(s)\n", time.Since(began).Milliseconds(),
		status.Interfaces["ipv6"].XDPMode, status.Interfaces["ipv6"].Name,
		status.Interfaces["ipv4"].XDPMode, status.Interfaces["ipv4"].Name, len(status.Workers))
	return nil
}

// tcp downloads and compares checksums.
func (s *show) tcp(ctx context.Context) error {
	s.print("    client$ get http://%s/   (%d MB)\n", s.web, s.Octets/1_000_000)
	t, err := traffic.Download(ctx, s.lab.Host("client"), s.web, s.Octets)
	if err != nil {
		return err
	}
	s.print("    %d octets in %.1f s, %.0f Mbit/s\n    SHA-256 %s, the same at both ends\n", t.Octets, t.Elapsed.Seconds(), t.Mbps(), t.SHA256)
	return nil
}

// udp exchanges datagrams, up to the largest that fits the client's link.
func (s *show) udp(ctx context.Context) error {
	to := netip.AddrPortFrom(lab.Embed(s.lab.Server()), 7)
	c, err := s.lab.Host("client").DialContext(ctx, "udp6", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	s.print("    client$ echo to %s\n    octets:", to)
	defer s.print("\n")
	for _, size := range []int{0, 1, 64, 512, 1200, 1452} {
		payload := make([]byte, size)
		for i := range payload {
			payload[i] = byte(i)
		}
		if err := traffic.Exchange(c, payload); err != nil {
			return err
		}
		s.print(" %d ✓", size)
	}
	return nil
}

// ping sends three echo requests and shows hop limits and times.
func (s *show) ping(ctx context.Context) error {
	p, err := traffic.NewPinger(s.lab.Host("client"), "ip6", 0)
	if err != nil {
		return err
	}
	defer p.Close()
	to := lab.Embed(s.lab.Server())
	for _, size := range []int{56, 1000, 1400} {
		a, err := p.Ping(ctx, to, size, 0)
		if err != nil {
			return err
		}
		if !a.Reply() || a.From != to {
			return fmt.Errorf("%v from %s instead of a reply", a.Type, a.From)
		}
		s.print("    %d octets from %s: hop limit %d, %.2f ms\n", size+8, a.From, a.HopLimit, a.RTT.Seconds()*1000)
	}
	return nil
}

// trace walks from the client to the server, and back from a server to the
// client's mapped address as far as an ICMPv4 error can tell.
func (s *show) trace(ctx context.Context) error {
	p, err := traffic.NewPinger(s.lab.Host("client"), "ip6", 0)
	if err != nil {
		return err
	}
	defer p.Close()
	to := lab.Embed(s.lab.Server())
	s.print("    client$ trace %s\n", to)
	hops := p.Trace(ctx, to, 8)
	for i, h := range hops {
		s.print("    %d  %s\n", i+1, describe(h))
	}
	want := []netip.Addr{s.lab.Address("r6", "client"), s.lab.Address("nat64", lab.IPv6Interface), lab.Embed(lab.R4IPv4), to}
	if len(hops) != len(want) {
		return fmt.Errorf("%d hops, there are %d", len(hops), len(want))
	}
	for i, h := range hops {
		if h.Err != nil || h.From != want[i] {
			return fmt.Errorf("hop %d is not %s", i+1, want[i])
		}
	}
	return nil
}

// describe is one line of a traceroute.
func describe(h traffic.Hop) string {
	if h.Err != nil {
		return "*  " + h.Err.Error()
	}
	line := fmt.Sprintf("%-20s %-22s %.2f ms", h.From, kind(h.Type), h.RTT.Seconds()*1000)
	if v4, ok := lab.Extract(h.From); ok {
		line += fmt.Sprintf("   = IPv4 %s", v4)
	}
	return line
}

func kind(t icmp.Type) string {
	switch t {
	case ipv6.ICMPTypeTimeExceeded, ipv4.ICMPTypeTimeExceeded:
		return "hop limit exceeded"
	case ipv6.ICMPTypeEchoReply, ipv4.ICMPTypeEchoReply:
		return "echo reply"
	}
	return fmt.Sprint(t)
}

// sessions prints what nat64ctl says, and expects one of each protocol.
func (s *show) sessions(ctx context.Context) error {
	out, err := s.daemon.Ctl(ctx, "sessions")
	if err != nil {
		return err
	}
	s.indent(out)
	sessions, err := s.daemon.Sessions(ctx)
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	for _, one := range sessions {
		seen[one.Protocol] = true
	}
	for _, protocol := range []string{"tcp", "udp", "icmp"} {
		if !seen[protocol] {
			return fmt.Errorf("no %s session is listed", protocol)
		}
	}
	return nil
}

// stats prints the counters and checks that they add up.
func (s *show) stats(ctx context.Context) error {
	out, err := s.daemon.Ctl(ctx, "stats")
	if err != nil {
		return err
	}
	s.indent(out)
	stats, err := s.daemon.SettledStats(ctx)
	if err != nil {
		return err
	}
	s.print("    %d received and generated = translated + passed on + parked + dropped\n", stats.In())
	return nil
}

func (s *show) indent(text string) {
	for line := range strings.Lines(text) {
		s.print("%s\n", strings.TrimRight("    "+line, " \n"))
	}
}
