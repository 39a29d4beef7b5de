package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// timeouts shortens lifetimes.
func timeouts(of map[string]any) func(map[string]any) {
	return func(config map[string]any) { config["timeouts"] = of }
}

// Linux is told of nobody behind a port after TCP_INCOMING_SYN, not earlier
// (RFC 6146 §3.5.2.2, RFC 5382 REQ-4).
func TestUnsolicitedSYNIsAnsweredLate(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, timeouts(map[string]any{"tcp_incoming_syn": "2s"}))
	w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	k := w.dial(w.client, "tcp", 0, w.embedded(7)) // the captures shall hold some traffic
	w.must(say(w.ctx, k, "beside"))
	start := time.Now()
	c, err := dialFrom(w.ctx, w.server, "tcp", 0, netip.AddrPortFrom(lab.Pool4, 50_001).String())
	if err == nil {
		c.Close()
		t.Fatal("connected to nobody")
	}
	// A SYN that Linux sends again meanwhile is stored anew after the first
	// one's answer; the first answer ends the attempt.
	if !errors.Is(err, unix.ECONNREFUSED) || time.Since(start) < 1900*time.Millisecond {
		t.Errorf("after %s: %v, want connection refused after 2 s", time.Since(start), err)
	}
	if s := w.stats(); s.Drops["syn_stored"] == 0 {
		t.Errorf("nothing was stored; drops: %v", reasons(s))
	}
}

// Two ends open the connection at the same time: the server's SYN waits in the
// NAT64 for the client's, then Linux completes the simultaneous open.
func TestSimultaneousOpenOfLinuxHosts(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, pool4("40000"))
	type dialled struct {
		c   net.Conn
		err error
	}
	server := make(chan dialled, 1)
	go func() {
		c, err := dialFrom(w.ctx, w.server, "tcp", 9000, netip.AddrPortFrom(lab.Pool4, 40_000).String())
		server <- dialled{c, err}
	}()
	w.eventually("the server's SYN waits", 30*time.Second, func() error {
		if s := w.stats(); s.Drops["syn_stored"] == 0 {
			return fmt.Errorf("drops: %v", reasons(s))
		}
		return nil
	})
	c := w.dial(w.client, "tcp", 50_000, w.embedded(9000))
	d := <-server
	w.must(d.err)
	defer d.c.Close()
	for from, to := range map[net.Conn]net.Conn{c: d.c, d.c: c} {
		w.must(from.SetDeadline(time.Now().Add(time.Minute)))
		if _, err := from.Write([]byte("met")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		if _, err := to.Read(got); err != nil || string(got) != "met" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	w.inState("ESTABLISHED")
}

// inState waits until the only TCP session is in the state.
func (w *world) inState(state string) (s lab.Session) {
	w.t.Helper()
	w.eventually("state "+state, 30*time.Second, func() error {
		all, err := w.d.Sessions(w.ctx)
		w.must(err)
		for _, s = range all {
			if s.Protocol == "tcp" && s.State == state {
				return nil
			}
		}
		return fmt.Errorf("sessions: %+v", all)
	})
	return s
}

// An idle connection outlives tcp_established, because its ends answer probes.
func TestProbeKeepsAnIdleConnection(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, timeouts(map[string]any{"tcp_established": "2s", "tcp_transitory": "3s"}))
	peers := w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "tcp", 0, w.embedded(7))
	w.must(say(w.ctx, c, "before"))
	start := w.stats()
	w.eventually("two probes", time.Minute, func() error {
		if s := w.stats(); s.Generated < start.Generated+2 {
			return fmt.Errorf("%d generated", s.Generated-start.Generated)
		}
		return nil
	})
	w.inState("ESTABLISHED")
	if s := w.stats(); s.Sessions.Expired != start.Sessions.Expired || s.Sessions.Created != start.Sessions.Created {
		t.Errorf("sessions: %+v, before %+v", s.Sessions, start.Sessions)
	}
	w.must(say(w.ctx, c, "after"))
	if len(peers) != 1 {
		t.Errorf("%d connections", len(peers))
	}
}

// A connection that its client has forgotten is removed: nobody answers the
// probe but with a reset.
func TestDeadConnectionIsRemoved(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, timeouts(map[string]any{"tcp_established": "2s", "tcp_transitory": "2s"}))
	w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "tcp", 0, w.embedded(7))
	w.must(say(w.ctx, c, "before"))
	w.inState("ESTABLISHED")
	raw, err := c.(*net.TCPConn).SyscallConn()
	w.must(err)
	// In repair mode a socket closes without a word, like a host that crashes.
	w.must(raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	}))
	w.must(err)
	w.must(c.Close())
	w.inState("TRANS")
	w.eventually("the session is gone", time.Minute, func() error {
		all, err := w.d.Sessions(w.ctx)
		w.must(err)
		if len(all) != 0 {
			return fmt.Errorf("sessions: %+v", all)
		}
		return nil
	})
}

// Hairpinned TCP to a client behind a small link: the NAT64 tells the sender,
// which finds the path MTU.
func TestHairpinSmallLink(t *testing.T) {
	t.Parallel()
	const mtu = 1300
	w := routed(t, withoutHandoff, static("tcp", 8080, 80), func(config map[string]any) { config["tcp_mss_clamp"] = "off" })
	web, err := traffic.ServeWeb(w.client, "[::]:8080")
	w.must(err)
	defer web.Close()
	_, err = w.nat64.Output(w.ctx, "ip", "-6", "route", "add", clientAddr+"/128",
		"via", lab.R6IPv6.String(), "dev", lab.IPv6Interface, "mtu", strconv.Itoa(mtu))
	w.must(err)
	to := netip.AddrPortFrom(lab.Embed(lab.Pool4), 80).String()
	_, err = traffic.Upload(w.ctx, w.Host("client2"), to, 1<<20)
	w.must(err)
	s := w.stats()
	if s.Translated.Hairpin < 1<<20/mtu || s.Drops["too_big_for_ipv6"] == 0 {
		t.Errorf("translated %+v, drops %v: nothing was too big", s.Translated, reasons(s))
	}
}
