package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

const gre = 47

// shared makes the box's own address the pool: its upper ports are the NAT64's.
func shared(c map[string]any) {
	c["pool4"] = []map[string]any{{"address": lab.Nat64IPv4.String(), "ports": "40000-65535"}}
	c["kernel_protocols"] = []int{gre}
}

// One address for the box and its NAT64. What is the box's own reaches its
// kernel, errors about it, fragments and other protocols included, while a
// client uses the NAT64 on the same address. The kernel checks reverse paths
// strictly, as many distributions have it do.
func TestSharedAddress(t *testing.T) {
	t.Parallel()
	w := arranged(t, lab.Options{Routers: true, MTU4: 1400, FullMSS: true}, func(w *world) {
		w.must(w.nat64.SetSysctl("ipv4/conf/all/rp_filter", "1"))
	}, shared)
	stop := w.clientTraffic()
	w.ownConnections()
	w.ownErrors()
	w.ownDatagrams()
	w.ownGRE()
	stop()
}

// clientTraffic keeps a client talking through the NAT64 until it is stopped.
func (w *world) clientTraffic() (stop func()) {
	w.t.Helper()
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	first := w.observed(c)
	if first.Addr() != lab.Nat64IPv4 || first.Port() < 40000 {
		w.t.Errorf("the client appears as %s", first)
	}
	quit, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				ended <- nil
				return
			default:
			}
			if got, err := ask(c); err != nil || got != first.String() {
				ended <- fmt.Errorf("the client appeared as %s, now as %s: %w", first, got, err)
				return
			}
		}
	}()
	return func() {
		close(quit)
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	}
}

// ownConnections: to a service of the box, and from it, none from a NAT port.
func (w *world) ownConnections() {
	w.t.Helper()
	w.echoTCP(w.nat64, netip.AddrPortFrom(lab.Nat64IPv4, 22).String())
	c := w.dial(w.server, "tcp", 0, netip.AddrPortFrom(lab.Nat64IPv4, 22).String())
	w.must(say(w.ctx, c, "login"))
	peers := w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 2222).String())
	for range 200 {
		c, err := dialFrom(w.ctx, w.nat64, "tcp", 0, netip.AddrPortFrom(w.Server(), 2222).String())
		w.must(err)
		w.must(say(w.ctx, c, "from the box"))
		if from := <-peers; from.Addr() != lab.Nat64IPv4 || from.Port() >= 40000 {
			w.t.Errorf("the box's own connection comes from %s", from)
		}
		w.must(c.Close())
	}
	p := w.pinger(w.server, "ip4", 0)
	if a, err := p.Ping(w.ctx, lab.Nat64IPv4, 1300, 0); err != nil || !a.Reply() {
		w.t.Errorf("ping to the box: %+v, %v", a, err)
	}
}

// ownErrors: ICMP errors about the box's own packets.
func (w *world) ownErrors() {
	w.t.Helper()
	c := w.dial(w.nat64, "udp4", 0, netip.AddrPortFrom(w.Server(), 9999).String())
	if _, err := ask(c); !isRefused(err) {
		w.t.Errorf("a closed port of the server answers the box with %v", err)
	}
	// Fragmentation Needed from r4 about a TCP connection of the box.
	web, err := traffic.ServeWeb(w.server, netip.AddrPortFrom(w.Server(), 81).String())
	w.must(err)
	defer web.Close()
	if _, err := traffic.Upload(w.ctx, w.nat64, netip.AddrPortFrom(w.Server(), 81).String(), 5<<20); err != nil {
		w.t.Error(err)
	}
	u := w.dial(w.nat64, "udp4", 0, netip.AddrPortFrom(w.Server(), 7).String()).(*net.UDPConn)
	if mtu, err := pathMTU(u, "udp4"); err != nil || mtu != 1400 {
		w.t.Errorf("the box believes in a path MTU of %d (%v), r4 told it 1400", mtu, err)
	}
	// Time Exceeded about a ping of the box.
	p := w.pinger(w.nat64, "ip4", 77) // an identifier outside the ranges
	a, err := p.Ping(w.ctx, w.Server(), 56, 1)
	if err != nil || a.Type != ipv4.ICMPTypeTimeExceeded {
		w.t.Errorf("ping with a TTL of 1: %+v, %v", a, err)
	}
}

// ownDatagrams: large ones to a port of the box arrive in fragments.
func (w *world) ownDatagrams() {
	w.t.Helper()
	w.echoUDP(w.nat64, "udp4", netip.AddrPortFrom(lab.Nat64IPv4, 53).String())
	c := w.dial(w.server, "udp4", 0, netip.AddrPortFrom(lab.Nat64IPv4, 53).String())
	for _, n := range []int{100, 1400, 3000, 20_000} {
		if err := exchangeLarge(c, noise(n)); err != nil {
			w.t.Errorf("%d octets to the box and back: %v; drops %v", n, err, reasons(w.stats()))
		}
	}
}

// exchangeLarge is traffic.Exchange for datagrams of any size.
func exchangeLarge(c net.Conn, payload []byte) error {
	buf := make([]byte, 1<<16)
	for range askTries {
		if _, err := c.Write(payload); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * askWait)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil || bytes.Equal(buf[:n], payload) {
			return err
		}
	}
	return errors.New("no answer")
}

// ownGRE: a protocol that stays with the kernel, whole, in fragments, and an
// error about it.
func (w *world) ownGRE() {
	w.t.Helper()
	box, err := w.nat64.ListenPacket(fmt.Sprintf("ip4:%d", gre), lab.Nat64IPv4.String())
	w.must(err)
	defer box.Close()
	tunnel := w.dialIP(w.server, lab.Nat64IPv4)
	for _, n := range []int{100, 3000} {
		want := noise(n)
		w.must(box.SetReadDeadline(time.Now().Add(10 * time.Second)))
		_, err := tunnel.Write(want)
		w.must(err)
		got := make([]byte, 1<<16)
		k, _, err := box.ReadFrom(got)
		if err != nil || !bytes.Equal(got[:k], want) {
			w.t.Errorf("GRE of %d octets: %d came, %v; drops %v", n, k, err, reasons(w.stats()))
		}
	}
	w.must(tunnel.Close())
	// Nobody at the server takes GRE now; it says so to the box.
	out := w.dialIP(w.nat64, w.Server())
	w.eventually("Protocol Unreachable reaches the box", 10*time.Second, func() error {
		if _, err := out.Write(noise(100)); errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		w.must(out.SetReadDeadline(time.Now().Add(askWait)))
		if _, err := out.Read(make([]byte, 100)); !errors.Is(err, unix.ENOPROTOOPT) {
			return fmt.Errorf("the socket says %w", err)
		}
		return nil
	})
}

func (w *world) dialIP(h lab.Host, to netip.Addr) net.Conn {
	w.t.Helper()
	c, err := h.DialContext(w.ctx, fmt.Sprintf("ip4:%d", gre), to.String())
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	return c
}
