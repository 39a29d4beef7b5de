package tunnels

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/compare"
	"handoff64/tools/lab/throughput"
)

// Options say what to measure. A plain value.
type Options struct {
	Name     string // of the networks, which get suffixes
	Binaries lab.Binaries
	Nat64lab string // the program, for the tunnels' ends
	Seconds  int    // of each run
	Rounds   int    // in each, all ways take turns
	Log      *slog.Logger
}

// Row is one way in one direction.
type Row struct {
	Way         string         `json:"way"`
	Direction   string         `json:"direction"`    // "to the server", "from the server"
	Mbps        compare.Spread `json:"mbps"`         // TCP payload
	CPU         compare.Spread `json:"cpu"`          // processors that the server's end of it takes
	PerCPU      compare.Spread `json:"mbps_per_cpu"` // the first divided by the second
	Retransmits compare.Spread `json:"retransmits"`  // of TCP, if the tool counts them
}

// Results are all of one run.
type Results struct {
	Tool    string `json:"tool"`
	Seconds int    `json:"run_s"`
	Rows    []Row  `json:"rows"`
	// ToPlain is, for each other way and direction, its throughput divided by
	// the plain tunnel's of the same round.
	ToPlain []Ratio `json:"to_plain"`
}

// Ratio is a quotient, round by round.
type Ratio struct {
	Way       string         `json:"way"`
	Direction string         `json:"direction"`
	Value     compare.Spread `json:"value"`
}

// way is a network with something that carries packets; pid is the server's end
// of that, 0 if there is none.
type way struct {
	name  string
	start func(context.Context, Options, *lab.Lab) (throughput.Path, int, error)

	lab  *lab.Lab
	path throughput.Path
	pid  int
}

func ways() []way {
	return []way{
		{name: "local-nat", start: handoffWay("--mode", "local-nat")},
		{name: "mixed", start: handoffWay("--mode", "mixed")},
		{name: "minimal: no tunnel", start: handoffWay()},
		{name: "plain tunnel", start: tunnelWay(Plain)},
		{name: "WireGuard", start: tunnelWay(WireGuard)},
	}
}

var directions = []struct {
	name     string
	download bool
}{{"to the server", false}, {"from the server", true}}

// Measure sets all ways up and has them take turns. It needs root.
func Measure(ctx context.Context, o Options) (r Results, err error) {
	all := ways()
	for i := range all {
		w := &all[i]
		if w.lab, err = lab.Up(lab.Options{Name: fmt.Sprintf("%s-%d", o.Name, i)}); err != nil {
			return r, fmt.Errorf("%s: %w", w.name, err)
		}
		defer func() { err = errors.Join(err, w.lab.Down()) }()
		if w.path, w.pid, err = w.start(ctx, o, w.lab); err != nil {
			return r, fmt.Errorf("%s: %w", w.name, err)
		}
	}
	r = Results{Tool: "built in", Seconds: o.Seconds}
	run := throughput.Stream
	if _, err := exec.LookPath("iperf3"); err == nil {
		r.Tool, run = "iperf3", throughput.Iperf3
	}
	runs := map[string][]one{}
	for range o.Rounds {
		for i := range all {
			for _, d := range directions {
				got, err := all[i].measure(ctx, run, o.Seconds, d.download)
				if err != nil {
					return r, fmt.Errorf("%s, %s: %w", all[i].name, d.name, err)
				}
				o.Log.Info("measured", "way", all[i].name, "direction", d.name, "Mbit/s", int(got.Mbps), "cpus", got.cpu, "retransmits", got.Retransmits)
				runs[all[i].name+d.name] = append(runs[all[i].name+d.name], got)
			}
		}
	}
	for _, w := range all {
		for _, d := range directions {
			r.add(w.name, d.name, runs[w.name+d.name], runs["plain tunnel"+d.name])
		}
	}
	return r, nil
}

// one is a run.
type one struct {
	throughput.Rate
	cpu float64
}

// measure makes one run. The first seconds of a connection are not left out:
// the tool's own result counts.
func (w *way) measure(ctx context.Context, run func(context.Context, throughput.Path, int, bool) (throughput.Rate, error), seconds int, download bool) (o one, err error) {
	before, err := cpuTime(w.pid)
	if err != nil {
		return o, err
	}
	begin := time.Now()
	if o.Rate, err = run(ctx, w.path, seconds, download); err != nil {
		return o, err
	}
	after, err := cpuTime(w.pid)
	o.cpu = (after - before).Seconds() / min(time.Since(begin).Seconds(), float64(seconds))
	return o, err
}

// add sums the runs of a way up. plain are those of the plain tunnel in the same
// rounds.
func (r *Results) add(name, direction string, runs, plain []one) {
	var mbps, cpu, per, again, ratios []float64
	for i, o := range runs {
		mbps, cpu, again = append(mbps, o.Mbps), append(cpu, o.cpu), append(again, float64(o.Retransmits))
		if o.cpu > 0 {
			per = append(per, o.Mbps/o.cpu)
		}
		ratios = append(ratios, o.Mbps/plain[i].Mbps)
	}
	r.Rows = append(r.Rows, Row{name, direction, compare.SpreadOf(mbps), compare.SpreadOf(cpu), compare.SpreadOf(per), compare.SpreadOf(again)})
	if name != "plain tunnel" {
		r.ToPlain = append(r.ToPlain, Ratio{name, direction, compare.SpreadOf(ratios)})
	}
}

// tick is the unit of /proc/PID/stat on Linux, whatever the kernel's own is.
const tick = time.Second / 100

// cpuTime is what a process has used of the processors; of none it is 0.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time: %w", err)
	}
	// The second field, the name, may have anything in it but ends with the
	// last ")". utime and stime are the 14th and the 15th.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}
