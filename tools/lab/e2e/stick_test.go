package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// onAStick puts the server behind the router that the clients have: the NAT64
// has one interface, r6 forwards both families.
//
//	client ── r6 ══ nat64      server ── r4 ── (a veth pair of its own) ── r6
func onAStick(w *world) {
	w.t.Helper()
	w.points = map[string]string{"r6": "nat64"}
	between := netlink.NewVeth(netlink.LinkAttrs{Name: "r4", TxQLen: -1})
	between.PeerName = "r6"
	far, err := netns.GetFromPath(w.Host("r4").Path())
	w.must(err)
	defer far.Close()
	between.PeerNamespace = netlink.NsFd(far)
	w.must(w.Host("r6").Enter(func() error { return netlink.LinkAdd(between) }))
	w.must(w.nat64.SetLink(lab.IPv4Interface, false))
	w.addresses("nat64", lab.IPv6Interface, "192.0.2.1/24")
	w.addresses("r6", "nat64", "192.0.2.254/24")
	w.addresses("r6", "r4", "10.0.0.1/24")
	w.addresses("r4", "r6", "10.0.0.2/24")
	w.must(w.Host("r4").SetLink("nat64", false))
	w.must(w.Host("r6").SetSysctl("ipv4/ip_forward", "1"))
	w.route("nat64", "", lab.R4IPv4.String()) // the same address, now r6's
	w.route("r4", "", "10.0.0.1")
	w.route("r6", "198.51.100.0/24", "10.0.0.2")
}

// addresses gives an interface some and sets it up, without offloads.
func (w *world) addresses(host, ifname string, prefixes ...string) {
	w.t.Helper()
	for _, p := range prefixes {
		w.must(w.Host(host).AddAddress(ifname, netip.MustParsePrefix(p)))
	}
	w.must(w.Host(host).DisableOffloads(ifname))
	w.must(w.Host(host).SetLink(ifname, true))
}

// route replaces a route of a host; to is a prefix, or nothing for the default.
func (w *world) route(host, to, via string) {
	w.t.Helper()
	gw := net.ParseIP(via)
	r := &netlink.Route{Gw: gw, Family: netlink.FAMILY_V6, Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	if gw.To4() != nil {
		r.Family, r.Dst = netlink.FAMILY_V4, &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	if to != "" {
		_, dst, err := net.ParseCIDR(to)
		w.must(err)
		r.Dst = dst
	}
	w.must(w.Host(host).Enter(func() error { return netlink.RouteReplace(r) }))
}

func oneInterface(name string) func(map[string]any) {
	return func(c map[string]any) { c["ipv6_interface"], c["ipv4_interface"] = name, name }
}

// Both sides are one interface. Everything works as with two: each protocol,
// both directions, the path MTU of a link behind it, the box's own traffic.
func TestOneInterface(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			needRoot(t)
			w := arranged(t, lab.Options{Routers: true, MTU4: 1400, FullMSS: true}, onAStick, oneInterface(lab.IPv6Interface), xdpMode(mode),
				static("tcp", 8080, 8080))
			w.everyProtocol()
			seen := w.watch("client")
			_, err := traffic.Upload(w.ctx, w.client, w.web(), 20<<20)
			w.must(err)
			if got := seen(tooBig6); len(got) == 0 || got[0] != 1420 {
				t.Errorf("MTUs in the Packet Too Bigs that the client got: %v, want 1420", got)
			}
			w.echoTCP(w.client, "[::]:8080")
			c := w.dial(w.server, "tcp", 0, netip.AddrPortFrom(lab.Pool4, 8080).String())
			w.must(say(w.ctx, c, "from the IPv4 side"))
			s := w.stats()
			if s.RX.IPv6.Packets == 0 || s.RX.IPv4.Packets == 0 || s.Translated.V6ToV4 == 0 || s.Translated.V4ToV6 == 0 {
				t.Errorf("received %+v, translated %+v", s.RX, s.Translated)
			}
		})
	}
}

func xdpMode(mode string) func(map[string]any) {
	return func(c map[string]any) { c["xdp"] = map[string]any{"mode": mode} }
}

// everyProtocol: ping, UDP of many sizes, TCP both ways.
func (w *world) everyProtocol() {
	w.t.Helper()
	p := w.pinger(w.client, "ip6", 0)
	for _, size := range []int{0, 56, 1000, 1300} {
		a, err := p.Ping(w.ctx, lab.Embed(w.Server()), size, 0)
		if err != nil || !a.Reply() {
			w.t.Errorf("ping with %d octets: %+v, %v", size, a, err)
		}
	}
	server := netip.AddrPortFrom(w.Server(), 7).String()
	w.echoUDP(w.server, "udp4", server)
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	for n := 0; n <= 1300; n += 100 {
		w.must(traffic.Exchange(c, noise(n)))
	}
	w.echoTCP(w.server, server)
	stream := w.dial(w.client, "tcp", 0, w.embedded(7))
	w.must(say(w.ctx, stream, "over TCP"))
}

// Sessions that open on any queue, from either side, and answers that arrive on
// another (beside TestQueuesAndWorkers, whose flows all come from clients).
func TestSessionsFromBothSidesOverQueues(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, tc := range []struct{ queues, workers int }{{2, 1}, {2, 2}, {4, 2}, {4, 4}} {
		t.Run(fmt.Sprintf("queues=%d,workers=%d", tc.queues, tc.workers), func(t *testing.T) {
			w := build(t, lab.Options{Queues: tc.queues}, static("udp", 5353, 5353), static("tcp", 8080, 8080),
				func(c map[string]any) { c["workers"] = map[string]any{"count": tc.workers} })
			st, err := w.d.Status(w.ctx)
			w.must(err)
			if len(st.Workers) != tc.workers || st.Interfaces["ipv6"].Queues != tc.queues || st.Interfaces["ipv4"].Queues != tc.queues {
				t.Errorf("%d workers, want %d; interfaces %+v", len(st.Workers), tc.workers, st.Interfaces)
			}
			w.manyFlows(60)
		})
	}
}

// manyFlows opens so many flows from either side, over UDP and TCP.
func (w *world) manyFlows(n int) {
	w.t.Helper()
	server := netip.AddrPortFrom(w.Server(), 7).String()
	w.observer(w.server, server)
	w.echoTCP(w.server, server)
	w.echoUDP(w.client, "udp6", "[::]:5353")
	w.echoTCP(w.client, "[::]:8080")
	seen := map[netip.AddrPort]bool{}
	for range n {
		c := w.dial(w.client, "udp", 0, w.embedded(7))
		first := w.observed(c)
		if again := w.observed(c); again != first || seen[first] {
			w.t.Errorf("%s appears as %s, then as %s; taken before: %v", c.LocalAddr(), first, again, seen[first])
		}
		seen[first] = true
		w.must(say(w.ctx, w.dial(w.client, "tcp", 0, w.embedded(7)), "from the client"))
		w.must(traffic.Exchange(w.dial(w.server, "udp4", 0, netip.AddrPortFrom(lab.Pool4, 5353).String()), noise(100)))
		w.must(say(w.ctx, w.dial(w.server, "tcp", 0, netip.AddrPortFrom(lab.Pool4, 8080).String()), "from the server"))
	}
	web := w.web()
	for range 3 {
		_, err := traffic.Download(w.ctx, w.client, web, 1<<20)
		w.must(err)
		_, err = traffic.Upload(w.ctx, w.client, web, 1<<20)
		w.must(err)
	}
}
