package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/term"

	"handoff64/bench/generator"
	"handoff64/bench/traffic"
)

// directionNames are those of output, by direction.
var directionNames = [2]string{"forward", "return"}

// progressOn returns what shows a line a second, or nil if nobody looks.
func progressOn(out io.Writer) func(generator.Progress) {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return (&ticker{out: out}).line
}

// ticker writes how much was sent and received since the last line.
type ticker struct {
	out    io.Writer
	before generator.Progress
}

func (t *ticker) line(p generator.Progress) {
	seconds := (p.Elapsed - t.before.Elapsed).Seconds()
	if p.Elapsed < t.before.Elapsed { // another phase
		t.before = generator.Progress{}
		seconds = p.Elapsed.Seconds()
	}
	fmt.Fprintf(t.out, "%3.0f s", p.Elapsed.Seconds())
	rate := func(name string, d int, now, before, octets, octetsBefore uint64) {
		fmt.Fprintf(t.out, "  %s %s %.4g Mpps, %.4g Gbit/s", directionNames[d], name, float64(now-before)/seconds/1e6, float64(octets-octetsBefore)*8/seconds/1e9)
	}
	for d := range p.Sent {
		if p.SendsIn[d] {
			rate("sent", d, p.Sent[d], t.before.Sent[d], p.SentOctets[d], t.before.SentOctets[d])
		}
		if p.ReceivesIn[d] {
			rate("received", d, p.Received[d], t.before.Received[d], p.ReceivedOctets[d], t.before.ReceivedOctets[d])
		}
	}
	fmt.Fprintln(t.out)
	t.before = p
}

// wayJSON is one direction as --json has it.
type wayJSON struct {
	Sent           uint64       `json:"sent"`
	SentOctets     uint64       `json:"sent_octets"`
	Received       *uint64      `json:"received,omitempty"`
	ReceivedOctets uint64       `json:"received_octets,omitempty"`
	Lost           *uint64      `json:"lost,omitempty"`
	Loss           *float64     `json:"loss,omitempty"`
	Duplicated     uint64       `json:"duplicated"`
	Reordered      uint64       `json:"reordered"`
	BadChecksum    uint64       `json:"bad_checksum"`
	NoLatency      uint64       `json:"without_latency"`
	Missed         uint64       `json:"missed"`
	RingFull       uint64       `json:"tx_ring_full"`
	NoFrame        uint64       `json:"no_frame"`
	Seconds        float64      `json:"seconds"`
	Rate           float64      `json:"rate_pps"`
	Wanted         float64      `json:"wanted_pps,omitempty"`
	RateError      float64      `json:"rate_error"`
	Latency        *latencyJSON `json:"latency_us,omitempty"`
}

// latencyJSON are delays in microseconds.
type latencyJSON struct {
	Min   float64 `json:"min"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
	PDV   float64 `json:"pdv"` // RFC 8219 §7.3.1: the 99.9th percentile less the least
	Count int64   `json:"count"`
}

type resultJSON struct {
	Directions  map[string]wayJSON           `json:"directions"`
	Sizes       traffic.Sizes                `json:"sizes,omitempty"`
	Interrupted bool                         `json:"interrupted"`
	Foreign     uint64                       `json:"foreign"`
	Stale       uint64                       `json:"stale"`
	Astray      uint64                       `json:"astray"`
	Damaged     uint64                       `json:"damaged"`
	OwnLoss     uint64                       `json:"own_loss"` // packets that arrived and were lost by the tester
	Interfaces  []generator.EndpointCounters `json:"interfaces"`
}

func latencyOf(h *hdrhistogram.Histogram) *latencyJSON {
	if h == nil || h.TotalCount() == 0 {
		return nil
	}
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return &latencyJSON{
		Min: us(h.Min()), Mean: h.Mean() / 1e3, P50: us(h.ValueAtQuantile(50)), P90: us(h.ValueAtQuantile(90)), P99: us(h.ValueAtQuantile(99)),
		P999: us(h.ValueAtQuantile(99.9)), Max: us(h.Max()), PDV: us(h.ValueAtQuantile(99.9) - h.Min()), Count: h.TotalCount(),
	}
}

func wayOf(w *generator.Way) wayJSON {
	j := wayJSON{
		Sent: w.Sent, SentOctets: w.SentOctets, ReceivedOctets: w.ReceivedOctets, Duplicated: w.Duplicated, Reordered: w.Reordered,
		BadChecksum: w.BadChecksum, NoLatency: w.NoLatency, Missed: w.Missed, RingFull: w.RingFull, NoFrame: w.NoFrame,
		Seconds: w.Elapsed.Seconds(), Rate: w.Rate, Wanted: w.Wanted, RateError: w.RateError(), Latency: latencyOf(w.Latency),
	}
	if w.Latency != nil {
		loss := w.Loss()
		j.Received, j.Lost, j.Loss = &w.Received, &w.Lost, &loss
	}
	return j
}

// printResult prints a table, or one JSON object.
func printResult(out io.Writer, r *generator.Result, asJSON bool, sizes traffic.Sizes) error {
	if asJSON {
		j := resultJSON{
			Directions: map[string]wayJSON{}, Sizes: sizes, Interrupted: r.Interrupted, Foreign: r.Foreign, Stale: r.Stale, Astray: r.Astray,
			Damaged: r.Damaged, OwnLoss: r.OwnLoss(), Interfaces: r.Endpoints,
		}
		for d, w := range r.Ways {
			if w != nil {
				j.Directions[directionNames[d]] = wayOf(w)
			}
		}
		if err := json.NewEncoder(out).Encode(j); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	for d, w := range r.Ways {
		if w != nil {
			printWay(out, directionNames[d], w)
		}
	}
	printCounters(out, r)
	return nil
}

func printWay(out io.Writer, name string, w *generator.Way) {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintf(t, "%s\tsent\t%d in %v, %.4g Mpps, %.4g Gbit/s\n", name, w.Sent, w.Elapsed.Round(time.Millisecond), w.Rate/1e6, gigabits(w.SentOctets, w.Elapsed))
	if w.Wanted > 0 {
		fmt.Fprintf(t, "\trate\t%+.4f %% of the wanted %.4g Mpps, %d not sent in time\n", w.RateError()*100, w.Wanted/1e6, w.Missed)
	}
	if w.RingFull+w.NoFrame > 0 {
		fmt.Fprintf(t, "\tbusy\t%d packets had to wait for a full TX ring, %d bursts for a free frame\n", w.RingFull, w.NoFrame)
	}
	if w.Latency == nil {
		return
	}
	fmt.Fprintf(t, "\treceived\t%d, lost %d (%.6g %%), duplicated %d, reordered %d\n", w.Received, w.Lost, w.Loss()*100, w.Duplicated, w.Reordered)
	if w.BadChecksum > 0 {
		fmt.Fprintf(t, "\tchecksum\t%d packets with a wrong one\n", w.BadChecksum)
	}
	printLatency(t, "\tdelay", latencyOf(w.Latency))
}

// printLatency prints nothing of nothing.
func printLatency(out io.Writer, name string, l *latencyJSON) {
	if l != nil {
		fmt.Fprintf(out, "%s\tµs: least %.1f, mean %.1f, p50 %.1f, p90 %.1f, p99 %.1f, p99.9 %.1f, most %.1f\n", name, l.Min, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
}

func gigabits(octets uint64, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return float64(octets) * 8 / in.Seconds() / 1e9
}

// printCounters says what else was seen, as far as there is something to say.
func printCounters(out io.Writer, r *generator.Result) {
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{r.Foreign, "packets without a stamp"}, {r.Stale, "stamped packets of an earlier run"}, {r.Astray, "stamped packets on the wrong side"},
		{r.Damaged, "packets with a damaged stamp"},
	} {
		if c.n > 0 {
			fmt.Fprintf(out, "also received: %d %s\n", c.n, c.what)
		}
	}
	for _, e := range r.Endpoints {
		printEndpoint(out, e)
	}
	if r.Interrupted {
		fmt.Fprintln(out, "interrupted: this is the result so far")
	}
}

// printEndpoint is a line about an interface.
func printEndpoint(out io.Writer, e generator.EndpointCounters) {
	kind := e.XDPMode
	if e.ZeroCopy {
		kind += ", zero copy"
	}
	fmt.Fprintf(out, "%s (%s, %d queues): %d packets of others left to the kernel", e.Interface, kind, e.Queues, e.Passed)
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{e.Sockets.Lost(), "lost because we did not receive fast enough"}, {e.Sockets.TXInvalid, "refused by the kernel"}, {e.Stuck, "sent and not completed"},
		{e.Link.TXDropped, "dropped by the interface when sending"}, {e.Link.RXDropped, "dropped by the interface when receiving"},
		{e.Sockets.Errors, "system calls failed"},
	} {
		if c.n > 0 {
			fmt.Fprintf(out, ", %d %s", c.n, c.what)
		}
	}
	fmt.Fprintln(out)
}
