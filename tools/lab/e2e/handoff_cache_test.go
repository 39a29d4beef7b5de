package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"handoff64/tools/lab"
)

// All that handoff servers gave can go at any moment: connections ask for
// their entries again and go on.
func TestHandoffFlushUnderLoad(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Queues: 2}, func(config map[string]any) { config["workers"] = map[string]any{"count": 2} })
	w.adopted()
	f := w.plainFlows(9000, 16)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 8)
	w.flowsGoOn(f, bothWays, "at first")
	for round := range 10 {
		before := w.stats().Handoff
		_, err := w.d.Ctl(w.ctx, "flush", "--handoff")
		w.must(err)
		w.flowsGoOn(f, bothWays, fmt.Sprintf("after flush %d", round+1))
		// Not all of them: a session made while the purge goes on may outlive
		// the entry that it was made over.
		after := w.stats().Handoff
		if after.EntriesPurged < before.EntriesPurged+8 || after.EntriesCached < before.EntriesCached+8 {
			t.Errorf("flush %d: %d entries purged and %d cached anew, there were 16 flows and more", round+1,
				after.EntriesPurged-before.EntriesPurged, after.EntriesCached-before.EntriesCached)
		}
	}
	// Without a pause, for as long as there is no time for anything else.
	for range 50 {
		_, err := w.d.Ctl(w.ctx, "flush", "--handoff")
		w.must(err)
	}
	w.flowsGoOn(f, bothWays, "after 50 flushes in a row")
	w.unchanged(udp, "after all flushes")
	w.must(f.Finish())
}

// A cache with room for a fraction of the connections slows them down and
// breaks none: entries that are in the way go, and are asked for again.
func TestHandoffCachePressure(t *testing.T) {
	t.Parallel()
	w := plain(t, handoffSet("cache_entries", 8))
	w.adopted()
	f := w.plainFlows(9000, 24)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 8)
	for range 3 {
		w.flowsGoOn(f, bothWays, "with a cache for 8 of 24")
		w.unchanged(udp, "with a small cache")
	}
	status, err := w.d.Status(w.ctx)
	w.must(err)
	if n := status.Handoff.CachedEntries; n > 8 {
		t.Errorf("%d entries are cached, 8 were allowed", n)
	}
	if s := w.stats().Handoff; s.EntriesPurged == 0 {
		t.Errorf("nothing had to go: %+v", s)
	}
	w.must(f.Finish())
}

// The session table is full of what handoff servers gave: it gives way to new
// connections of others (a plain host), and nothing breaks.
func TestHandoffEntriesGiveWay(t *testing.T) {
	t.Parallel()
	w := routed(t, func(config map[string]any) { config["limits"] = map[string]any{"sessions": 64} })
	w.adopted()
	f := w.plainFlows(9000, 8)
	plainHost := netip.AddrPortFrom(w.Address("server2", "eth0"), 7)
	w.observer(w.Host("server2"), plainHost.String())
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	// Far more than fits, all over the server's entries.
	w.meetAll(w.client, tuples(w.moreAddresses(1), 20_000, 2000), netip.MustParseAddrPort(w.embedded(7)))
	w.flowsGoOn(f, bothWays, "while the table is full of entries")
	g := w.flows(w.client, w.Host("server2"), netip.AddrPortFrom(plainHost.Addr(), 9000), lab.Pool6, 4)
	w.flowsGoOn(g, bothWays, "of a plain host beside all the entries")
	w.flowsGoOn(f, bothWays, "after others needed room")
	w.must(f.Finish())
	w.must(g.Finish())
}
