package e2e

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"handoff64/handoff/server"
	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// What a handoff server changes, end to end. The tests of these files follow
// the list of what the protocol is for:
//
//	handoff_restart_test.go    nat64d or handoffd is killed and nothing breaks
//	handoff_durable_test.go    no entry that left handoffd is ever lost
//	handoff_adopt_test.go      a server begins to speak handoff, and ceases to
//	handoff_many_test.go       several servers and NAT64s, more connections than ports
//	handoff_cache_test.go      the NAT64's entries go, the connections stay
//	handoff_attack_test.go     what strangers and wrong servers achieve: nothing
//	handoff_reflect_test.go    what they get back: less than they sent
//	handoff_lookup_test.go     who was it? log, lookup, real programs, dissector

// The long forms, for `make soak`. By default the same tests run for as long as
// somebody who waits for `make test` can bear.
var (
	handoffCrashes     = flag.Int("handoff.crashes", 15, "how often handoffd is killed under load")
	handoffConnections = flag.Int("handoff.connections", 5000, "connections to each of three servers")
	handoffGarbage     = flag.Int("handoff.garbage", 100_000, "datagrams of garbage to the control port")
)

// shorter notes in the log that a test runs in a short form.
func shorter(t *testing.T, name string, is, long int) {
	t.Helper()
	if is < long {
		t.Logf("short form: -%s=%d; `make soak` runs it with %d", name, is, long)
	}
}

// controlPort is both ends' port of the control channel in the lab.
const controlPort = 64064

// handoffSet changes a setting of the handoff section.
func handoffSet(key string, value any) func(map[string]any) {
	return func(config map[string]any) { config["handoff"].(map[string]any)[key] = value }
}

// shortTimeouts makes every session and cached entry expire soon.
func shortTimeouts(config map[string]any) {
	config["timeouts"] = map[string]any{"udp": "1s", "icmp": "1s", "tcp_established": "2s", "tcp_transitory": "1s", "tcp_incoming_syn": "1s"}
}

// handoffd starts a handoff server in a host. It has to stop cleanly in the end.
func (w *world) handoffd(host string) *lab.Handoffd {
	w.t.Helper()
	h := w.Handoffd(host, built)
	w.must(h.Start(w.ctx))
	w.t.Cleanup(func() {
		if h.Running() {
			if err := h.Stop(); err != nil {
				w.t.Error(err)
			}
		}
		if w.t.Failed() {
			w.t.Logf("log of handoffd in %s:\n%s", host, h.Log())
		}
	})
	return h
}

// knock sends a datagram from a new port of the client: what comes of it does
// not matter, but the server is notified of a new entry, or asked for one.
func (w *world) knock(server netip.Addr) {
	w.t.Helper()
	c, err := w.client.DialContext(w.ctx, "udp", netip.AddrPortFrom(lab.Embed(server), 33333).String())
	w.must(err)
	defer c.Close()
	_, err = c.Write([]byte("knock"))
	w.must(err)
}

// becomes waits until a nat64d takes the server for that, with new connections
// going on.
func (w *world) becomes(d *lab.Daemon, server netip.Addr, state string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("server %s is %s", server, state), 30*time.Second, func() error {
		w.knock(server)
		time.Sleep(50 * time.Millisecond)
		known, err := d.Servers(w.ctx)
		if err == nil && known[server.String()].State != state {
			err = fmt.Errorf("it is %q", known[server.String()].State)
		}
		return err
	})
}

// adopted starts handoffd on the server and waits until nat64d knows.
func (w *world) adopted() *lab.Handoffd {
	w.t.Helper()
	h := w.handoffd("server")
	w.becomes(w.d, w.Server(), "handoff")
	return h
}

// flows opens TCP connections that are checked until the end of the test.
func (w *world) flows(from, to lab.Host, server netip.AddrPort, pool6 netip.Prefix, n int) *traffic.Flows {
	w.t.Helper()
	l, err := to.Listen("tcp4", server.String())
	w.must(err)
	f, err := traffic.StartFlows(w.ctx, from, l, netip.AddrPortFrom(lab.EmbedIn(pool6, server.Addr()), server.Port()).String(), n)
	w.must(err)
	return f
}

// plainFlows are flows between the first client and the first server.
func (w *world) plainFlows(port uint16, n int) *traffic.Flows {
	w.t.Helper()
	return w.flows(w.client, w.server, netip.AddrPortFrom(w.Server(), port), lab.Pool6, n)
}

// The directions of flows, by who sends.
const (
	upwards = 1 << iota
	downwards
	bothWays = upwards | downwards
)

// flowsGoOn waits until each connection has carried more.
func (w *world) flowsGoOn(f *traffic.Flows, directions int, when string) {
	w.t.Helper()
	const more = 32 << 10
	before := f.Checked()
	w.eventually("the flows go on "+when, recoveryTime, func() error {
		if err := f.Err(); err != nil {
			w.t.Fatalf("a flow broke %s: %v; drops: %v", when, err, reasons(w.stats()))
		}
		for i, now := range f.Checked() {
			if directions>>(i%2)&1 != 0 && now < before[i]+more {
				return fmt.Errorf("flow %d, direction %d: %d octets more", i/2, i%2, now-before[i])
			}
		}
		return nil
	})
}

// observers are UDP sockets of the client with the address under which the
// server's observer sees each.
type observers map[net.Conn]netip.AddrPort

// observers opens n of them.
func (w *world) observers(server netip.AddrPort, n int) observers {
	w.t.Helper()
	w.observer(w.server, server.String())
	o := make(observers)
	for range n {
		c := w.dial(w.client, "udp", 0, netip.AddrPortFrom(lab.Embed(server.Addr()), server.Port()).String())
		o[c] = w.observed(c)
	}
	return o
}

// unchanged expects that the server sees all of them where it saw them before.
func (w *world) unchanged(o observers, when string) {
	w.t.Helper()
	for c, was := range o {
		if is := w.observed(c); is != was {
			w.t.Errorf("%s: %s appeared as %s, now as %s", when, c.LocalAddr(), was, is)
		}
	}
}

// mappings lists the port sessions of a nat64d: "tcp [client]:port" to what it
// is mapped to and by whom.
func (w *world) mappings(d *lab.Daemon) map[string]lab.Session {
	w.t.Helper()
	all, err := d.Sessions(w.ctx)
	w.must(err)
	m := make(map[string]lab.Session)
	for _, s := range all {
		if s.Protocol != "icmp" {
			m[s.Protocol+" "+s.Client+" "+s.Server4] = s
		}
	}
	return m
}

// inTable waits until the server's table has the entry of each session.
func (w *world) inTable(h *lab.Handoffd, sessions map[string]lab.Session) {
	w.t.Helper()
	w.eventually("all entries are in the server's table", 20*time.Second, func() error {
		rows, err := h.Entries(w.ctx)
		if err != nil {
			return err
		}
		return missing(rows, slices.Collect(maps.Values(sessions)))
	})
}

// missing says which session has no entry.
func missing(rows []server.Row, sessions []lab.Session) error {
	if len(sessions) == 0 {
		return errors.New("there is no session")
	}
	table := make(map[string]string)
	for _, r := range rows {
		table[netip.AddrPortFrom(r.NAT64, r.MappedPort).String()] = netip.AddrPortFrom(r.Client, r.ClientPort).String()
	}
	for _, s := range sessions {
		if table[s.Mapped] != s.Client {
			return fmt.Errorf("%s is %s at the NAT64 and %q in the table", s.Mapped, s.Client, table[s.Mapped])
		}
	}
	return nil
}
