package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/cmd/nat64d/control"
	"handoff64/dataplane/fixture"
	"handoff64/tools/lab"
)

// longestWait is what a case may wait in all to be run here. The timers of the
// others have no other clock than the packets' in memory and in replays.
const longestWait = 3 * time.Second

// TestCasesOnWire takes the cases of dataplane/testdata/cases through a real
// nat64d: veth, XDP, AF_XDP.
//
//	client eth0 ── eth6 nat64 eth4 ── eth0 server
//	packet socket                     packet socket
//
// One nat64d serves all cases of a configuration, one after the other. At both
// far ends a packet socket plays the next hop, with a MAC address that is not
// the kernel's there, so that this stays out of it.
func TestCasesOnWire(t *testing.T) {
	t.Parallel()
	needRoot(t)
	all, err := fixture.LoadAll("../../../dataplane/testdata/cases")
	if err != nil {
		t.Fatal(err)
	}
	groups, memory, long := grouped(t, all)
	w := newCaseWire(t)
	run := 0
	for _, config := range slices.Sorted(maps.Keys(groups)) {
		w.start(groups[config][0])
		for _, c := range groups[config] {
			run++
			t.Run(c.Name, func(t *testing.T) { w.run(t, c) })
		}
		w.checkDrops()
	}
	t.Logf("%d cases ran on %d instances of nat64d", run, len(groups))
	t.Logf("%d run in memory and as replays only, because they wait for more than %s: %s", len(long), longestWait, strings.Join(long, ", "))
	t.Logf("%d because of their line \"memory\": %s", len(memory), strings.Join(memory, ", "))
	if run < len(all)/2 {
		t.Errorf("only %d of %d cases ran", run, len(all))
	}
}

// grouped sorts the cases by configuration, and out those that cannot run here.
func grouped(t *testing.T, all []*fixture.Case) (groups map[string][]*fixture.Case, memory, long []string) {
	t.Helper()
	groups = map[string][]*fixture.Case{}
	for _, c := range all {
		waits := time.Duration(0)
		for _, s := range c.Steps {
			waits += s.Wait
		}
		config, err := c.JSON(nil)
		switch {
		case err != nil:
			t.Fatal(err)
		case c.Memory != "":
			memory = append(memory, c.Name)
		case waits > longestWait:
			long = append(long, c.Name)
		default:
			groups[string(config)] = append(groups[string(config)], c)
		}
	}
	return groups, memory, long
}

// caseWire is the network with whatever nat64d runs in it; for one goroutine.
type caseWire struct {
	t      *testing.T
	world  *world
	ends   [2]*wireEnd
	client *control.Client
	drops  map[string]uint64 // that the cases since the start of nat64d have named
}

func newCaseWire(t *testing.T) *caseWire {
	t.Helper()
	l, err := lab.Up(lab.Options{Name: labName(labs.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *testTimeout)
	w := &caseWire{t: t, client: control.NewClient(l.Socket())}
	w.world = &world{Lab: l, t: t, ctx: ctx, d: l.Daemon(built), nat64: l.Host("nat64")}
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("log of nat64d:\n%s", w.world.d.Log())
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		cancel()
	})
	w.ends[fixture.Side6] = w.end("client", lab.IPv6Interface, "2001:db8:1::fe")
	w.ends[fixture.Side4] = w.end("server", lab.IPv4Interface, "192.0.2.254")
	return w
}

// start runs nat64d with the configuration of the case.
func (w *caseWire) start(c *fixture.Case) {
	t := w.t
	t.Helper()
	w.stop()
	more := w.world.DefaultConfig()
	for _, key := range []string{"pool6", "pool4", "handoff"} {
		delete(more, key)
	}
	text, err := c.JSON(more)
	if err != nil {
		t.Fatal(err)
	}
	w.world.d.Config = map[string]any{}
	w.world.must(json.Unmarshal(text, &w.world.d.Config))
	w.world.must(w.world.d.Start(w.world.ctx))
	w.drops = map[string]uint64{}
}

func (w *caseWire) stop() {
	w.t.Helper()
	if w.world.d.Running() {
		w.world.must(w.world.d.Stop())
	}
}

// run takes one case through the nat64d that runs, beginning without sessions.
func (w *caseWire) run(t *testing.T, c *fixture.Case) {
	if err := w.client.Flush(w.world.ctx, false); err != nil {
		t.Fatal(err)
	}
	values := c.NewValues()
	for i := range c.Steps {
		w.step(t, &c.Steps[i], values)
		if t.Failed() {
			break
		}
	}
	for side, e := range w.ends {
		if stray := e.drain(); len(stray) > 0 {
			t.Errorf("nobody expects this on side %s:\n% x", fixture.Side(side), stray[0])
		}
	}
}

// step does what the case says and waits for all that must follow.
func (w *caseWire) step(t *testing.T, s *fixture.Step, values *fixture.Values) {
	t.Helper()
	before := w.counters()
	sent := uint64(0)
	if s.Send == nil {
		time.Sleep(s.Wait)
	} else {
		octets, err := values.Fill(s.Send)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ends[s.Side].send(octets); err != nil {
			t.Fatalf("line %d: %v", s.Line, err)
		}
		sent = 1
	}
	expected := len(s.Expect[0]) + len(s.Expect[1])
	w.settle(t, s, before, sent, uint64(expected))
	for side, want := range s.Expect {
		got, err := w.ends[side].receive(len(want))
		if err != nil {
			t.Errorf("line %d: %v", s.Line, err)
		}
		if err := values.CheckSide(fixture.Side(side), want, got); err != nil {
			t.Errorf("line %d: %v", s.Line, err)
		}
	}
	if err := s.CheckCounts(before, w.counters()); err != nil {
		t.Errorf("line %d: %v", s.Line, err)
	}
	for reason, n := range s.Drops {
		w.drops[reason] += n
	}
}

// settle waits until nat64d has received what was sent and has sent what is
// expected: whatever it sends beside that shows in the counters or in the end.
func (w *caseWire) settle(t *testing.T, s *fixture.Step, before map[string]uint64, sent, expected uint64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		now := w.counters()
		in := now["rx.ipv6.packets"] + now["rx.ipv4.packets"] - before["rx.ipv6.packets"] - before["rx.ipv4.packets"]
		out := now["tx.ipv6.packets"] + now["tx.ipv4.packets"] - before["tx.ipv6.packets"] - before["tx.ipv4.packets"]
		switch {
		case in == sent && out == expected:
			return
		case in > sent || out > expected || time.Now().After(deadline):
			t.Errorf("line %d: nat64d received %d packets, want %d, and sent %d, want %d", s.Line, in, sent, out, expected)
			return
		}
	}
}

func (w *caseWire) counters() map[string]uint64 {
	w.t.Helper()
	stats, err := w.client.Stats(w.world.ctx)
	w.world.must(err)
	flat, err := fixture.Paths(stats)
	w.world.must(err)
	return flat
}

// checkDrops holds `nat64ctl drops` to what all cases since the start named.
func (w *caseWire) checkDrops() {
	w.t.Helper()
	if w.t.Failed() {
		return // what a failing case left out would be missed here again
	}
	out, err := w.world.d.Ctl(w.world.ctx, "--json", "drops")
	w.world.must(err)
	var said struct {
		Drops []struct {
			Name  string
			Count uint64
		}
	}
	w.world.must(json.Unmarshal([]byte(out), &said))
	got := map[string]uint64{}
	for _, row := range said.Drops {
		if row.Count > 0 {
			got[row.Name] = row.Count
		}
	}
	if !maps.Equal(got, w.drops) {
		w.t.Errorf("nat64ctl drops says %v, the cases %v", got, w.drops)
	}
}

// end opens the far end of one of the nat64 host's links, and makes it the next
// hop of everything there.
func (w *caseWire) end(host, ifname, gateway string) *wireEnd {
	t := w.t
	t.Helper()
	via := net.ParseIP(gateway)
	var mac net.HardwareAddr
	everywhere := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	own := &net.IPNet{IP: net.ParseIP("2001:db8:64::1"), Mask: net.CIDRMask(128, 128)} // icmp_source of fixture.Defaults
	if via.To4() != nil {
		everywhere = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
		own = &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)}
	}
	w.world.must(w.world.nat64.Enter(func() error {
		dev, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		mac = dev.Attrs().HardwareAddr
		if err := onlyAddress(dev, own); err != nil {
			return err
		}
		hop := &netlink.Neigh{LinkIndex: dev.Attrs().Index, State: netlink.NUD_PERMANENT, IP: via, HardwareAddr: hopMAC}
		if err := netlink.NeighSet(hop); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: dev.Attrs().Index, Dst: everywhere, Gw: via, Flags: int(netlink.FLAG_ONLINK)})
	}))
	e, err := openEnd(w.world.Host(host), "eth0", mac, via.To4() == nil)
	w.world.must(err)
	t.Cleanup(e.close)
	return e
}

// onlyAddress leaves an interface one address and no subnet of its own: the
// hosts of the cases may have any address, and all are behind the next hop.
func onlyAddress(dev netlink.Link, own *net.IPNet) error {
	addresses, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(dev, &a); err != nil {
			return err
		}
	}
	return netlink.AddrAdd(dev, &netlink.Addr{IPNet: own, Flags: unix.IFA_F_NODAD})
}
