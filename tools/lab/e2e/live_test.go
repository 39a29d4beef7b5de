package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// steady is a client and a server that exchange datagrams without a pause, none
// of them twice: one that is lost ends it with an error.
type steady struct {
	n    atomic.Int64
	stop context.CancelFunc
	done chan error
}

// startSteady begins once the way is known to work, neighbours resolved.
func (w *world) startSteady(port uint16) *steady {
	w.t.Helper()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), port).String())
	c := w.dial(w.client, "udp", 0, w.embedded(port))
	_, err := ask(c)
	w.must(err)
	ctx, stop := context.WithCancel(w.ctx)
	s := &steady{stop: stop, done: make(chan error, 1)}
	go func() {
		for ctx.Err() == nil {
			n := s.n.Load()
			if err := exchangeOnce(c, fmt.Sprintf("datagram %d", n)); err != nil {
				s.done <- fmt.Errorf("datagram %d is lost: %w", n, err)
				return
			}
			s.n.Add(1)
		}
		s.done <- nil
	}()
	w.t.Cleanup(stop)
	return s
}

// exchangeOnce waits for the echo of one datagram. Echoes of others are passed over.
func exchangeOnce(c net.Conn, text string) error {
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(onceWait)); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, err := c.Read(buf)
		if err != nil || string(buf[:n]) == text {
			return err
		}
	}
}

// lostNothing expects that datagrams went on, and still do, without a loss.
func (w *world) lostNothing(s *steady, when string) {
	w.t.Helper()
	want := s.n.Load() + 20
	w.eventually("datagrams go on "+when, recoveryTime, func() error {
		select {
		case err := <-s.done:
			w.t.Fatalf("%s: %v", when, err)
		default:
		}
		if got := s.n.Load(); got < want {
			return fmt.Errorf("at datagram %d, waiting for %d", got, want)
		}
		return nil
	})
}

// set changes a key of the running nat64d.
func (w *world) set(key, value string) {
	w.t.Helper()
	_, err := w.d.Ctl(w.ctx, "set", key, value)
	w.must(err)
}

// withoutHandoff leaves decisions to the NAT64 alone.
func withoutHandoff(config map[string]any) {
	config["handoff"].(map[string]any)["enabled"] = false
}

// refusedWith expects that one more datagram over c is dropped under a reason.
func (w *world) refusedWith(c net.Conn, reason string) {
	w.t.Helper()
	before := w.stats().Drops[reason]
	_, err := c.Write([]byte("?"))
	w.must(err)
	w.eventually(reason+" is counted", 10*time.Second, func() error {
		if n := w.stats().Drops[reason]; n != before+1 {
			return fmt.Errorf("it stands at %d, before it was %d", n, before)
		}
		return nil
	})
}

// Each change bears upon the next packet, and no packet of an established flow
// is lost through it.
func TestSetChangesWhatPacketsMeet(t *testing.T) {
	t.Parallel()
	w := routed(t, withoutHandoff, static("udp", 8080, 8080))
	k := w.startSteady(7)
	server2 := w.Host("server2")

	// deny_ipv4: what was opened before goes on, nothing new is opened.
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 9000).String())
	w.set("deny_ipv4", fmt.Sprintf(`["%s/32"]`, w.Server()))
	c := w.dial(w.client, "udp", 0, w.embedded(9000))
	w.refusedWith(c, "denied_destination")
	w.lostNothing(k, "while its server is denied")
	w.set("deny_ipv4", "[]")
	c2, mapped := w.openPort(9000)

	// filtering: another server reaches the mapping, until it may not. A server
	// of before the change still may, from any port.
	w.must(w.arrives(server2, mapped, c2, "let in"))
	w.set("filtering", "address-dependent")
	w.must(w.arrives(w.server, mapped, c2, "the client's own server, another port"))
	w.must(w.arrives(server2, mapped, c2, "its address has a session"))
	fresh, mapped := w.openPort(9000)
	w.refusedWith(w.dial(server2, "udp", 0, mapped.String()), "filtered")
	w.lostNothing(k, "under address-dependent filtering")
	w.set("filtering", "endpoint-independent")
	w.must(w.arrives(server2, mapped, fresh, "let in again"))

	// hairpin
	w.echoUDP(w.client, "udp6", "[::]:8080")
	other := w.Host("client2")
	to := netip.AddrPortFrom(lab.Embed(lab.Pool4), 8080).String()
	pair := w.dial(other, "udp", 0, to)
	_, err := ask(pair)
	w.must(err)
	w.set("hairpin", "false")
	w.refusedWith(pair, "hairpin_off")
	w.set("hairpin", "true")
	w.must(exchangeOnce(w.dial(other, "udp", 0, to), "again"))

	// mtu
	big := w.dial(w.client, "udp", 0, w.embedded(7)).(*net.UDPConn)
	w.must(forbidFragments(big, "udp6"))
	w.must(exchangeOnce(big, strings.Repeat("x", 1400)))
	w.set("mtu.ipv4", "1300")
	_, err = big.Write(noise(1400))
	w.must(err)
	w.eventually("the client learns the MTU", 10*time.Second, func() error {
		mtu, err := pathMTU(big, "udp6")
		if err == nil && mtu != 1320 {
			err = fmt.Errorf("it is %d, want 1320", mtu)
		}
		return err
	})

	// timeouts: what is idle now ends soon, what is not goes on.
	expired := w.stats().Sessions.Expired
	w.set("timeouts.udp", "2s")
	w.eventually("sessions expire", 60*time.Second, func() error {
		if n := w.stats().Sessions.Expired; n == expired {
			return errors.New("none has")
		}
		return nil
	})
	w.lostNothing(k, "after all these changes")
	k.stop()
	w.must(<-k.done)

	// All of it is seen, and has left a trace in the log.
	out, err := w.d.Ctl(w.ctx, "set")
	w.must(err)
	for _, key := range []string{"deny_ipv4", "mtu.ipv4", "timeouts.udp"} {
		if !strings.Contains(out, key) {
			t.Errorf("nat64ctl set does not show %s:\n%s", key, out)
		}
	}
	if strings.Contains(out, "hairpin") {
		t.Errorf("hairpin is as in the file again:\n%s", out)
	}
	if log := w.d.Log(); !strings.Contains(log, `msg="configuration changed" by="uid 0, pid `) || !strings.Contains(log, "key=mtu.ipv4 from=interface to=1300") {
		t.Error("the log does not say who changed what")
	}
}

// openPort opens a port of the client by asking the server's observer, and
// returns it with what it is mapped to.
func (w *world) openPort(observer uint16) (net.PacketConn, netip.AddrPort) {
	w.t.Helper()
	c, err := w.client.ListenPacket("udp6", "[::]:0")
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	seen, err := askFrom(c, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(w.embedded(observer))))
	w.must(err)
	mapped, err := netip.ParseAddrPort(seen)
	w.must(err)
	return c, mapped
}

// arrives sends one datagram from a new port of a host, and waits for it.
func (w *world) arrives(from lab.Host, to netip.AddrPort, at net.PacketConn, text string) error {
	out := w.dial(from, "udp", 0, to.String())
	if _, err := out.Write([]byte(text)); err != nil {
		return err
	}
	if err := at.SetReadDeadline(time.Now().Add(onceWait)); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := at.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", text, err)
		}
		if string(buf[:n]) == text {
			return nil
		}
	}
}

// A wrong value, an unknown key and one that takes a restart change nothing, and
// each answer says what would be right.
func TestSetRefuses(t *testing.T) {
	t.Parallel()
	w := plain(t)
	k := w.startSteady(7)
	for _, tc := range []struct{ key, value, want string }{
		{"lowest_ipv6_mtu", "100", "lowest_ipv6_mtu: 100 is out of range; give a whole number from 1280 to 65535"},
		{"hairpinn", "false", `hairpinn: unknown key; the nearest known key is "hairpin"`},
		{"workers.count", "2", "workers.count cannot be changed while nat64d runs"},
	} {
		out, code := w.ctlCode("set", tc.key, tc.value)
		if code != 2 || !strings.Contains(out, tc.want) {
			t.Errorf("set %s %s: exit code %d, %s", tc.key, tc.value, code, out)
		}
	}
	w.lostNothing(k, "after refused changes")
	if out, _ := w.ctlCode("set"); !strings.HasPrefix(out, "everything is as in ") {
		t.Errorf("something differs from the file: %s", out)
	}
}

// ctlCode runs nat64ctl and returns both its outputs and the exit code.
func (w *world) ctlCode(args ...string) (string, int) {
	w.t.Helper()
	cmd := exec.CommandContext(w.ctx, built.Nat64ctl, append([]string{"--socket", w.d.Socket()}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// A good file is applied, what was set is forgotten, static mappings come and
// go, and what takes a restart is named. A bad one changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, static("udp", 8080, 8080), static("tcp", 22, 22))
	k := w.startSteady(7)
	w.echoUDP(w.client, "udp6", "[::]:8080")
	w.echoUDP(w.client, "udp6", "[::]:8081")
	w.echoUDP(w.client, "udp6", "[::]:8082")
	answers := func(port int) error {
		c, err := dialFrom(w.ctx, w.server, "udp", 0, fmt.Sprintf("%s:%d", lab.Pool4, port))
		w.must(err)
		defer c.Close()
		return exchangeOnce(c, fmt.Sprint("to ", port))
	}
	w.must(answers(8080))
	w.set("hairpin", "false")
	_, err := w.d.Ctl(w.ctx, "bib", "add", "udp", "["+clientAddr+"]:8082", lab.Pool4.String()+":8082")
	w.must(err)

	// Bad: nothing changes, everything is said.
	good := w.d.Config
	w.must(os.WriteFile(w.d.File(), []byte(`{"ipv6_interface": "eth6", "hairpinn": 1, "pool4": [], "lowest_ipv6_mtu": 3}`), 0o644))
	out, code := w.ctlCode("reload")
	if code != 2 || strings.Count(out, "\n") != 4 || !strings.Contains(out, `hairpinn: unknown key`) {
		t.Errorf("reload of a bad file: exit code %d\n%s", code, out)
	}
	w.must(os.Remove(w.d.File()))
	if out, code = w.ctlCode("reload"); code != 2 || !strings.Contains(out, "no such file") {
		t.Errorf("reload without a file: exit code %d\n%s", code, out)
	}
	w.must(answers(8080))
	w.must(answers(8082))
	if out, _ := w.ctlCode("set"); !strings.Contains(out, "hairpin") {
		t.Errorf("what was set is gone after a bad reload:\n%s", out)
	}

	// Good.
	good["static_bib"] = nil
	static("udp", 8081, 8081)(good)
	static("udp", 8080, 9090)(good) // the same client behind another port: the old mapping is in its way
	good["lowest_ipv6_mtu"] = 1400
	good["xdp"] = map[string]any{"ring_size": 1024}
	w.must(w.d.WriteConfig())
	out, code = w.ctlCode("reload")
	if code != 0 || !strings.Contains(out, "lowest_ipv6_mtu: 1280 -> 1400\n") || !strings.Contains(out, "hairpin: false -> true\n") ||
		!strings.Contains(out, "xdp.ring_size: takes a restart of nat64d (running 2048, file 1024)\n") {
		t.Errorf("reload: exit code %d\n%s", code, out)
	}
	w.must(answers(8081))
	w.must(answers(9090))
	w.must(answers(8082)) // added by hand
	if err := answers(8080); err == nil {
		t.Error("a mapping that the file has no longer still works")
	}
	w.lostNothing(k, "after reloading")

	// SIGHUP does the same.
	good["lowest_ipv6_mtu"] = 1300
	w.must(w.d.WriteConfig())
	w.must(w.d.Hangup())
	w.eventually("SIGHUP reloads", 10*time.Second, func() error {
		if out, _ := w.ctlCode("set", "lowest_ipv6_mtu"); out != "1300\n" {
			return fmt.Errorf("lowest_ipv6_mtu is %s", out)
		}
		return nil
	})
	if out, _ := w.ctlCode("set"); !strings.Contains(out, "xdp.ring_size") || strings.Contains(out, "lowest_ipv6_mtu") {
		t.Errorf("what differs from the file:\n%s", out)
	}
	w.lostNothing(k, "after SIGHUP")
}

// sd_notify(3): a reload says when it begins and when it has ended. Alone, as
// it changes the environment.
func TestReloadTellsTheServiceManager(t *testing.T) {
	w := plain(t)
	w.must(w.d.Stop())
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	defer unix.Close(fd)
	path := w.Socket() + ".notify"
	w.must(unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}))
	t.Setenv("NOTIFY_SOCKET", path)
	w.must(w.d.Start(w.ctx))
	w.must(w.d.Hangup())
	buf := make([]byte, 512)
	for _, want := range []string{"READY=1", "RELOADING=1\nMONOTONIC_USEC=", "READY=1"} {
		n, err := unix.Read(fd, buf)
		w.must(err)
		if got := string(buf[:n]); !strings.HasPrefix(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	w.goesOn(w.startTalk(7), "after all that")
}
