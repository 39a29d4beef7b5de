package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// talk is a conversation over one TCP connection that goes on and on: it ends
// with an error as soon as a line gets lost or changed.
type talk struct {
	lines atomic.Int64 // answered so far
	stop  context.CancelFunc
	done  chan error // one error, nil after stop
}

// startTalk begins a conversation between the client and the server.
func (w *world) startTalk(port uint16) *talk {
	w.t.Helper()
	w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), port).String())
	c := w.dial(w.client, "tcp", 0, w.embedded(port))
	ctx, stop := context.WithCancel(w.ctx)
	k := &talk{stop: stop, done: make(chan error, 1)}
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := say(w.ctx, c, fmt.Sprintf("line %0700d", n)); err != nil {
				k.done <- fmt.Errorf("line %d: %w", n, err)
				return
			}
			k.lines.Add(1)
		}
		k.done <- nil
	}()
	w.t.Cleanup(stop)
	return k
}

// recoveryTime is how long a connection may take to go on after a
// disturbance: TCP's own timers double with each loss.
const recoveryTime = 60 * time.Second

// goesOn waits for some more lines.
func (w *world) goesOn(k *talk, when string) {
	w.t.Helper()
	want := k.lines.Load() + 50
	w.eventually("the conversation goes on "+when, recoveryTime, func() error {
		select {
		case err := <-k.done:
			k.done <- err
			w.t.Fatalf("the conversation broke %s: %v", when, err)
		default:
		}
		if got := k.lines.Load(); got < want {
			return fmt.Errorf("at line %d, waiting for %d", got, want)
		}
		return nil
	})
}

// finishTalk ends the conversation and expects that nothing was wrong with it.
func (w *world) finishTalk(k *talk) {
	w.t.Helper()
	k.stop()
	w.must(<-k.done)
}

func TestLinkDownAndUp(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, link := range map[string]struct{ host, ifname string }{
		"the translator's IPv4 interface": {"nat64", lab.IPv4Interface},
		"the translator's IPv6 interface": {"nat64", lab.IPv6Interface},
		"the server's end":                {"server", "eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := plain(t)
			k := w.startTalk(7)
			w.goesOn(k, "at first")
			h := w.Host(link.host)
			w.must(h.SetLink(link.ifname, false))
			w.eventually("the link is seen to be down", 10*time.Second, func() error {
				interfaces, err := w.nat64.Interfaces()
				ifname := link.ifname
				if link.host == "server" {
					ifname = lab.IPv4Interface
				}
				if err == nil && interfaces[ifname].Running {
					err = errors.New("it is running")
				}
				return err
			})
			w.must(h.SetLink(link.ifname, true))
			w.goesOn(k, "after the link came back")
			w.finishTalk(k)
		})
	}
}

func TestNextHopChangesItsMAC(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, host := range []string{"server", "client"} {
		t.Run(host, func(t *testing.T) {
			w := plain(t)
			k := w.startTalk(7)
			w.goesOn(k, "at first")
			// The neighbour announces it, as a router that takes over from
			// another one does.
			for i := range 3 {
				mac := net.HardwareAddr{2, 0, 0, 0, 0x77, byte(i)}
				w.must(w.Host(host).SetMAC("eth0", mac))
				w.goesOn(k, "with MAC address "+mac.String())
			}
			w.finishTalk(k)
		})
	}
}

// A neighbour that does not announce its new MAC address is found again by the
// kernel, which somebody has to tell that the old one is in use.
func TestNextHopChangesItsMACSilently(t *testing.T) {
	t.Parallel()
	w := plain(t)
	for _, key := range []string{"ipv4/conf/all/arp_notify", "ipv4/conf/eth0/arp_notify"} {
		w.must(w.server.SetSysctl(key, "0"))
	}
	k := w.startTalk(7)
	w.goesOn(k, "at first")
	w.must(w.server.SetMAC("eth0", net.HardwareAddr{2, 0, 0, 0, 0x66, 1}))
	w.goesOn(k, "with the new MAC address")
	w.finishTalk(k)
}

// Killed, not stopped: the next instance takes over what the first has left,
// sessions included, and the following clean stop (of finish) leaves nothing.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	w := plain(t)
	k := w.startTalk(7)
	w.goesOn(k, "at first")
	before, err := w.d.Sessions(w.ctx)
	w.must(err)
	for range 2 {
		w.must(w.d.Kill())
		w.must(w.d.Start(w.ctx))
		w.goesOn(k, "after kill -9 and a new start")
	}
	after, err := w.d.Sessions(w.ctx)
	w.must(err)
	mapped := func(all []lab.Session) (ports []string) {
		for _, s := range all {
			if s.Protocol == "tcp" {
				ports = append(ports, s.Mapped)
			}
		}
		return ports
	}
	if was, is := mapped(before), mapped(after); fmt.Sprint(was) != fmt.Sprint(is) || len(was) != 1 {
		t.Errorf("mapped ports before: %v, after: %v", was, is)
	}
	w.finishTalk(k)
	// New connections work as well.
	w.goesOn(w.startTalk(8), "on a new connection")
}

func TestCleanRestartKeepsConnections(t *testing.T) {
	t.Parallel()
	w := plain(t)
	k := w.startTalk(7)
	w.goesOn(k, "at first")
	w.stop()
	w.must(w.d.Start(w.ctx))
	w.goesOn(k, "after a clean restart")
	w.finishTalk(k)
}

// The pool's address is the kernel's own, but the NAT's ports are not: were
// the kernel to answer on them while nat64d is not there, its resets and port
// unreachables would break every connection that a restart is to keep.
func TestKernelNeverAnswersForThePool(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	// A socket that takes datagrams from everybody: the client has nothing to
	// refuse.
	socket, err := w.client.ListenPacket("udp6", "[::]:40000")
	w.must(err)
	defer socket.Close()
	mapped, err := askFrom(socket, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(w.embedded(7))))
	w.must(err)
	stream := w.dial(w.server, "udp", 9999, mapped)
	ctx, stop := context.WithCancel(w.ctx)
	refused := make(chan int, 1)
	go func() { refused <- countRefusals(ctx, stream) }()
	for range 3 {
		w.must(w.d.Kill())
		w.must(w.d.Start(w.ctx))
		w.must(w.d.Restart(w.ctx))
	}
	stop()
	if n := <-refused; n > 0 {
		t.Errorf("the kernel has refused %d packets to %s, a port of the NAT", n, mapped)
	}
}

// countRefusals sends datagrams without a pause longer than a millisecond and
// counts how often the socket reports that somebody refused one.
func countRefusals(ctx context.Context, c net.Conn) (refused int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return refused
		case <-tick.C:
			// Other errors, such as that nobody has the address, are what a
			// stopped NAT64 looks like.
			if _, err := c.Write([]byte("still there?")); isRefused(err) {
				refused++
			}
		}
	}
}

// finish and stop compare; here they have something to compare.
func TestCleanStopLeavesNothing(t *testing.T) {
	t.Parallel()
	// So many ports are left to local programs that nat64d reserves its own.
	w := plain(t, pool4("10000-20000"))
	during := w.footprint()
	for _, ifname := range []string{lab.IPv6Interface, lab.IPv4Interface} {
		if during.interfaces[ifname].XDP == 0 {
			t.Errorf("no XDP program on %s while nat64d runs, so its removal proves nothing", ifname)
		}
	}
	if n := len(during.interfaces[lab.IPv4Interface].Addresses); n != len(w.before.interfaces[lab.IPv4Interface].Addresses)+1 {
		t.Errorf("addresses of %s while nat64d runs: %v", lab.IPv4Interface, during.interfaces[lab.IPv4Interface].Addresses)
	}
	if key := "net/ipv4/ip_local_reserved_ports"; during.sysctls[key] == w.before.sysctls[key] {
		t.Errorf("%s is %q while nat64d runs, as before", key, during.sysctls[key])
	}
	w.goesOn(w.startTalk(7), "")
	w.stop()
	// Nobody is left who would carry a packet.
	c, err := dialFrom(w.ctx, w.client, "udp", 0, w.embedded(7))
	w.must(err)
	defer c.Close()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	if answer, err := askOnce(c); err == nil {
		t.Errorf("without nat64d there is an answer %q", answer)
	}
}
