package nexthop

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The network of the namespace tests:
//
//	  namespace "router"                    namespace "hosts"
//	six   2001:db8:6::1/64  ───veth───  peer6  2001:db8:6::2/64, fe80::2
//	four  192.0.2.1/24      ───veth───  peer4  192.0.2.2/24
//
// The Table runs in "router".
type lab struct {
	t             *testing.T
	router, hosts *netlink.Handle
	six, four     netlink.Link
	peer6, peer4  netlink.Link
	table         *Table
}

const waitLimit = 30 * time.Second // of conditions; a machine under load is slow, not wrong

func newLab(t *testing.T, config Config) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	t.Parallel() // they mostly wait
	l := &lab{t: t}
	// The thread stays locked and dies with the test's goroutine: it is in a
	// namespace that no other test may find itself in.
	runtime.LockOSThread()
	hosts, err := netns.New()
	must(t, err)
	defer hosts.Close()
	noDAD(t)
	l.hosts, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(l.hosts.Close)
	_, err = netns.New()
	must(t, err)
	noDAD(t)
	l.router, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(l.router.Close)

	l.six, l.peer6 = l.veth("six", "peer6", hosts)
	l.four, l.peer4 = l.veth("four", "peer4", hosts)
	l.addr(l.router, l.six, "2001:db8:6::1/64")
	l.addr(l.hosts, l.peer6, "2001:db8:6::2/64")
	l.addr(l.hosts, l.peer6, "fe80::2/64")
	l.addr(l.router, l.four, "192.0.2.1/24")
	l.addr(l.hosts, l.peer4, "192.0.2.2/24")

	config.IPv6Index, config.IPv4Index = l.six.Attrs().Index, l.four.Attrs().Index
	config.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	l.table, err = Open(config)
	must(t, err)
	t.Cleanup(func() {
		if err := l.table.Close(); err != nil {
			t.Error(err)
		}
	})
	// The kernel installs an IPv6 address's own route from a work queue.
	l.waitHop("2001:db8:6::1", "local", func(h *Hop) bool { return h.State == Local })
	return l
}

// noDAD has link-local addresses be usable at once, not after a second of
// duplicate address detection, in the namespace of the calling thread.
func noDAD(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// veth makes a pair whose second end is in another namespace, both up.
func (l *lab) veth(name, peer string, ns netns.NsHandle) (netlink.Link, netlink.Link) {
	l.t.Helper()
	must(l.t, l.router.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(ns),
	}))
	a, err := l.router.LinkByName(name)
	must(l.t, err)
	b, err := l.hosts.LinkByName(peer)
	must(l.t, err)
	must(l.t, l.router.LinkSetUp(a))
	must(l.t, l.hosts.LinkSetUp(b))
	return a, b
}

func (l *lab) addr(h *netlink.Handle, link netlink.Link, address string) {
	l.t.Helper()
	a, err := netlink.ParseAddr(address)
	must(l.t, err)
	a.Flags = unix.IFA_F_NODAD
	must(l.t, h.AddrAdd(link, a))
}

func (l *lab) route(dst string, via string, link netlink.Link) *netlink.Route {
	r := &netlink.Route{Dst: ipnet(dst), Gw: net.ParseIP(via)}
	if link != nil {
		r.LinkIndex = link.Attrs().Index
	}
	return r
}

func ipnet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// wait waits until a snapshot has what is wanted.
func (l *lab) wait(what string, ok func(s *Snapshot) bool) *Snapshot {
	l.t.Helper()
	return waitFor(l.t, l.table, what, ok)
}

func waitFor(t *testing.T, table *Table, what string, ok func(s *Snapshot) bool) *Snapshot {
	t.Helper()
	for end := time.Now().Add(waitLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if s := table.Load(); ok(s) {
			return s
		}
	}
	t.Fatalf("never saw: %s", what)
	return nil
}

func (l *lab) waitHop(dst, what string, ok func(h *Hop) bool) *Hop {
	l.t.Helper()
	_, h := find(l.wait(dst+": "+what, func(s *Snapshot) bool {
		_, h := find(s, dst)
		return ok(h)
	}), dst)
	return h
}

func (l *lab) ask(dst string) {
	a := netip.MustParseAddr(dst)
	if a.Is4() {
		l.table.Ask(IPv4, 0, uint64(as4(a)))
		return
	}
	hi, lo := as6(a)
	l.table.Ask(IPv6, hi, lo)
}

// askUntilResolved asks as workers do: for as long as packets come.
func (l *lab) askUntilResolved(dst string) *Hop {
	l.t.Helper()
	return l.waitHop(dst, "resolved", func(h *Hop) bool {
		if !resolved(h) {
			l.ask(dst)
		}
		return resolved(h)
	})
}

// macOf reads the current address of an interface.
func (l *lab) macOf(h *netlink.Handle, link netlink.Link) [6]byte {
	l.t.Helper()
	fresh, err := h.LinkByIndex(link.Attrs().Index)
	must(l.t, err)
	return [6]byte(fresh.Attrs().HardwareAddr)
}

func resolved(h *Hop) bool { return h.State == Resolved }

func TestOpenRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	runtime.LockOSThread()
	_, err := netns.New()
	must(t, err)
	table, err := Open(Config{IPv6Index: 4711, IPv4Index: 4712})
	if err == nil {
		t.Fatal("opened a table for interfaces that do not exist", table.Close())
	}
}

func TestGatewayAndHosts(t *testing.T) {
	l := newLab(t, Config{})
	s := l.table.Load()
	if s.IPv6.Name != "six" || s.IPv4.Name != "four" || s.IPv4.Addr4 != 0xc0000201 || s.IPv6.Addr6Hi != 0x20010db800060000 ||
		s.IPv6.MAC != l.macOf(l.router, l.six) || s.IPv4.MTU != 1500 || !s.IPv6.Up {
		t.Errorf("links %+v, %+v", s.IPv6, s.IPv4)
	}
	for _, c := range []struct {
		dst   string
		state State
	}{
		{"8.8.8.8", NoRoute}, {"2001:db8:7::1", NoRoute}, {"192.0.2.77", Connected}, {"2001:db8:6::77", Connected},
		{"192.0.2.1", Local}, {"2001:db8:6::1", Local}, {"192.0.2.255", Blackhole}, {"ff02::1", Blackhole},
	} {
		if _, h := find(s, c.dst); h.State != c.state {
			t.Errorf("%s: %v, want %v", c.dst, h.State, c.state)
		}
	}

	// On-link hosts are resolved when asked for.
	for dst, peer := range map[string]netlink.Link{"192.0.2.2": l.peer4, "2001:db8:6::2": l.peer6} {
		h := l.askUntilResolved(dst)
		if mac := l.macOf(l.hosts, peer); [6]byte(h.Eth[:6]) != mac {
			t.Errorf("%s: destination %x, want %x", dst, h.Eth[:6], mac)
		}
	}

	// Gateways are resolved as soon as a route leads there.
	must(t, l.router.RouteAdd(l.route("0.0.0.0/0", "192.0.2.2", nil)))
	must(t, l.router.RouteAdd(l.route("::/0", "fe80::2", l.six)))
	for dst, link := range map[string]netlink.Link{"8.8.8.8": l.four, "2001:db8:7::1": l.six} {
		h := l.waitHop(dst, "resolved", resolved)
		if mac := l.macOf(l.router, link); [6]byte(h.Eth[6:]) != mac || h.MTU != 1500 {
			t.Errorf("%s: hop %+v, want source %x and MTU 1500", dst, *h, mac)
		}
	}
}

func TestUnreachableNeighbour(t *testing.T) {
	l := newLab(t, Config{})
	for _, dst := range []string{"192.0.2.66", "2001:db8:6::66"} {
		l.ask(dst)
	}
	for _, dst := range []string{"192.0.2.66", "2001:db8:6::66"} {
		l.waitHop(dst, "unresolved, on its way", func(h *Hop) bool { return h.State == Unresolved })
		l.waitHop(dst, "failed", func(h *Hop) bool { return h.State == Unresolved && h.Failed })
	}
	// It comes up later, and is found by asking again.
	l.addr(l.hosts, l.peer4, "192.0.2.66/24")
	l.askUntilResolved("192.0.2.66")
}

// setMAC changes a peer's address without anybody being told.
func (l *lab) setMAC(peer netlink.Link, mac [6]byte) {
	l.t.Helper()
	must(l.t, l.hosts.LinkSetHardwareAddr(peer, mac[:]))
}

func TestSilentMACChange(t *testing.T) {
	l := newLab(t, Config{round: 300 * time.Millisecond})
	must(t, l.router.RouteAdd(l.route("0.0.0.0/0", "192.0.2.2", nil)))
	must(t, l.router.RouteAdd(l.route("::/0", "2001:db8:6::2", nil)))
	for dst, peer := range map[string]netlink.Link{"8.8.8.8": l.peer4, "2001:db8:7::1": l.peer6} {
		l.waitHop(dst, "resolved", resolved)
		i, _ := find(l.table.Load(), dst)
		fresh := [6]byte{2, 0x77, 0, 0, 0, byte(peer.Attrs().Index)}
		l.setMAC(peer, fresh)
		s := l.wait(dst+": the new address", func(s *Snapshot) bool {
			_, h := find(s, dst)
			h.MarkUsed() // traffic goes on
			return h.State == Resolved && [6]byte(h.Eth[:6]) == fresh
		})
		if now, _ := find(s, dst); now != i {
			t.Errorf("%s: index %d, was %d", dst, now, i)
		}
	}
}

func TestRoutesFollowed(t *testing.T) {
	l := newLab(t, Config{})
	via := func(addr string) func(*Hop) bool {
		return func(h *Hop) bool { return h.Via == netip.MustParseAddr(addr) }
	}
	state := func(want State) func(*Hop) bool { return func(h *Hop) bool { return h.State == want } }
	for _, c := range []struct{ dst, prefix, gw1, gw2 string }{
		{"198.51.100.1", "198.51.100.0/24", "192.0.2.2", "192.0.2.3"},
		{"2001:db8:7::1", "2001:db8:7::/48", "2001:db8:6::2", "2001:db8:6::3"},
	} {
		r := l.route(c.prefix, c.gw1, nil)
		r.Priority = 50
		must(t, l.router.RouteAdd(r))
		l.waitHop(c.dst, "added", via(c.gw1))
		r.MTU = 1311
		must(t, l.router.RouteReplace(r))
		l.waitHop(c.dst, "mtu metric", func(h *Hop) bool { return h.MTU == 1311 })
		r.Gw, r.MTU = net.ParseIP(c.gw2), 0
		must(t, l.router.RouteReplace(r))
		l.waitHop(c.dst, "changed", via(c.gw2))
		better := l.route(c.prefix, c.gw1, nil)
		better.Priority = 10
		must(t, l.router.RouteAdd(better))
		l.waitHop(c.dst, "lower metric", via(c.gw1))
		must(t, l.router.RouteDel(better))
		l.waitHop(c.dst, "higher metric again", via(c.gw2))
		must(t, l.router.RouteDel(r))
		l.waitHop(c.dst, "deleted", state(NoRoute))
		for kind, want := range map[int]State{
			unix.RTN_BLACKHOLE: Blackhole, unix.RTN_PROHIBIT: Prohibit, unix.RTN_UNREACHABLE: Unreachable, unix.RTN_THROW: NoRoute,
		} {
			special := &netlink.Route{Dst: ipnet(c.prefix), Type: kind}
			must(t, l.router.RouteAdd(special))
			l.waitHop(c.dst, want.String(), state(want))
			must(t, l.router.RouteDel(special))
			l.waitHop(c.dst, "gone", state(NoRoute))
		}
		lo, err := l.router.LinkByName("lo")
		must(t, err)
		must(t, l.router.LinkSetUp(lo))
		elsewhere := &netlink.Route{Dst: ipnet(c.prefix), LinkIndex: lo.Attrs().Index}
		must(t, l.router.RouteAdd(elsewhere))
		l.waitHop(c.dst, "elsewhere", state(Elsewhere))
	}
}

func TestLinkDownAndUp(t *testing.T) {
	l := newLab(t, Config{})
	must(t, l.router.RouteAdd(l.route("198.51.100.0/24", "192.0.2.2", nil)))
	l.waitHop("198.51.100.1", "resolved", resolved)
	must(t, l.router.LinkSetDown(l.four))
	l.wait("no route, link down", func(s *Snapshot) bool {
		_, far := find(s, "198.51.100.1")
		_, near := find(s, "192.0.2.2")
		return far.State == NoRoute && near.State == NoRoute && !s.IPv4.Up
	})
	must(t, l.router.LinkSetUp(l.four))
	must(t, l.router.RouteAdd(l.route("198.51.100.0/24", "192.0.2.2", nil)))
	l.wait("everything back", func(s *Snapshot) bool {
		_, h := find(s, "198.51.100.1")
		return resolved(h) && s.IPv4.Up
	})
	must(t, l.hosts.LinkSetDown(l.peer4))
	l.wait("no carrier", func(s *Snapshot) bool { return !s.IPv4.Up })
}

// An interface that is taken away is gone, not just down.
func TestLinkVanishes(t *testing.T) {
	l := newLab(t, Config{})
	must(t, l.router.LinkSetDown(l.four))
	l.wait("the link is down", func(s *Snapshot) bool { return !s.IPv4.Up })
	if s := l.table.Load(); s.IPv4.Gone || s.IPv6.Gone {
		t.Errorf("gone before it is: IPv4 %+v, IPv6 %+v", s.IPv4, s.IPv6)
	}
	must(t, l.router.LinkDel(l.four))
	l.wait("the link is gone", func(s *Snapshot) bool { return s.IPv4.Gone && !s.IPv6.Gone })
}

func TestLinkAndAddressChanges(t *testing.T) {
	l := newLab(t, Config{})
	must(t, l.router.RouteAdd(l.route("::/0", "fe80::2", l.six)))
	l.waitHop("2001:db8:7::1", "resolved", resolved)
	must(t, l.router.LinkSetMTU(l.six, 1350))
	l.wait("MTU", func(s *Snapshot) bool {
		_, h := find(s, "2001:db8:7::1")
		return s.IPv6.MTU == 1350 && h.MTU == 1350
	})
	fresh := [6]byte{2, 0x88, 0, 0, 0, 1}
	must(t, l.router.LinkSetHardwareAddr(l.six, fresh[:]))
	l.wait("own MAC address", func(s *Snapshot) bool {
		_, h := find(s, "2001:db8:7::1")
		return s.IPv6.MAC == fresh && resolved(h) && [6]byte(h.Eth[6:]) == fresh
	})
	l.addr(l.router, l.four, "203.0.113.1/24")
	l.waitHop("203.0.113.1", "local", func(h *Hop) bool { return h.State == Local })
	a, err := netlink.ParseAddr("192.0.2.1/24")
	must(t, err)
	must(t, l.router.AddrDel(l.four, a))
	l.wait("the other address", func(s *Snapshot) bool {
		_, h := find(s, "192.0.2.1")
		return s.IPv4.Addr4 == 0xcb007101 && h.State == NoRoute
	})
}

// TestRouteBurst: 10,000 routes while the table listens and a worker works.
func TestRouteBurst(t *testing.T) {
	l := newLab(t, Config{round: 10 * time.Millisecond})
	done := make(chan struct{})
	var worker sync.WaitGroup
	defer worker.Wait()
	defer close(done)
	worker.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			s := l.table.Load()
			h := s.Hops[s.Lookup4(burstDst(i%burst))]
			h.MarkUsed()
			if h.State == Unresolved {
				l.table.Ask(IPv4, 0, uint64(burstDst(i%burst)))
			}
			l.table.Ask(IPv4, 0, uint64(0xc0000200+i%256))
		}
	})
	l.addBurst()
	l.wait("all routes", func(s *Snapshot) bool { return burstFound(s) == burst })
	must(t, l.router.LinkSetDown(l.four)) // of which the kernel says nothing
	l.wait("no route", func(s *Snapshot) bool { return burstFound(s) == 0 })
}

// TestOverrun: 10,000 routes and a neighbour while nobody listens, and a
// buffer that holds but a few of them.
func TestOverrun(t *testing.T) {
	l := newLab(t, Config{})
	m, err := prepare(Config{IPv6Index: l.six.Attrs().Index, IPv4Index: l.four.Attrs().Index, buffer: 4096})
	must(t, err)
	l.addBurst()
	for i := range 200 {
		must(t, l.router.NeighSet(&netlink.Neigh{
			LinkIndex: l.four.Attrs().Index, IP: net.IPv4(192, 0, 2, byte(10+i)), State: netlink.NUD_PERMANENT,
			HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 1, byte(i)},
		}))
	}
	m.launch()
	defer func() { must(t, m.table.Close()) }()
	waitFor(t, m.table, "all routes and the last neighbour", func(s *Snapshot) bool {
		_, last := find(s, "192.0.2.209")
		return burstFound(s) == burst && resolved(last)
	})
}

const burst = 10_000

func burstDst(i int) uint32 { return 10<<24 | uint32(i)<<8 | 1 }

func (l *lab) addBurst() {
	l.t.Helper()
	for i := range burst {
		prefix := netip.PrefixFrom(addr4(burstDst(i)), 24).Masked()
		must(l.t, l.router.RouteAdd(l.route(prefix.String(), "192.0.2.2", nil)))
	}
}

func burstFound(s *Snapshot) (n int) {
	for i := range burst {
		if s.Hops[s.Lookup4(burstDst(i))].Via == addr4(0xc0000202) {
			n++
		}
	}
	return n
}

func TestMultipath(t *testing.T) {
	l := newLab(t, Config{round: 300 * time.Millisecond})
	l.addr(l.hosts, l.peer6, "2001:db8:6::3/64")
	r := &netlink.Route{Dst: ipnet("2001:db8:7::/48"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: l.six.Attrs().Index, Gw: net.ParseIP("2001:db8:6::2")},
		{LinkIndex: l.six.Attrs().Index, Gw: net.ParseIP("2001:db8:6::3")},
	}}
	must(t, l.router.RouteAdd(r))
	shares := func(s *Snapshot) map[string]int {
		n := make(map[string]int)
		for i := range uint64(1000) {
			h := s.Hops[s.Lookup6(0x20010db800070000, i)]
			n[h.Via.String()+" "+h.State.String()]++
		}
		return n
	}
	s := l.wait("both resolved", func(s *Snapshot) bool {
		n := shares(s)
		return n["2001:db8:6::2 resolved"]+n["2001:db8:6::3 resolved"] == 1000
	})
	if n := shares(s); n["2001:db8:6::2 resolved"] < 400 || n["2001:db8:6::3 resolved"] < 400 {
		t.Errorf("1000 destinations spread as %v", n)
	}
	// One gateway dies, though the route stays: its traffic goes to the other.
	gone, err := netlink.ParseAddr("2001:db8:6::3/64")
	must(t, err)
	must(t, l.hosts.AddrDel(l.peer6, gone))
	l.wait("all through the one that is left", func(s *Snapshot) bool {
		for _, h := range s.Hops {
			h.MarkUsed()
		}
		return shares(s)["2001:db8:6::2 resolved"] == 1000
	})
	l.addr(l.hosts, l.peer6, "2001:db8:6::3/64")
	l.wait("both again", func(s *Snapshot) bool { return shares(s)["2001:db8:6::3 resolved"] > 400 })
}

// TestNeighboursThatNeedNoAnswer: entries set by hand, and a link without ARP,
// about which the kernel sends no news.
func TestNeighboursThatNeedNoAnswer(t *testing.T) {
	l := newLab(t, Config{})
	must(t, l.router.NeighSet(&netlink.Neigh{
		LinkIndex: l.six.Attrs().Index, IP: net.ParseIP("2001:db8:6::55"), State: netlink.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr{2, 0x55, 0, 0, 0, 1},
	}))
	h := l.waitHop("2001:db8:6::55", "set by hand", resolved)
	if [6]byte(h.Eth[:6]) != [6]byte{2, 0x55, 0, 0, 0, 1} {
		t.Errorf("hop %+v", *h)
	}
	must(t, l.router.LinkSetARPOff(l.four))
	l.askUntilResolved("192.0.2.66") // which does not exist
}

// TestOneInterface: NAT64 on a stick.
func TestOneInterface(t *testing.T) {
	l := newLab(t, Config{})
	l.addr(l.router, l.six, "203.0.113.1/24")
	l.addr(l.hosts, l.peer6, "203.0.113.2/24")
	index := l.six.Attrs().Index
	table, err := Open(Config{IPv6Index: index, IPv4Index: index})
	must(t, err)
	defer func() { must(t, table.Close()) }()
	hi, lo := as6(netip.MustParseAddr("2001:db8:6::2"))
	s := waitFor(t, table, "both families resolved", func(s *Snapshot) bool {
		table.Ask(IPv4, 0, 0xcb007102)
		table.Ask(IPv6, hi, lo)
		_, h4 := find(s, "203.0.113.2")
		_, h6 := find(s, "2001:db8:6::2")
		return resolved(h4) && resolved(h6) && h4.Eth == h6.Eth
	})
	if s.IPv4.Addr4 != 0xcb007101 || s.IPv6.Name != "six" || s.IPv4.Name != "six" {
		t.Errorf("links %+v, %+v", s.IPv6, s.IPv4)
	}
}

func TestCloseTwice(t *testing.T) {
	l := newLab(t, Config{})
	if err := errors.Join(l.table.Close(), l.table.Close()); err != nil {
		t.Error(err)
	}
}
