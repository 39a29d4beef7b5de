package e2e

import (
	"bytes"
	"net/netip"
	"os"
	"testing"
	"time"

	"handoff64/handoff/wire"
	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// A server that knows nothing of all this finds the client in its own packet
// capture, in the clear, with a sentence that says what it looks at.
func TestHandoffClientInTheClear(t *testing.T) {
	t.Parallel()
	w := plain(t)
	captured := w.record(w.server, "eth0")
	f := w.plainFlows(9000, 3)
	w.flowsGoOn(f, bothWays, "beside notifications that nobody takes")
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 2)
	time.Sleep(200 * time.Millisecond) // longer than notifications wait for company
	mappings := w.mappings(w.d)
	w.must(f.Finish())
	if known, err := w.d.Servers(w.ctx); err != nil || known[w.Server().String()].State != "unknown" {
		t.Errorf("the server is taken for %+v (%v)", known, err)
	}
	file := captured()
	content, err := os.ReadFile(file)
	w.must(err)
	if !bytes.Contains(content, []byte(wire.Identifier)) {
		t.Error("the identifier is not in the capture")
	}
	entries, err := told(file, w.Server())
	w.must(err)
	for name, s := range mappings {
		mapped := netip.MustParseAddrPort(s.Mapped)
		if !entries[entry{w.Server(), mapped.Addr(), mapped.Port(), netip.MustParseAddrPort(s.Client)}] {
			t.Errorf("%s, mapped to %s, is not in the capture", name, mapped)
		}
	}
	if len(mappings) != 3+len(udp) {
		t.Errorf("%d connections, want %d: %v", len(mappings), 3+len(udp), mappings)
	}
}

// A server begins to speak handoff, ceases to and begins again while
// connections go on: those from before, from during and from after.
func TestHandoffAdoptionAndFallback(t *testing.T) {
	t.Parallel()
	w := plain(t)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 4)
	flows := map[string]*traffic.Flows{"before": w.plainFlows(9000, 4)}
	allGoOn := func(when string) {
		t.Helper()
		for name, f := range flows {
			w.flowsGoOn(f, bothWays, when+", those from "+name)
		}
		w.unchanged(udp, when)
	}
	allGoOn("at first")
	h := w.adopted()
	flows["during"] = w.plainFlows(9001, 4)
	w.made(9001, "handoff")
	allGoOn("with handoffd")
	w.inTable(h, w.mappings(w.d))

	w.must(h.Stop())
	w.becomes(w.d, w.Server(), "down")
	flows["after"] = w.plainFlows(9002, 4)
	w.made(9002, "nat64")
	allGoOn("without handoffd")

	w.must(h.Start(w.ctx))
	w.becomes(w.d, w.Server(), "handoff")
	flows["again"] = w.plainFlows(9003, 4)
	w.made(9003, "handoff")
	allGoOn("with handoffd again")
	w.inTable(h, w.mappings(w.d))
	// Also those that the NAT64 had made are the server's now: it forgets all.
	w.must(w.d.Kill())
	w.lose()
	w.must(w.d.Start(w.ctx))
	allGoOn("with a NAT64 that has forgotten them")
	for name, f := range flows {
		if err := f.Finish(); err != nil {
			t.Errorf("those from %s: %v", name, err)
		}
	}
}

// made expects that the connections to a port of the server have mappings of
// that origin.
func (w *world) made(port uint16, origin string) {
	w.t.Helper()
	n := 0
	for name, s := range w.mappings(w.d) {
		if s.Server4 != netip.AddrPortFrom(w.Server(), port).String() {
			continue
		}
		if n++; s.Origin != origin {
			w.t.Errorf("%s has a mapping of origin %s, want %s", name, s.Origin, origin)
		}
	}
	if n == 0 {
		w.t.Errorf("no session to port %d", port)
	}
}

// A NAT64 that starts anew remembers who speaks handoff, and who is down.
func TestHandoffServersAreRemembered(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Routers: true, Servers: 2})
	first, second := w.Server(), w.Address("server2", "eth0")
	w.adopted()
	h2 := w.handoffd("server2")
	w.becomes(w.d, second, "handoff")
	w.must(h2.Stop())
	w.becomes(w.d, second, "down")
	w.eventually("the servers are on disk", 10*time.Second, func() error {
		content, err := os.ReadFile(w.Dir + "/handoff.servers")
		if err == nil && !bytes.Contains(content, []byte(second.String()+" down")) {
			err = os.ErrNotExist
		}
		return err
	})
	w.must(w.d.Kill())
	w.must(w.d.Start(w.ctx))
	known, err := w.d.Servers(w.ctx)
	w.must(err)
	if a, b := known[first.String()].State, known[second.String()].State; a != "handoff" || b != "down" {
		t.Errorf("after the restart the servers are %q and %q", a, b)
	}
}
