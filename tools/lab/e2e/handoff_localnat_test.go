package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"handoff64/tools/lab"
)

// adoptedAs is adopted with a handoffd that has further flags.
func (w *world) adoptedAs(args ...string) *lab.Handoffd {
	w.t.Helper()
	h := w.Handoffd("server", built)
	h.Args = args
	w.must(h.Start(w.ctx))
	w.t.Cleanup(func() {
		if h.Running() {
			if err := h.Stop(); err != nil {
				w.t.Error(err)
			}
		}
		if w.t.Failed() {
			w.t.Logf("log of handoffd:\n%s", h.Log())
		}
	})
	w.becomes(w.d, w.Server(), "handoff")
	return h
}

// A client of a server in local-nat mode has an address of the pool for itself,
// with its own ports, and the server's log says who that is.
func TestLocalNAT(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adoptedAs("--mode", "local-nat")
	from := tuples([]netip.Addr{w.Client()}, 41_000, 5)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	pool := netip.MustParsePrefix("100.64.0.0/16")
	for client, mapped := range w.meetAll(w.client, from, netip.MustParseAddrPort(w.embedded(7))) {
		if !pool.Contains(mapped.Addr()) || mapped.Port() != client.Port() {
			t.Errorf("%s is seen as %s", client, mapped)
		}
		if got, err := h.Lookup(w.ctx, mapped.String()); err != nil || got != client.String() {
			t.Errorf("lookup %s: %q (%v), want %s", mapped, got, err, client)
		}
		text, err := os.ReadFile(h.EventLog())
		w.must(err)
		if want := fmt.Sprintf(" Created %s:0 [%s]:0\n", mapped.Addr(), client.Addr()); strings.Count(string(text), want) != 1 {
			t.Errorf("the log does not have one line %q:\n%s", want, text)
		}
	}
	said, err := w.client.Output(w.ctx, "ping", "-c", "3", "-i", "0.2", "-W", "2", lab.Embed(w.Server()).String())
	w.must(err)
	if !strings.Contains(said, " 0% packet loss") {
		t.Errorf("ping: %s", said)
	}
}
