package benchmark

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/compare"
	"handoff64/tools/lab/tunnels"
)

// Groups, in the order in which they run.
const (
	groupMemory   = "memory"
	groupSessions = "sessions"
	groupDevices  = "devices"
	groupRFC      = "rfc"
	groupTunnels  = "tunnels"
)

// Groups lists what can be measured.
func Groups() []string {
	return []string{groupMemory, groupSessions, groupDevices, groupRFC, groupTunnels}
}

// Options say what to measure and where to put it. A plain value.
type Options struct {
	Groups   []string // all
	Source   string   // folder of the module
	Dir      string   // for JSON and SVG
	Document string   // whose tables are renewed; none if empty
	Version  string   // of the code
	Count    int      // runs of each Go benchmark
	Binaries lab.Binaries
	Pktgen   string
	Nat64lab string    // the program itself
	Out      io.Writer // for tables
	Log      *slog.Logger
}

// Run measures, and shows all results that there are then, those of earlier runs
// among them. It needs root for all groups but memory and sessions;
// the others are left out without, which is an error at the end.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("folder for results: %w", err)
	}
	var left error
	for _, group := range o.Groups {
		if err := lab.NeedRoot(); err != nil && goRuns[group] == nil {
			left = errors.Join(left, fmt.Errorf("not measured: %s: %w", group, err))
			continue
		}
		o.Log.Info("measuring", "group", group)
		if err := o.run(ctx, group); err != nil {
			return fmt.Errorf("%s: %w", group, err)
		}
	}
	return errors.Join(o.show(), left)
}

// show writes tables and plots.
func (o *Options) show() error {
	r, err := Load(o.Dir)
	if err != nil {
		return err
	}
	for _, t := range r.Tables() {
		if err := t.Text(o.Out); err != nil {
			return err
		}
	}
	if err := r.Plot(o.Dir); err != nil {
		return err
	}
	if o.Document == "" {
		return nil
	}
	return Renew(o.Document, r)
}

// run measures one group and keeps its results.
func (o *Options) run(ctx context.Context, group string) (err error) {
	h, err := o.header()
	if err != nil {
		return err
	}
	begin := time.Now()
	switch group {
	case groupMemory, groupSessions:
		b := Benchmarks{Header: h}
		b.Command, b.Benchmarks, err = o.goBenchmarks(ctx, group)
		b.Seconds = seconds(begin)
		if err == nil {
			err = save(o.Dir, group, b)
		}
	case groupDevices:
		d := Devices{Header: h}
		d.Command, d.Compared, err = o.devices(ctx)
		d.Seconds = seconds(begin)
		if err == nil {
			err = save(o.Dir, group, d)
		}
	case groupRFC:
		r := RFC{Header: h}
		err = o.rfc(ctx, &r)
		r.Seconds = seconds(begin)
		if err == nil {
			err = save(o.Dir, group, r)
		}
	case groupTunnels:
		t := Tunnels{Header: h}
		t.Command, t.Measured, err = o.tunnels(ctx)
		t.Seconds = seconds(begin)
		if err == nil {
			err = save(o.Dir, group, t)
		}
	}
	return err
}

func seconds(begin time.Time) float64 { return time.Since(begin).Round(time.Second).Seconds() }

// header describes the machine as it is now.
func (o *Options) header() (h Header, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return h, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return h, fmt.Errorf("ask for the load: %w", err)
	}
	minute, _, _ := strings.Cut(string(load), " ")
	h = Header{
		Version: o.Version, Date: time.Now().UTC().Format(time.RFC3339), CPU: compare.CPUModel(), CPUs: runtime.NumCPU(),
		Kernel: unix.ByteSliceToString(u.Release[:]), Go: runtime.Version(),
	}
	if h.Load, err = strconv.ParseFloat(minute, 64); err != nil {
		return h, fmt.Errorf("load average %q: %w", minute, err)
	}
	return h, nil
}

// devices compares with one queue, in the order and with the goals of package
// compare.
func (o *Options) devices(ctx context.Context) (string, compare.Results, error) {
	c := compare.Options{
		Name: "nat64bench", Binaries: o.Binaries, Pktgen: o.Pktgen, Log: o.Log,
		Queues: []int{1}, Counters: []string{"device"}, Rounds: 4, Window: 240 * time.Millisecond,
	}
	r, err := compare.Run(ctx, c)
	return "bin/nat64lab compare --queues 1 --counters device --rounds 4 --window 240ms", r, err
}

// tunnels compares servers that translate for themselves with tunnels.
func (o *Options) tunnels(ctx context.Context) (string, tunnels.Results, error) {
	r, err := tunnels.Measure(ctx, tunnels.Options{Name: "nat64bench", Binaries: o.Binaries, Nat64lab: o.Nat64lab, Seconds: 3, Rounds: 3, Log: o.Log})
	return "bin/nat64lab tunnels --seconds 3 --rounds 3", r, err
}
