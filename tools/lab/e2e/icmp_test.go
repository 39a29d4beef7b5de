package e2e

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// pinger opens an ICMP socket for the length of the test.
func (w *world) pinger(h lab.Host, network string, id int) *traffic.Pinger {
	w.t.Helper()
	p, err := traffic.NewPinger(h, network, id)
	w.must(err)
	w.t.Cleanup(func() { p.Close() })
	return p
}

// Linux sends echo replies without DF, so those that exceed 1280 octets as
// IPv6 arrive in fragments (RFC 7915 §4), which the client puts together.
func TestPingEverySize(t *testing.T) {
	t.Parallel()
	w := plain(t)
	p := w.pinger(w.client, "ip6", 0)
	to := lab.Embed(w.Server())
	for size := 0; size <= 1400; size++ {
		a, err := p.Ping(w.ctx, to, size, 0)
		w.must(err)
		if !a.Reply() || a.From != to || a.HopLimit != 63 {
			t.Fatalf("ping with %d octets: %+v", size, a)
		}
	}
}

// expectPath walks to an address and compares the hops.
func (w *world) expectPath(p *traffic.Pinger, to netip.Addr, exceeded icmp.Type, want [][]netip.Addr) {
	w.t.Helper()
	hops := p.Trace(w.ctx, to, len(want)+2)
	if len(hops) != len(want) {
		w.t.Fatalf("path to %s has %d hops, want %d: %+v", to, len(hops), len(want), hops)
	}
	for i, h := range hops {
		last := i == len(hops)-1
		switch {
		case h.Err != nil:
			w.t.Errorf("hop %d: %v", i+1, h.Err)
		case !slices.Contains(want[i], h.From):
			w.t.Errorf("hop %d is %s, want one of %v", i+1, h.From, want[i])
		case last && !h.Reply(), !last && h.Type != exceeded:
			w.t.Errorf("hop %d answers with %v", i+1, h.Type)
		}
	}
}

// A router's ICMPv4 error keeps its own address, inside the prefix.
func TestTimeExceededTowardsIPv4(t *testing.T) {
	t.Parallel()
	w := routed(t)
	w.expectPath(w.pinger(w.client, "ip6", 0), lab.Embed(w.Server()), ipv6.ICMPTypeTimeExceeded, [][]netip.Addr{
		{w.Address("r6", "client")},
		{w.Address("nat64", lab.IPv6Interface)},
		{lab.Embed(lab.R4IPv4)},
		{lab.Embed(w.Server())},
	})
}

// An IPv6 router has no IPv4 address, so its errors come from that of the
// translator (RFC 6791 §3.2), not from the client's.
func TestTimeExceededTowardsIPv6(t *testing.T) {
	t.Parallel()
	w := routed(t, static("icmp", 77, 88))
	own := []netip.Addr{lab.Nat64IPv4}
	w.expectPath(w.pinger(w.server, "ip4", 88), lab.Pool4, ipv4.ICMPTypeTimeExceeded, [][]netip.Addr{
		{w.Address("r4", "server")},
		own, // the translator itself
		own, // r6
		{lab.Pool4},
	})
}

// Neither the client nor nat64d knows the way to an address behind r4 that
// does not exist; r4 says so.
func TestHostUnreachable(t *testing.T) {
	t.Parallel()
	w := routed(t)
	p := w.pinger(w.client, "ip6", 0)
	p.Wait = 10 * time.Second // r4's kernel asks for the address three times first
	a, err := p.Ping(w.ctx, lab.Embed(netip.MustParseAddr("198.51.100.99")), 56, 0)
	w.must(err)
	if a.Type != ipv6.ICMPTypeDestinationUnreachable || a.From != lab.Embed(lab.R4IPv4) {
		t.Errorf("ping to nobody: %+v, want an unreachable from %s", a, lab.Embed(lab.R4IPv4))
	}
}
