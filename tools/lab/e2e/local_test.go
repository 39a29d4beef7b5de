package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

func localTraffic(c map[string]any) { c["local_traffic"] = true }

// The box is a client of its own NAT64: every protocol, every size, the path
// MTU, and all that while another client uses it.
func TestLocalTraffic(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Routers: true, MTU4: 1400, FullMSS: true}, localTraffic)
	web := w.web()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	for _, h := range []lab.Host{w.nat64, w.client} {
		for _, n := range []int64{0, 1, 100_000, 20 << 20} {
			if _, err := traffic.Download(w.ctx, h, web, n); err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
			if _, err := traffic.Upload(w.ctx, h, web, n); err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
		}
	}
	c := w.dial(w.nat64, "udp6", 0, w.embedded(7)).(*net.UDPConn)
	for n := 0; n <= 1300; n += 13 {
		w.must(traffic.Exchange(c, noise(n)))
	}
	w.localPathMTU(c)
	w.expectPath(w.pinger(w.nat64, "ip6", 0), lab.Embed(w.Server()), ipv6.ICMPTypeTimeExceeded, [][]netip.Addr{
		{w.Address("nat64", lab.IPv6Interface)},
		{lab.Embed(lab.R4IPv4)},
		{lab.Embed(w.Server())},
	})
	if s := w.stats(); s.Translated.V6ToV4 == 0 || s.RX.IPv6.Packets < s.Translated.V6ToV4 {
		t.Errorf("translated %+v, received %+v", s.Translated, s.RX)
	}
}

// localPathMTU: the box's kernel learns what the link to the server carries,
// from a router behind its own NAT64.
func (w *world) localPathMTU(c *net.UDPConn) {
	w.t.Helper()
	w.must(forbidFragments(c, "udp6"))
	if mtu, err := pathMTU(c, "udp6"); err != nil || mtu != 1420 { // the transfers have found it out
		w.t.Errorf("path MTU %d, %v; want 1420", mtu, err)
	}
	w.must(traffic.Exchange(c, noise(1372)))
	if _, err := c.Write(noise(1373)); !errors.Is(err, unix.EMSGSIZE) {
		w.t.Errorf("sending one octet too many: %v, want EMSGSIZE", err)
	}
}

// setAddress6 adds the box's address on its IPv6 interface, or takes it away.
func (w *world) setAddress6(p netip.Prefix, add bool) {
	w.t.Helper()
	if add {
		w.must(w.nat64.AddAddress(lab.IPv6Interface, p))
		return
	}
	w.must(w.nat64.Enter(func() error {
		dev, err := netlink.LinkByName(lab.IPv6Interface)
		if err != nil {
			return err
		}
		return netlink.AddrDel(dev, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}})
	}))
}

// A box with a global address uses it, one without uses the device's own; what
// it has may change at any time. Sessions outlive the death of nat64d.
func TestLocalTrafficSourceAddress(t *testing.T) {
	t.Parallel()
	w := plain(t, localTraffic)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	own := netip.PrefixFrom(w.Address("nat64", lab.IPv6Interface), 64)
	check := func(when string, ok func(netip.Addr) bool) (net.Conn, netip.AddrPort) {
		t.Helper()
		c := w.dial(w.nat64, "udp6", 0, w.embedded(7))
		if from := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); !ok(from) {
			t.Errorf("%s: the box speaks as %s", when, from)
		}
		return c, w.observed(c)
	}
	isOwn := func(a netip.Addr) bool { return a == own.Addr() }
	c, seen := check("with a global address", isOwn)
	if seen.Addr() != lab.Pool4 {
		t.Errorf("the box appears as %s", seen)
	}
	w.setAddress6(own, false)
	ula, ulaSeen := check("without", netip.MustParsePrefix("fd00::/8").Contains)
	w.setAddress6(own, true)
	check("with it again", isOwn)
	w.must(w.d.Kill())
	w.must(w.d.Start(w.ctx))
	for _, tc := range []struct {
		c    net.Conn
		want netip.AddrPort
	}{{c, seen}, {ula, ulaSeen}} {
		if got := w.observed(tc.c); got != tc.want {
			t.Errorf("%s appeared as %s, after nat64d was killed as %s", tc.c.LocalAddr(), tc.want, got)
		}
	}
}

// The device follows the MTU of the IPv4 link.
func TestLocalTrafficFollowsMTU(t *testing.T) {
	t.Parallel()
	w := plain(t, localTraffic)
	for _, mtu := range []int{1500, 1300, 1500} {
		w.must(w.nat64.SetMTU(lab.IPv4Interface, mtu))
		w.eventually("the device follows", 10*time.Second, func() error {
			all, err := w.nat64.Interfaces()
			if err == nil && all["nat64"].MTU != mtu+20 {
				err = fmt.Errorf("MTU %d, want %d", all["nat64"].MTU, mtu+20)
			}
			return err
		})
		p := w.pinger(w.nat64, "ip6", 0)
		a, err := p.Ping(w.ctx, lab.Embed(w.Server()), mtu-28, 0)
		if err != nil || !a.Reply() {
			t.Errorf("ping that fills an MTU of %d: %+v, %v", mtu, a, err)
		}
	}
	if out, err := w.d.Ctl(w.ctx, "set", "mtu.ipv4", "1400"); err != nil {
		t.Fatalf("set: %v: %s", err, out)
	}
	w.eventually("the device follows a setting", 10*time.Second, func() error {
		all, err := w.nat64.Interfaces()
		if err == nil && all["nat64"].MTU != 1420 {
			err = fmt.Errorf("MTU %d, want 1420", all["nat64"].MTU)
		}
		return err
	})
}

// The host's own packets reach several workers through a queue for each.
func TestLocalTrafficOfTwoWorkers(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Queues: 2}, localTraffic, func(c map[string]any) { c["workers"] = map[string]any{"count": 2} })
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	ports := map[netip.AddrPort]bool{}
	for range 40 {
		ports[w.observed(w.dial(w.nat64, "udp6", 0, w.embedded(7)))] = true
	}
	if len(ports) != 40 {
		t.Errorf("40 sockets appear as %d", len(ports))
	}
	web := w.web()
	for range 4 {
		if _, err := traffic.Download(w.ctx, w.nat64, web, 5<<20); err != nil {
			t.Error(err)
		}
	}
}

// What the host sends while nat64d does not look is counted where the queue of
// the device ends, and nothing is lost without a count.
func TestLostPacketsOfTheHost(t *testing.T) {
	t.Parallel()
	w := plain(t, localTraffic)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.nat64, "udp6", 0, w.embedded(7))
	w.observed(c) // neighbours are known, the session is there
	before := w.stats()
	w.must(w.d.Freeze())
	const sent = 3000 // six times what the queue holds
	for range sent {
		if _, err := c.Write(noise(1)); err != nil {
			t.Fatal(err)
		}
	}
	w.must(w.d.Thaw())
	w.eventually("every packet is counted", 10*time.Second, func() error {
		s := w.stats()
		received := s.RX.IPv6.Packets - before.RX.IPv6.Packets
		if s.TUN.Lost == 0 || received == 0 || s.TUN.Lost+received != sent {
			return fmt.Errorf("%d lost and %d received of %d", s.TUN.Lost, received, sent)
		}
		return nil
	})
	if n := w.stats().TUN.Errors; n != 0 {
		t.Errorf("%d errors", n)
	}
}
