package e2e

import (
	"net/netip"
	"testing"

	"handoff64/tools/lab"
)

// What is the nat64 host's own stays with its kernel: connections to the box
// in both families, on its own address and on the pool's outside the NAT
// ports, ping, ARP and neighbour discovery.
func TestHostStaysReachable(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.echoTCP(w.nat64, "[::]:22") // both families
	own6 := w.Address("nat64", lab.IPv6Interface)
	check := func(when string) {
		t.Helper()
		for _, tc := range []struct {
			from lab.Host
			to   netip.Addr
		}{
			{w.client, own6},
			{w.server, lab.Nat64IPv4},
			{w.server, lab.Pool4},
		} {
			c, err := dialFrom(w.ctx, tc.from, "tcp", 0, netip.AddrPortFrom(tc.to, 22).String())
			if err != nil {
				t.Errorf("%s: %v", when, err)
				continue
			}
			if err := say(w.ctx, c, "login: "+when); err != nil {
				t.Errorf("%s: %s to %s: %v", when, tc.from.Name, tc.to, err)
			}
			c.Close()
		}
		six, four := w.pinger(w.client, "ip6", 0), w.pinger(w.server, "ip4", 0)
		// A reply with the full hop limit comes from the box itself.
		if a, err := six.Ping(w.ctx, own6, 56, 0); err != nil || !a.Reply() || a.HopLimit != 64 {
			t.Errorf("%s: ping over IPv6: %+v, %v", when, a, err)
		}
		for _, to := range []netip.Addr{lab.Nat64IPv4, lab.Pool4} {
			if a, err := four.Ping(w.ctx, to, 56, 0); err != nil || !a.Reply() || a.HopLimit != 64 {
				t.Errorf("%s: ping to %s: %+v, %v", when, to, a, err)
			}
		}
	}
	check("at first")
	// Everybody has to ask for everybody's MAC address again.
	w.must(w.client.FlushNeighbours("eth0"))
	w.must(w.server.FlushNeighbours("eth0"))
	w.must(w.nat64.FlushNeighbours(lab.IPv6Interface))
	w.must(w.nat64.FlushNeighbours(lab.IPv4Interface))
	check("after all neighbours were forgotten")

	// And the box reaches out: its own connections come back to it.
	w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.nat64, "tcp", 0, netip.AddrPortFrom(w.Server(), 7).String())
	w.must(say(w.ctx, c, "from the box itself"))
	if s := w.stats(); s.Translated.V6ToV4+s.Translated.V4ToV6 != 0 {
		t.Errorf("the box's own traffic was translated: %+v", s.Translated)
	}
}

// The first packet of a client to a next hop that the kernel has to look for
// is not lost.
func TestFirstPacketWaitsForTheNextHop(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.must(w.nat64.FlushNeighbours(lab.IPv4Interface))
	w.must(w.nat64.FlushNeighbours(lab.IPv6Interface))
	w.must(w.server.FlushNeighbours("eth0"))
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	if _, err := askOnce(c); err != nil {
		t.Errorf("the only datagram: %v; drops: %v", err, reasons(w.stats()))
	}
}
