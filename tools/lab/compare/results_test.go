package compare

import (
	"bytes"
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	if got := SpreadOf([]float64{3, 1, 2, 10}); got.Median != 2.5 || got.Min != 1 || got.Max != 10 {
		t.Errorf("got %+v", got)
	}
	if got := SpreadOf([]float64{3, 1, 2}); got.Median != 2 {
		t.Errorf("got %+v", got)
	}
	if got := SpreadOf(nil); got.Median != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestGoals: ratios are those of the same case and the same round, and what
// misses its goal says so.
func TestGoals(t *testing.T) {
	one, other := Case{Flows: 1, Direction: "64"}, Case{Flows: 2, Direction: "64"}
	r := Results{
		Throughput: []Throughput{
			{"forward", one, SpreadOf([]float64{1, 2, 1})},
			{"nat64d", one, SpreadOf([]float64{0.9, 1.9, 0.97})},
			{"tayga", one, SpreadOf([]float64{0.3, 0.3, 0.3})},
			{"asavie", other, SpreadOf([]float64{1, 1, 1})},
		},
		Latency: []Latency{
			{"forward", one, "busy", 1, SpreadOf([]float64{2}), SpreadOf([]float64{10}), nil},
			{"nat64d", one, "busy", 1, SpreadOf([]float64{2.1}), SpreadOf([]float64{30}), nil},
			{"nat64d", one, "adaptive", 1, SpreadOf([]float64{2.1}), SpreadOf([]float64{30}), nil},
		},
	}
	r.rate()
	got := map[string]bool{}
	for _, q := range r.Ratios {
		got[q.What] = q.Met
	}
	want := map[string]bool{
		"nat64d / forward": true, "nat64d / tayga": true, "busy p50 nat64d / forward": true, "busy p99 nat64d / forward": false,
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for what, met := range want {
		if m, ok := got[what]; !ok || m != met {
			t.Errorf("%s: met %v (there: %v), want %v", what, m, ok, met)
		}
	}
	if r.Ratios[0].Value.Median != 0.95 {
		t.Errorf("the median of 0.9, 0.95 and 0.97 is %v", r.Ratios[0].Value.Median)
	}
	var out bytes.Buffer
	if err := r.Print(&out); err != nil || strings.Count(out.String(), "MISSED") != 1 || strings.Count(out.String(), "met") != 3 {
		t.Errorf("%v:\n%s", err, &out)
	}
}

func TestOptionsRefuse(t *testing.T) {
	for _, o := range []Options{
		{Devices: []string{"bridge"}}, {Directions: []string{"66"}}, {Counters: []string{"moon"}}, {Poll: "often"},
		{Frames: []int{79}}, {Frames: []int{1515}}, {Flows: []int{maxFlows + 1}}, {Queues: []int{1000}},
	} {
		if o.Check() == nil {
			t.Errorf("accepted %+v", o)
		}
	}
}
