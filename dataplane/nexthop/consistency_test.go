package nexthop

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestEventsTellWhatDumpsTell does random things to a few routes, and wants
// the view that was put together from events to be the one that the kernel's
// own listing gives: what an event means for routes of equal metric, appended,
// replaced or joined into multipath routes, is written down nowhere.
func TestEventsTellWhatDumpsTell(t *testing.T) {
	l := newLab(t, Config{})
	for i := 3; i <= 5; i++ { // gateways that fail would leave their groups
		l.addr(l.hosts, l.peer4, fmt.Sprintf("192.0.2.%d/24", i))
		l.addr(l.hosts, l.peer6, fmt.Sprintf("2001:db8:6::%d/64", i))
	}
	index := l.six.Attrs().Index
	index4 := l.four.Attrs().Index
	rnd := rand.New(rand.NewPCG(1, 2))
	var log []string
	var differ string
	defer func() {
		if t.Failed() {
			t.Log(differ)
		}
	}()
	for step := range 1500 {
		r, op := randomRoute(rnd, index, index4)
		var err error
		switch op {
		case "add":
			err = l.router.RouteAdd(r)
		case "append":
			err = l.router.RouteAppend(r)
		case "replace":
			err = l.router.RouteReplace(r)
		case "delete":
			err = l.router.RouteDel(r)
		}
		if err == nil { // the kernel refuses much of it
			log = append(log, fmt.Sprintf("%s %v metric %d gw %v type %d multipath %v", op, r.Dst, r.Priority, r.Gw, r.Type, r.MultiPath))
		}
		if step%50 != 49 {
			continue
		}
		want := l.freshView()
		l.wait("what the kernel lists", func(s *Snapshot) bool {
			if got := view(s); got != want {
				differ = fmt.Sprintf("from events:\n%s\nfrom a dump:\n%s\nafter %s", got, want, strings.Join(log[max(0, len(log)-60):], "\n"))
				return false
			}
			return true
		})
	}
	if len(log) < 300 {
		t.Errorf("the kernel took only %d of the changes", len(log))
	}
}

// freshView is the view of a table that was opened just now.
func (l *lab) freshView() string {
	l.t.Helper()
	m, err := prepare(Config{IPv6Index: l.six.Attrs().Index, IPv4Index: l.four.Attrs().Index})
	must(l.t, err)
	defer func() { must(l.t, m.k.close()) }()
	return view(m.table.Load())
}

// view writes down where the test's prefixes lead: to which gateways.
func view(s *Snapshot) string {
	var out strings.Builder
	for i := range testPrefixes {
		for _, dst := range []string{fmt.Sprintf("198.51.%d.1", 100+i), fmt.Sprintf("2001:db8:%d::1", 100+i)} {
			v, _ := s.prefixes.Lookup(netip.MustParseAddr(dst))
			var ways []string
			if v&groupFlag != 0 {
				for _, m := range s.groups[v&indexMask] {
					h := s.Hops[m.value&indexMask]
					ways = append(ways, fmt.Sprint(h.Via, h.MTU))
				}
			} else {
				h := s.Hops[v&indexMask]
				state := h.State
				if state == Resolved {
					state = Unresolved
				}
				ways = []string{fmt.Sprint(h.Via, h.MTU, state)}
			}
			slices.Sort(ways)
			fmt.Fprintln(&out, dst, ways)
		}
	}
	return out.String()
}

const testPrefixes = 2

// randomRoute draws from so few values that routes meet all the time. IPv6
// routes without a gateway get metrics of their own: when one of them lies
// between the next hops of a multipath route, the kernel's dump jumps over it
// (fib6_dump_node), so that there is nothing to compare with.
func randomRoute(rnd *rand.Rand, index6, index4 int) (*netlink.Route, string) {
	n := 100 + rnd.IntN(testPrefixes)
	r := &netlink.Route{Dst: ipnet(fmt.Sprintf("198.51.%d.0/24", n)), LinkIndex: index4, Priority: 10 * (1 + rnd.IntN(2))}
	gateway := func() net.IP { return net.IPv4(192, 0, 2, byte(2+rnd.IntN(4))) }
	if rnd.IntN(2) == 0 {
		r.Dst, r.LinkIndex = ipnet(fmt.Sprintf("2001:db8:%d::/48", n)), index6
		gateway = func() net.IP { return net.ParseIP(fmt.Sprintf("2001:db8:6::%d", 2+rnd.IntN(4))) }
	}
	switch rnd.IntN(8) {
	case 0: // on link
		if r.LinkIndex == index6 {
			r.Priority += 20
		}
	case 1:
		if r.LinkIndex == index6 {
			r.Priority += 40
		}
		r.Type, r.LinkIndex = unix.RTN_BLACKHOLE, 0
	case 2, 3:
		link := r.LinkIndex
		r.LinkIndex = 0
		for range 2 + rnd.IntN(2) {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: link, Gw: gateway(), Hops: rnd.IntN(2)})
		}
	default:
		r.Gw = gateway()
		if r.LinkIndex == index4 && rnd.IntN(4) == 0 { // each IPv6 next hop has its own, but only one is told
			r.MTU = 1300
		}
	}
	return r, []string{"add", "append", "replace", "delete"}[rnd.IntN(4)]
}
