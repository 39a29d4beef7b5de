package e2e

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"handoff64/handoff/client"
)

// A program on the server's host asks who its clients are.
func TestHandoffClientPackage(t *testing.T) {
	w := plain(t)
	h := w.adopted()
	c, err := client.Dial(w.ctx, filepath.Join(h.StateDir(), "lookup.sock"))
	w.must(err)
	defer c.Close()
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	seen := w.meetAll(w.client, tuples([]netip.Addr{w.Client()}, 41_000, 20), netip.MustParseAddrPort(w.embedded(7)))
	if len(seen) == 0 {
		t.Fatal("nobody was seen")
	}
	for real, mapped := range seen {
		if got, err := c.Lookup(w.ctx, mapped); err != nil || got != real {
			t.Errorf("behind %v: %v (%v), want %v", mapped, got, err, real)
		}
		if got, err := c.LookupAt(w.ctx, mapped, time.Now()); err != nil || got != real {
			t.Errorf("behind %v just now: %v (%v), want %v", mapped, got, err, real)
		}
	}
}
