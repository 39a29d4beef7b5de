package generator

import (
	"fmt"
	"testing"
	"time"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// TestNothingIsLostOnAWire: at a moderate rate all that is sent arrives, once,
// in order, with right checksums and a plausible delay, in both directions.
func TestNothingIsLostOnAWire(t *testing.T) {
	for _, c := range []struct {
		protocol traffic.Protocol
		ipv6     bool
		queues   int
	}{
		{traffic.UDP, true, 1}, {traffic.UDP, false, 1}, {traffic.TCP, true, 1}, {traffic.TCP, false, 1},
		{traffic.Echo, true, 1}, {traffic.Echo, false, 1}, {traffic.UDP, true, 2},
	} {
		t.Run(fmt.Sprintf("%s/ipv6=%v/queues=%d", c.protocol, c.ipv6, c.queues), func(t *testing.T) {
			newWire(t, c.queues)
			tester := openTester(t, wireConfig(c.protocol, c.ipv6))
			const flows = 10_000
			out, err := tester.Fill(t.Context(), flows, 50_000)
			if err != nil {
				t.Fatal(err)
			}
			if out.Sent != [2]uint64{flows, 0} || out.Received != out.Sent {
				t.Fatalf("phase 1: %+v", out)
			}
			if out, err = tester.Validate(t.Context(), 50_000); err != nil {
				t.Fatal(err)
			} else if out.Sent != [2]uint64{0, flows} || out.Received != out.Sent {
				t.Fatalf("validation: %+v", out)
			}
			r, err := tester.Run(t.Context(), Run{Direction: trial.Both, Rate: 20_000, Duration: 500 * time.Millisecond, Sizes: traffic.Sizes{120, 1000}})
			if err != nil {
				t.Fatal(err)
			}
			for d, w := range r.Ways {
				checkClean(t, trial.Direction(d), w)
				if w.Sent+w.Missed != 10_000 {
					t.Errorf("%v: %d sent and %d missed, want 10000", trial.Direction(d), w.Sent, w.Missed)
				}
			}
			if r.Foreign+r.Stale+r.Astray+r.Damaged != 0 {
				t.Errorf("counted %+v", r)
			}
		})
	}
}

// checkClean: what was sent arrived.
func checkClean(t *testing.T, d trial.Direction, w *Way) {
	t.Helper()
	if w.Received != w.Sent || w.Lost+w.Duplicated+w.Reordered+w.BadChecksum+w.NoLatency != 0 || w.SentOctets != w.ReceivedOctets {
		t.Errorf("%v: %+v", d, w)
	}
	if n := w.Latency.TotalCount(); n != int64(w.Sent) || w.Latency.Min() < 100 || w.Latency.Max() > int64(10*time.Second) {
		t.Errorf("%v: %d delays from %d to %d ns", d, n, w.Latency.Min(), w.Latency.Max())
	}
}
