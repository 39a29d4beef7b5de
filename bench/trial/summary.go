package trial

import (
	"math"
	"slices"
)

// Summary is what RFC 8219 §12 and RFC 9693 §6 have a report say of repeated
// measurements.
type Summary struct {
	Repetitions int     `json:"repetitions"`
	Median      float64 `json:"median"`
	P1          float64 `json:"p1"`
	P99         float64 `json:"p99"`
}

// Summarize orders a copy of the values. Percentiles are by nearest rank: with
// fewer than a hundred values the first and the 99th are the least and the
// greatest. No value at all makes the zero Summary.
func Summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	median := v[n/2]
	if n%2 == 0 {
		median = (v[n/2-1] + v[n/2]) / 2
	}
	rank := func(p float64) float64 { return v[max(int(math.Ceil(p*float64(n))), 1)-1] }
	return Summary{Repetitions: n, Median: median, P1: rank(0.01), P99: rank(0.99)}
}
