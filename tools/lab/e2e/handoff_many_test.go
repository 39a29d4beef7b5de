package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"handoff64/tools/lab"
)

// second starts the second NAT64 of a lab that has one.
func (w *world) second() *lab.Daemon {
	w.t.Helper()
	d := w.DaemonOn(lab.SecondNat64, built)
	w.must(d.Start(w.ctx))
	w.t.Cleanup(func() {
		if _, err := d.SettledStats(w.ctx); err != nil {
			w.t.Error(err)
		}
		if err := d.Stop(); err != nil {
			w.t.Error(err)
		}
	})
	return d
}

// Two NAT64s with addresses of their own share a server, which keeps them
// apart: the same port of both belongs to different connections.
func TestHandoffTwoNat64sOneServer(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Routers: true, Nat64s: 2})
	other := w.second()
	h := w.adopted()
	service := netip.AddrPortFrom(w.Server(), 7)
	w.observer(w.server, service.String())
	through := func(pool6 netip.Prefix, from []netip.AddrPort) map[netip.AddrPort]netip.AddrPort {
		return w.meetAll(w.client, from, netip.AddrPortFrom(lab.EmbedIn(pool6, w.Server()), service.Port()))
	}
	through(lab.SecondPool6, tuples([]netip.Addr{w.Client()}, 30_000, 1))
	w.eventually("the second NAT64 knows the server, too", recoveryTime, func() error {
		known, err := other.Servers(w.ctx)
		if err == nil && known[w.Server().String()].State != "handoff" {
			err = fmt.Errorf("it takes it for %+v", known)
		}
		return err
	})
	from := tuples([]netip.Addr{w.Client()}, 40_000, 100)
	one, two := through(lab.Pool6, from), through(lab.SecondPool6, from)
	for _, f := range from {
		a, b := one[f], two[f]
		// The server takes the port that the NAT64 suggests, the client's own.
		if a != netip.AddrPortFrom(lab.Pool4, f.Port()) || b != netip.AddrPortFrom(lab.SecondPool4, f.Port()) {
			t.Errorf("%s appears as %s and %s", f, a, b)
		}
	}
	for mapped, d := range map[netip.Addr]*lab.Daemon{lab.Pool4: w.d, lab.SecondPool4: other} {
		out, err := h.Run(w.ctx, "entries", "--json", "--nat64", mapped.String())
		w.must(err)
		if out == "" {
			t.Errorf("no entries of %s", mapped)
		}
		w.inTable(h, w.mappings(d))
	}
	// One of them dies and forgets; the other does not notice.
	f := w.plainFlows(9000, 2)
	g := w.flows(w.client, w.server, netip.AddrPortFrom(w.Server(), 9001), lab.SecondPool6, 2)
	w.flowsGoOn(f, bothWays, "through the first")
	w.flowsGoOn(g, bothWays, "through the second")
	w.must(w.d.Kill())
	w.flowsGoOn(g, bothWays, "through the second while the first is dead")
	w.lose()
	w.must(w.d.Start(w.ctx))
	w.flowsGoOn(f, bothWays, "through the first that is back")
	w.must(f.Finish())
	w.must(g.Finish())
}

// Two servers behind one NAT64 give the same mapped port to different clients,
// for an entry counts for one server only.
func TestHandoffTwoServersOneMappedPort(t *testing.T) {
	t.Parallel()
	w := routed(t)
	servers := []netip.Addr{w.Server(), w.Address("server2", "eth0")}
	hosts := []lab.Host{w.server, w.Host("server2")}
	clients := []lab.Host{w.client, w.Host("client2")}
	for i, name := range []string{"server", "server2"} {
		w.handoffd(name)
		w.becomes(w.d, servers[i], "handoff")
		w.observer(hosts[i], netip.AddrPortFrom(servers[i], 7).String())
		w.echoTCP(hosts[i], netip.AddrPortFrom(servers[i], 7).String())
	}
	want := netip.AddrPortFrom(lab.Pool4, 40_000)
	for round := range 2 { // opened in turn, then used in turn
		for i := range servers {
			to := netip.AddrPortFrom(lab.Embed(servers[i]), 7)
			from := netip.AddrPortFrom(w.Address(clients[i].Name, "eth0"), want.Port())
			if got := w.meetAll(clients[i], []netip.AddrPort{from}, to)[from]; got != want {
				t.Errorf("round %d: %s appears to %s as %s, want %s", round, from, servers[i], got, want)
			}
		}
	}
	for i := range servers {
		c := w.dial(clients[i], "tcp", int(want.Port()), netip.AddrPortFrom(lab.Embed(servers[i]), 7).String())
		for n := range 10 {
			w.must(say(w.ctx, c, fmt.Sprintf("line %d of %s", n, clients[i].Name)))
		}
	}
	for name, s := range w.mappings(w.d) {
		if s.Mapped != want.String() && s.Server4 != servers[0].String()+":33333" && s.Server4 != servers[1].String()+":33333" {
			t.Errorf("%s is mapped to %s", name, s.Mapped)
		}
	}
}

// Each server has all ports of the NAT64's address for itself: the connections
// to three of them are more than one address has ports.
func TestHandoffMoreConnectionsThanPorts(t *testing.T) {
	t.Parallel()
	shorter(t, "handoff.connections", *handoffConnections, 60_000)
	w := build(t, lab.Options{Routers: true, Servers: 3})
	from := tuples(w.moreAddresses(4), 1024, *handoffConnections)
	names := []string{"server", "server2", "server3"}
	servers := make(map[string]*lab.Handoffd)
	for _, name := range names {
		servers[name] = w.handoffd(name)
		w.becomes(w.d, w.Address(name, "eth0"), "handoff")
	}
	inUse := 0
	for _, name := range names {
		address := w.Address(name, "eth0")
		w.observer(w.Host(name), netip.AddrPortFrom(address, 7).String())
		seen := w.meetAll(w.client, from, netip.AddrPortFrom(lab.Embed(address), 7))
		clients := make(map[netip.AddrPort]netip.AddrPort)
		for client, mapped := range seen {
			if before, taken := clients[mapped]; taken || mapped.Addr() != lab.Pool4 {
				t.Fatalf("%s: %s appears as %s, as %s does", name, client, mapped, before)
			}
			clients[mapped] = client
		}
		inUse += len(clients)
		w.listed(servers[name], clients)
	}
	// All of them are in use at one time.
	status, err := w.d.Status(w.ctx)
	w.must(err)
	t.Logf("%d connections through one address, %d entries cached", inUse, status.Handoff.CachedEntries)
	if inUse != 3**handoffConnections || status.Handoff.CachedEntries < uint64(inUse) {
		t.Errorf("want %d", 3**handoffConnections)
	}
	if again := w.meetAll(w.client, from[:100], netip.AddrPortFrom(lab.Embed(w.Server()), 7)); len(again) != 100 {
		t.Errorf("%d of the first are still served", len(again))
	}
}

// listed expects exactly these clients in the server's table.
func (w *world) listed(h *lab.Handoffd, clients map[netip.AddrPort]netip.AddrPort) {
	w.t.Helper()
	rows, err := h.Entries(w.ctx)
	w.must(err)
	right := 0
	for _, r := range rows {
		if clients[netip.AddrPortFrom(r.NAT64, r.MappedPort)] == netip.AddrPortFrom(r.Client, r.ClientPort) {
			right++
		}
	}
	if right != len(clients) {
		w.t.Errorf("%d of %d connections are in the table as their server sees them", right, len(clients))
	}
}
