package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// What a miss costs: the packet goes to the server and comes back with the
// entry before it is translated. The times are reported, not judged; that the
// packets really took these ways is.
func TestHandoffCostOfAMiss(t *testing.T) {
	t.Parallel()
	const n = 400
	w := plain(t)
	w.adopted()
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	from := tuples(w.moreAddresses(1), 20_000, n)
	to := netip.MustParseAddrPort(w.embedded(7))
	for _, c := range []struct {
		name    string
		flush   bool
		queries uint64
	}{
		{"a new entry, on the server's disk before it is given out", false, n},
		{"a session that is known", false, 0},
		{"an entry that the server knows and the NAT64 has purged", true, n},
		{"a session that is known, again", false, 0},
	} {
		if c.flush {
			_, err := w.d.Ctl(w.ctx, "flush", "--handoff")
			w.must(err)
		}
		before := w.stats().Handoff.Queries
		times := w.roundTrips(from, to)
		// A datagram that was repeated on a busy machine may ask twice.
		if asked := w.stats().Handoff.Queries - before; asked < c.queries || c.queries == 0 && asked != 0 {
			t.Errorf("%s: %d queries, want %d", c.name, asked, c.queries)
		}
		t.Logf("%s: p50 %v, p99 %v", c.name, times[n/2].Round(time.Microsecond), times[n*99/100].Round(time.Microsecond))
	}
}

// roundTrips exchanges a datagram from each tuple, one after the other, and
// returns how long they took, sorted.
func (w *world) roundTrips(from []netip.AddrPort, to netip.AddrPort) (times []time.Duration) {
	w.t.Helper()
	w.must(w.client.Enter(func() error {
		for _, f := range from {
			start := time.Now()
			if _, err := meet(f, to); err != nil {
				return fmt.Errorf("round trip: %w", err)
			}
			times = append(times, time.Since(start))
		}
		return nil
	}))
	slices.Sort(times)
	return times
}
