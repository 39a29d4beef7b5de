package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"handoff64/tools/lab/compare"
)

// TestCompare runs the comparison of devices once, too shortly for figures:
// each device carries both directions, and each pair that is to be compared
// is.
func TestCompare(t *testing.T) {
	needRoot(t)
	devices := []string{"forward", "nat64d", "asavie", "kernel"}
	if _, err := exec.LookPath("tayga"); err == nil {
		devices = append(devices, "tayga")
	} else {
		t.Log("without TAYGA, which is not installed")
	}
	results, err := compare.Run(t.Context(), compare.Options{
		Name: labName(labs.Add(1)), Binaries: built, Pktgen: filepath.Join(filepath.Dir(built.Nat64d), "pktgen"),
		Devices: devices, Queues: []int{1, 2}, Flows: []int{200}, Frames: []int{80}, Rounds: 1, Window: 80 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for _, m := range results.Throughput {
		if m.Mpps.Median <= 0 {
			t.Errorf("%s, %s: nothing was forwarded", m.Device, m.Case)
		}
		rows[m.Device+m.Case.Direction]++
	}
	for _, m := range results.Latency {
		if m.P50.Median <= 0 || m.P99.Median < m.P50.Median {
			t.Errorf("%s: p50 is %v µs and p99 %v µs", m.Device, m.P50.Median, m.P99.Median)
		}
		rows[m.Device+m.Case.Direction]++
	}
	for _, d := range devices {
		// One queue, the counter on either CPU, and two queues; latency.
		want := map[string]int{"forward": 3 + 2, "nat64d": 3 + 2, "asavie": 2 + 1, "kernel": 3 + 1, "tayga": 3 + 1}[d]
		for _, direction := range []string{"64", "46"} {
			if got := rows[d+direction]; got != want {
				t.Errorf("%s was measured %d times in direction %s, want %d", d, got, direction, want)
			}
		}
	}
	pairs := map[string]int{}
	for _, q := range results.Ratios {
		pairs[q.What]++
	}
	if pairs["nat64d / forward"] != 2*3 || pairs["forward / asavie"] != 2*2 || pairs["busy p50 nat64d / forward"] != 2 {
		t.Errorf("compared %v", pairs)
	}
}
