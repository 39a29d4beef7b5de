package benchmark

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"handoff64/bench/trial"
	"handoff64/tools/lab/compare"
	"handoff64/tools/lab/tunnels"
)

// Tables are those of all groups that were measured.
func (r Results) Tables() (all []Table) {
	if r.Memory != nil {
		all = append(all, r.Memory.packets())
	}
	if r.Sessions != nil {
		all = append(all, r.Sessions.sessions(), r.Sessions.scaling())
	}
	if r.Devices != nil {
		all = append(all, r.Devices.throughput(), r.Devices.ratios(), r.Devices.latency())
	}
	if r.RFC != nil {
		all = append(all, r.RFC.rfc8219(), r.RFC.rfc9693())
	}
	if r.Tunnels != nil {
		t := TunnelsTable(r.Tunnels.Measured)
		t.Before = []string{r.Tunnels.how()}
		all = append(all, t)
	}
	return all
}

// TunnelsTable shows what package tunnels measured.
func TunnelsTable(r tunnels.Results) Table {
	t := Table{
		Name: groupTunnels, Title: fmt.Sprintf("Bulk TCP through servers that translate for themselves, and through tunnels (%s, runs of %d s)", r.Tool, r.Seconds),
		Columns: []string{"way", "direction", "Mbit/s, median (min to max)", "to the plain tunnel's", "CPUs of the server's end", "Mbit/s for each", "retransmits"},
	}
	for _, row := range r.Rows {
		ratio := "1"
		if i := slices.IndexFunc(r.ToPlain, func(q tunnels.Ratio) bool { return q.Way == row.Way && q.Direction == row.Direction }); i >= 0 {
			ratio = spreadText(r.ToPlain[i].Value, "%.2f")
		}
		each := ""
		if row.CPU.Median >= 0.05 { // else it carries nothing
			each = thousands(row.PerCPU.Median)
		}
		t.Rows = append(t.Rows, []string{row.Way, row.Direction, spreadText(row.Mbps, "%.0f"), ratio, fmt.Sprintf("%.2f", row.CPU.Median), each, spreadText(row.Retransmits, "%.0f")})
	}
	return t
}

// how says what was done, and on what.
func (h *Header) how() string {
	date := h.Date
	if t, err := time.Parse(time.RFC3339, h.Date); err == nil {
		date = t.Format("2 January 2006")
	}
	return fmt.Sprintf("Version %s, %s, %d CPUs (%s), Linux %s, %s, load average before it %.1f, %.0f s for the group:\n\n```\n%s\n```",
		h.Version, date, h.CPUs, h.CPU, h.Kernel, h.Go, h.Load, h.Seconds, h.Command)
}

// flowCounts and goals of BenchmarkDataplane, in nanoseconds a packet.
var (
	flowCounts = []int{1, 1000, 65536, 1048576}
	goals      = []float64{55, 62, 100, 200}
)

// streams are the kinds of traffic of BenchmarkDataplane.
var streams = []struct{ name, label string }{{"udp/64", "UDP 6→4"}, {"udp/46", "UDP 4→6"}, {"tcp/64", "TCP 6→4"}, {"tcp/46", "TCP 4→6"}}

// cost is the processor time of a packet.
func (b *Benchmarks) cost(stream string, flows int) compare.Spread {
	return b.unit(fmt.Sprintf("Dataplane/%s/flows=%d", stream, flows), "cpu-ns/op")
}

func (b *Benchmarks) packets() Table {
	t := Table{
		Name: groupMemory, Title: "A whole worker over ports in memory, ns of processor time for a packet: least (median)",
		Before: []string{b.how()}, Columns: []string{"flows"}, After: []string{b.calibration()},
	}
	for _, s := range streams {
		t.Columns = append(t.Columns, s.label)
	}
	t.Columns = append(t.Columns, "goal")
	for i, n := range flowCounts {
		row := []string{thousands(float64(n))}
		for _, s := range streams {
			row = append(row, leastAndMedian(b.cost(s.name, n)))
		}
		t.Rows = append(t.Rows, append(row, fmt.Sprintf("%.0f", goals[i])))
	}
	return t
}

// calibration is what the machine itself did meanwhile.
func (b *Benchmarks) calibration() string {
	load, cp := b.unit("Calibration/load-64MiB", "cpu-ns/op"), b.unit("Calibration/copy-64", "cpu-ns/op")
	return fmt.Sprintf("Calibration in the same runs: a dependent random load in 64 MiB takes %.0f to %.0f ns, a copy of 64 octets %.2f to %.2f ns.", load.Min, load.Max, cp.Min, cp.Max)
}

func (b *Benchmarks) sessions() Table {
	t := Table{
		Name: groupSessions, Title: "New sessions and their end, one worker in memory: ns of processor time for a session",
		Before: []string{b.how()}, Columns: []string{"what", "least", "median", "million/s at least"}, After: []string{b.calibration()},
	}
	for _, row := range []struct{ name, label string }{
		{"Establish/udp", "new UDP session, up to a million"}, {"Establish/udp-few", "new UDP session, up to ten thousand"}, {"Establish/tcp", "new TCP session"},
		{"Establish/udp-limits", "the same with limits of clients"}, {"Establish/udp-log", "the same with an event for the log"}, {"Establish/udp-handoff", "the same with a notification"},
		{"Expire/udp", "expiry, of a million"}, {"Expire/udp-few", "expiry, of ten thousand"},
		{"Teardown/flush", "flush"}, {"Teardown/rst", "end by RST"}, {"Teardown/fin", "end by two FINs"},
	} {
		if s := b.unit(row.name, "cpu-ns/op"); s.Median > 0 {
			t.Rows = append(t.Rows, []string{row.label + " (`" + row.name + "`)", fmt.Sprintf("%.0f", s.Min), fmt.Sprintf("%.0f", s.Median), fmt.Sprintf("%.1f", 1e3/s.Median)})
		}
	}
	return t
}

func (b *Benchmarks) scaling() Table {
	t := Table{
		Name: "scaling", Title: "Two workers against one, return traffic on the other's queue",
		Columns: []string{"traffic", "two workers, median (min to max)", "two translators with nothing in common"},
		After:   []string{"The last column is what the machine gives two programs at once."},
	}
	for _, x := range b.Benchmarks {
		if name, ok := strings.CutPrefix(x.Name, "Scaling/"); ok {
			t.Rows = append(t.Rows, []string{name, spreadText(x.Units["x"], "%.2f"), spreadText(x.Units["machine-x"], "%.2f")})
		}
	}
	return t
}

// deviceNames are as readers know them.
var deviceNames = map[string]string{"forward": "pktgen forward", "nat64d": "nat64d", "asavie": "asavie/xdp sockets", "tayga": "TAYGA", "kernel": "kernel, IPv6 and IPv4 forwarding"}

func (d *Devices) throughput() Table {
	t := Table{
		Name: "devices", Title: "End to end over veth, million packets a second: median (min to max)", Before: []string{d.how()},
		Columns: []string{"device", "direction", "flows"}, After: d.Compared.Notes,
	}
	frames := d.frames()
	for _, f := range frames {
		t.Columns = append(t.Columns, fmt.Sprintf("%s octets", thousands(float64(f))))
	}
	for i, m := range d.Compared.Throughput {
		if m.Case.Frame != frames[0] {
			continue
		}
		row := []string{deviceNames[m.Device], directionName(m.Case.Direction), thousands(float64(m.Case.Flows))}
		for _, f := range frames {
			c := m.Case
			c.Frame = f
			j := slices.IndexFunc(d.Compared.Throughput[i:], func(o compare.Throughput) bool { return o.Device == m.Device && o.Case == c })
			cell := ""
			if j >= 0 {
				cell = spreadText(d.Compared.Throughput[i+j].Mpps, "%.2f")
			}
			row = append(row, cell)
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// frames are the sizes that were measured.
func (d *Devices) frames() (all []int) {
	for _, m := range d.Compared.Throughput {
		if !slices.Contains(all, m.Case.Frame) {
			all = append(all, m.Case.Frame)
		}
	}
	slices.Sort(all)
	return all
}

func directionName(d string) string { return map[string]string{"64": "6→4", "46": "4→6"}[d] }

func (d *Devices) ratios() Table {
	t := Table{
		Name: "ratios", Title: "Ratios within a round: median (min to max)", Columns: []string{"ratio", "direction", "flows", "octets", "value", "goal", "met"},
	}
	for _, r := range d.Compared.Ratios {
		sign, met := "≥", "yes"
		if r.Below {
			sign = "≤"
		}
		if !r.Met {
			met = "no"
		}
		t.Rows = append(t.Rows, []string{r.What, directionName(r.Case.Direction), thousands(float64(r.Case.Flows)), thousands(float64(r.Case.Frame)), spreadText(r.Value, "%.2f"), fmt.Sprintf("%s %.2f", sign, r.Goal), met})
	}
	return t
}

func (d *Devices) latency() Table {
	t := Table{
		Name: "latency", Title: "Delay under light load, 80 octets, 1 flow, µs: median of the runs (min to max)",
		Columns: []string{"device", "polling", "direction", "packets/s", "p50", "p99"},
	}
	for _, m := range d.Compared.Latency {
		t.Rows = append(t.Rows, []string{deviceNames[m.Device], pollOf(m), directionName(m.Case.Direction), thousands(float64(m.Rate)), spreadText(m.P50, "%.1f"), spreadText(m.P99, "%.1f")})
	}
	return t
}

// pollOf is empty for devices that know only one way to wait.
func pollOf(m compare.Latency) string {
	if m.Device == "forward" || m.Device == "nat64d" {
		return m.Poll
	}
	return ""
}

func (r *RFC) rfc8219() Table {
	t := Table{
		Name: "rfc8219", Title: "RFC 8219 on nat64d over veth, one direction at a time", Before: []string{r.how()},
		Columns: []string{"direction", "octets", "throughput, frames/s", "latency typical, µs", "worst case, µs", "PDV, µs", "lost at the highest rate"},
	}
	for _, one := range r.RFC8219 {
		for _, s := range one.Sizes {
			row := []string{one.Direction, thousands(float64(s.Size)), "", "", "", "", ""}
			if f := s.Throughput; f != nil {
				row[2] = thousands(f.Rate)
				if f.AtLeast {
					row[2] = "≥ " + row[2]
				}
			}
			if l := s.Latency; l != nil {
				row[3], row[4] = summaryText(l.Typical), summaryText(l.Worst)
			}
			if s.PDV != nil {
				row[5] = summaryText(s.PDV.PDV)
			}
			if len(s.Loss) > 0 {
				row[6] = fmt.Sprintf("%.2g %% of %s/s", s.Loss[0].Loss*100, thousands(s.Loss[0].Offered))
			}
			t.Rows = append(t.Rows, row)
		}
	}
	if len(r.RFC8219) > 0 {
		o := r.RFC8219[0]
		t.After = []string{fmt.Sprintf("Trials of %.4g s instead of 60, %d streams of %.4g s (PDV) and %.4g s (latency) instead of 20 of 60 and 120, at most %.4g %% lost instead of 0: the RFC's numbers take hours. `≥`: the tester, which shares the two CPUs, could send no more. Delays at the throughput that was found, that is with queues about full; the median of the streams (least to greatest).",
			o.Trial, o.Repetitions, o.Stream, 2*o.Stream, o.Loss*100)}
	}
	return t
}

func (r *RFC) rfc9693() Table {
	t := Table{Name: "rfc9693", Title: "RFC 9693 on nat64d over veth", Columns: []string{"test", "connections", "result"}}
	row := func(test string, connections int, format string, args ...any) {
		t.Rows = append(t.Rows, []string{test, thousands(float64(connections)), fmt.Sprintf(format, args...)})
	}
	if f := r.RFC9693.Establishment; f != nil {
		atLeast := ""
		if f.AtLeast {
			atLeast = "at least "
		}
		row("maximum establishment rate", r.RFC9693.Connections, "%s%s connections/s, each validated", atLeast, thousands(f.Rate))
	}
	if d := r.RFC9693.TearDown; d != nil {
		row("tear-down rate", d.Connections, "%s connections/s (%s to %s), the command's start included", thousands(d.Rate.Median), thousands(d.Rate.P1), thousands(d.Rate.P99))
	}
	if c := r.Capacity.Capacity; c != nil {
		row("table capacity, with a limit of "+thousands(float64(r.Limit)), r.Capacity.Connections, "%s fit, %s do not", thousands(float64(c.Connections)), thousands(float64(c.Connections+c.Error)))
	}
	return t
}

func leastAndMedian(s compare.Spread) string { return fmt.Sprintf("%.1f (%.1f)", s.Min, s.Median) }

// spreadText is the median with what lies around it.
func spreadText(s compare.Spread, format string) string {
	return fmt.Sprintf(format+" ("+format+" to "+format+")", s.Median, s.Min, s.Max)
}

// summaryText is the same of nanoseconds, in microseconds.
func summaryText(s trial.Summary) string {
	return fmt.Sprintf("%.0f (%.0f to %.0f)", s.Median/1e3, s.P1/1e3, s.P99/1e3)
}

// thousands writes a whole number with commas.
func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
