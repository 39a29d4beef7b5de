package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

var handoffOctets = flag.Int64("handoff.octets", 30_000_000, "octets of a transfer in each mode of handoffd, each way")

// modes are handoffd's.
var modes = []string{"minimal", "local-nat", "mixed"}

// inEveryMode runs a test with a handoffd in each of its modes.
func inEveryMode(t *testing.T, options lab.Options, do func(w *world, h *lab.Handoffd)) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			needRoot(t)
			w := build(t, options)
			do(w, w.adoptedAs("--mode", mode))
		})
	}
}

// TestEveryModeTransfers: what is downloaded and uploaded has the right checksum.
func TestEveryModeTransfers(t *testing.T) {
	inEveryMode(t, lab.Options{}, func(w *world, _ *lab.Handoffd) {
		web := w.web()
		for name, transfer := range map[string]func(context.Context, lab.Host, string, int64) (traffic.Transfer, error){"download": traffic.Download, "upload": traffic.Upload} {
			got, err := transfer(w.ctx, w.client, web, *handoffOctets)
			w.must(err)
			w.t.Logf("%s: %d octets, %.0f Mbit/s", name, got.Octets, got.Mbps())
		}
	})
}

// TestEveryModeKilled: a transfer goes on, and its checksum is right, although
// nat64d is killed and forgets everything, and handoffd is killed, in its middle.
func TestEveryModeKilled(t *testing.T) {
	inEveryMode(t, lab.Options{}, func(w *world, h *lab.Handoffd) {
		web := w.web()
		const octets, rate = 16_000_000, 2_000_000 // 8 s without the pauses
		var got atomic.Int64
		done := make(chan error, 1)
		go func() {
			_, err := traffic.DownloadSlowly(w.ctx, w.client, web, octets, rate, &got)
			done <- err
		}()
		goesOn := func(when string) {
			before := got.Load()
			w.eventually("the transfer goes on "+when, time.Minute, func() error {
				if now := got.Load(); now < before+500_000 {
					return fmt.Errorf("%d octets, and %d before", now, before)
				}
				return nil
			})
		}
		goesOn("at first")
		w.must(w.d.Kill())
		w.lose()
		w.must(w.d.Start(w.ctx))
		goesOn("after nat64d was killed and its tables were lost")
		w.must(h.Kill())
		w.must(h.Start(w.ctx))
		goesOn("after handoffd was killed")
		if n := got.Load(); n >= octets {
			w.t.Errorf("all %d octets had come before the end: this tests nothing", n)
		}
		w.must(<-done)
	})
}

// TestEveryModeTwoNat64s: two NAT64s have one server; the same client with the
// same port comes through both, is told apart, and gets its own answers.
func TestEveryModeTwoNat64s(t *testing.T) {
	inEveryMode(t, lab.Options{Routers: true, Nat64s: 2}, func(w *world, h *lab.Handoffd) {
		other := w.second()
		w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
		through := func(pool6 netip.Prefix, from []netip.AddrPort) map[netip.AddrPort]netip.AddrPort {
			return w.meetAll(w.client, from, netip.AddrPortFrom(lab.EmbedIn(pool6, w.Server()), 7))
		}
		through(lab.SecondPool6, tuples([]netip.Addr{w.Client()}, 30_000, 1))
		w.eventually("the second NAT64 knows the server, too", recoveryTime, func() error {
			known, err := other.Servers(w.ctx)
			if err == nil && known[w.Server().String()].State != "handoff" {
				err = fmt.Errorf("it takes it for %+v", known)
			}
			return err
		})
		from := tuples([]netip.Addr{w.Client()}, 40_000, 20)
		one, two := through(lab.Pool6, from), through(lab.SecondPool6, from)
		for _, f := range from {
			if one[f] == two[f] {
				w.t.Errorf("%s appears as %s through both", f, one[f])
			}
			for _, mapped := range []netip.AddrPort{one[f], two[f]} {
				if got, err := h.Lookup(w.ctx, mapped.String()); err != nil || got != f.String() {
					w.t.Errorf("lookup %s: %q (%v), want %s", mapped, got, err, f)
				}
			}
		}
		f := w.plainFlows(9000, 2)
		g := w.flows(w.client, w.server, netip.AddrPortFrom(w.Server(), 9001), lab.SecondPool6, 2)
		w.flowsGoOn(f, bothWays, "through the first")
		w.flowsGoOn(g, bothWays, "through the second")
		w.must(errors.Join(f.Finish(), g.Finish()))
	})
}

// TestEveryModeTalks: a terminal's traffic, single octets there and back with
// pauses, and datagrams and pings of many sizes.
func TestEveryModeTalks(t *testing.T) {
	inEveryMode(t, lab.Options{}, func(w *world, _ *lab.Handoffd) {
		w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 22).String())
		w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
		shell, err := w.client.DialContext(w.ctx, "tcp", w.embedded(22))
		w.must(err)
		defer shell.Close()
		u := w.dial(w.client, "udp", 0, w.embedded(7))
		p := w.pinger(w.client, "ip6", 0)
		for i := range 40 {
			w.must(say(w.ctx, shell, strings.Repeat("k", 1+i%3)))
			// The first of a size may end as a Packet Too Big.
			w.eventually("a datagram and back", 20*time.Second, func() error { return traffic.Exchange(u, noise(i*36)) })
			if i%10 == 0 {
				var a traffic.Answer
				w.eventually("a ping and back", 20*time.Second, func() error {
					var err error
					if a, err = p.Ping(w.ctx, lab.Embed(w.Server()), i*34, 0); err == nil && !a.Reply() {
						err = fmt.Errorf("answered with %v", a.Type)
					}
					return err
				})
				if a.From != lab.Embed(w.Server()) {
					w.t.Errorf("the answer to a ping comes from %s", a.From)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
}
