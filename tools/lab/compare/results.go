package compare

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"handoff64/bench/xdpgen"
)

// Case is what is sent and how.
type Case struct {
	Queues    int    `json:"queues"`
	Workers   int    `json:"workers"`
	Flows     int    `json:"flows"`
	Frame     int    `json:"frame_octets"` // on the IPv6 side, without FCS
	Direction string `json:"direction"`    // "64" or "46"
	Counter   string `json:"counter_on"`   // "device" or "sender": whose CPU received what came out
}

func (c Case) String() string {
	return fmt.Sprintf("%s, %d flows, %d octets, %d queues, counter on %s", c.Direction, c.Flows, c.Frame, c.Queues, c.Counter)
}

// Spread is what several runs gave.
type Spread struct {
	Median float64   `json:"median"`
	Min    float64   `json:"min"`
	Max    float64   `json:"max"`
	Runs   []float64 `json:"runs"`
}

// SpreadOf orders a copy of the runs. None make the zero Spread.
func SpreadOf(runs []float64) Spread {
	sorted := slices.Sorted(slices.Values(runs))
	if len(sorted) == 0 {
		return Spread{}
	}
	median := (sorted[len(sorted)/2] + sorted[(len(sorted)-1)/2]) / 2
	return Spread{median, sorted[0], sorted[len(sorted)-1], runs}
}

// Throughput is what a device forwarded when it was offered more.
type Throughput struct {
	Device string `json:"device"`
	Case   Case   `json:"case"`
	Mpps   Spread `json:"mpps"`
}

// Latency is how long packets took from the sender to the counter, at a rate
// far below what the device can do.
type Latency struct {
	Device string       `json:"device"`
	Case   Case         `json:"case"`
	Poll   string       `json:"poll"`
	Rate   int          `json:"pps"`
	P50    Spread       `json:"p50_us"`
	P99    Spread       `json:"p99_us"`
	Curve  []Percentile `json:"percentiles"` // of all runs together
}

// Percentile is a delay that so many per cent of the packets did not exceed.
type Percentile struct {
	P  float64 `json:"p"`
	US float64 `json:"us"`
}

// curve lists what a plot of percentiles shows.
func curve(d xdpgen.Delays) (points []Percentile) {
	for _, p := range []float64{1, 5, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9} {
		points = append(points, Percentile{p, float64(d.Quantile(p/100)) / 1e3})
	}
	return points
}

// Ratio compares two devices, run by run. A goal is a bound on the median.
type Ratio struct {
	What  string  `json:"what"`
	Case  Case    `json:"case"`
	Value Spread  `json:"value"`
	Goal  float64 `json:"goal"`
	Below bool    `json:"below"` // the goal is an upper bound
	Met   bool    `json:"met"`
}

// Results are all of one run.
type Results struct {
	Kernel     string       `json:"kernel"`
	CPU        string       `json:"cpu"`
	Poll       string       `json:"poll"`
	Throughput []Throughput `json:"throughput"`
	Latency    []Latency    `json:"latency"`
	Ratios     []Ratio      `json:"ratios"`
	Notes      []string     `json:"notes"`
}

// Print writes the results as tables.
func (r Results) Print(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(out, "%s, Linux %s, %s polling\n\n", r.CPU, r.Kernel, r.Poll)
	fmt.Fprintln(t, "DEVICE\tDIRECTION\tFLOWS\tOCTETS\tQUEUES\tCOUNTER\tMpps\tMIN\tMAX")
	for _, m := range r.Throughput {
		c := m.Case
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\t%.3f\t%.3f\t%.3f\n", m.Device, c.Direction, c.Flows, c.Frame, c.Queues, c.Counter, m.Mpps.Median, m.Mpps.Min, m.Mpps.Max)
	}
	fmt.Fprintln(t, "\nDEVICE\tDIRECTION\tPOLL\tpps\tp50 µs\tMIN\tMAX\tp99 µs\tMIN\tMAX")
	for _, m := range r.Latency {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\n", m.Device, m.Case.Direction, m.Poll, m.Rate,
			m.P50.Median, m.P50.Min, m.P50.Max, m.P99.Median, m.P99.Min, m.P99.Max)
	}
	fmt.Fprintln(t, "\nRATIO\tCASE\tMEDIAN\tMIN\tMAX\tGOAL\t")
	for _, q := range r.Ratios {
		sign, verdict := "≥", "met"
		if q.Below {
			sign = "≤"
		}
		if !q.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(t, "%s\t%v\t%.3f\t%.3f\t%.3f\t%s %.2f\t%s\n", q.What, q.Case, q.Value.Median, q.Value.Min, q.Value.Max, sign, q.Goal, verdict)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the results: %w", err)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(out, "-", n)
	}
	return nil
}

// goal is a bound that a ratio of two devices is held to.
type goal struct {
	device, to string
	bound      float64
}

var throughputGoals = []goal{{"nat64d", "forward", 0.95}, {"forward", "asavie", 1.3}, {"nat64d", "tayga", 3}}

// rate compares the throughputs of all cases that both devices ran.
func (r *Results) rate() {
	for _, g := range throughputGoals {
		for _, a := range r.Throughput {
			for _, b := range r.Throughput {
				if a.Device == g.device && b.Device == g.to && a.Case == b.Case {
					v := quotients(a.Mpps.Runs, b.Mpps.Runs)
					r.Ratios = append(r.Ratios, Ratio{g.device + " / " + g.to, a.Case, v, g.bound, false, v.Median >= g.bound})
				}
			}
		}
	}
	const within = 1.1
	for _, a := range r.Latency {
		for _, b := range r.Latency {
			if a.Device == "nat64d" && b.Device == "forward" && a.Case == b.Case && a.Poll == b.Poll {
				p50, p99 := quotients(a.P50.Runs, b.P50.Runs), quotients(a.P99.Runs, b.P99.Runs)
				r.Ratios = append(r.Ratios,
					Ratio{a.Poll + " p50 nat64d / forward", a.Case, p50, within, true, p50.Median <= within},
					Ratio{a.Poll + " p99 nat64d / forward", a.Case, p99, within, true, p99.Median <= within})
			}
		}
	}
}

// quotients divides run by run: the runs of one round lie close together.
func quotients(a, b []float64) Spread {
	var q []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			q = append(q, a[i]/b[i])
		}
	}
	return SpreadOf(q)
}
