package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"text/tabwriter"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/rfc9693"
	"handoff64/bench/search"
	"handoff64/cmd/commandline"
)

const rfc9693Help = `Runs the procedures of RFC 9693 on a stateful translator between two interfaces: the maximum rate at which connections can be
established, with validation; the rate at which they are torn down; how many the table holds. Before each trial the table is
emptied by --empty, a command that is done when all entries are gone. --flows is how many connections there are to try with.

Examples:
  pktgen rfc9693 --tx eth2 --rx eth3 --dst 64:ff9b::198.18.0.2 --flows 50000 --max-rate 1M --empty 'nat64ctl flush'
  pktgen rfc9693 --tx eth2 --rx eth3 --dst 64:ff9b::198.18.0.2 --flows 4000000 --src 2001:db8:1::/120 --tests capacity \
      --safe 100000 --safe-rate 100k --empty 'ssh router conntrack -F'`

var rfc9693Tests = []string{"establishment", "teardown", "capacity"}

type rfc9693Flags struct {
	measureFlags
	tests, empty, maxRate, safeRate string
	alpha, acceptable, relative     float64
	repetitions, again              int
	safe, within                    int
}

func newRFC9693Flags(stdout, stderr io.Writer) *rfc9693Flags {
	fs := &rfc9693Flags{measureFlags: measureFlags{sendFlags: sendFlags{Flags: newFlags("rfc9693", rfc9693Help, "rfc9693 --tx IF --rx IF --empty COMMAND [FLAGS]", stdout, stderr)}}}
	fs.declareEnds()
	fs.flowFlags.declareFlows(fs.Flags)
	fs.portFlags.declare(fs.Flags)
	fs.BoolVar(&fs.json, "json", false, "print the results as one JSON object")
	fs.StringVar(&fs.tests, "tests", "establishment,teardown", "`LIST` of tests to run: establishment, teardown, capacity")
	fs.StringVar(&fs.empty, "empty", "", "shell `COMMAND` that removes all entries of the device's table")
	fs.StringVar(&fs.maxRate, "max-rate", "1M", "connections per second at which the search begins, a `RATE`")
	fs.StringVar(&fs.safeRate, "safe-rate", "50k", "connections per second at which the table is filled before a tear-down, a `RATE`")
	fs.Float64Var(&fs.alpha, "validation", rfc9693.DefaultAlpha, "rate of validation, a `SHARE` of the rate of establishment")
	fs.Float64Var(&fs.acceptable, "loss", 0, "`SHARE` of connections that may be missing in a trial that passes; 0 is the RFC's")
	fs.Float64Var(&fs.relative, "precision", 0.05, "`SHARE` of the rate at which the search ends")
	fs.IntVar(&fs.again, "verify-loss", 0, "`number` of times that a trial with too much loss is repeated before it counts; 0 is the RFC's")
	fs.IntVar(&fs.repetitions, "repetitions", 5, "`number` of tear-downs")
	fs.IntVar(&fs.safe, "safe", 1000, "`number` of connections that the table surely holds, for capacity")
	fs.IntVar(&fs.within, "within", 0, "`number` of connections at which the search for the capacity ends (default a hundredth of --flows)")
	return fs
}

// rfc9693Result is what --json prints; what was not measured is left out.
type rfc9693Result struct {
	Connections   uint64            `json:"connections"`
	Protocol      string            `json:"protocol"`
	Validation    float64           `json:"validation"`
	Establishment *search.Found     `json:"establishment,omitempty"`
	TearDown      *rfc9693.TearDown `json:"teardown,omitempty"`
	Capacity      *rfc9693.Capacity `json:"capacity,omitempty"`
	Interrupted   bool              `json:"interrupted"`
}

func runRFC9693(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newRFC9693Flags(stdout, stderr)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	p, err := fs.plan()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	r := rfc9693Result{Connections: p.config.Flows.Len(), Protocol: fs.protocol, Validation: fs.alpha}
	err = p.run(ctx, &r)
	some := r.Establishment != nil || r.TearDown != nil || r.Capacity != nil
	if ctx.Err() != nil && some {
		r.Interrupted, err = true, nil
	}
	if some { // also after an error: what was measured until then
		err = errors.Join(err, r.print(stdout, fs.json))
	}
	if err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// rfc9693Plan is what the flags ask for.
type rfc9693Plan struct {
	config      generator.Config
	tests       map[string]bool
	empty       string
	safeRate    float64
	repetitions int
	alpha       float64
	search      search.Options
	capacity    rfc9693.CapacityOptions
	stderr      io.Writer
}

func (fs *rfc9693Flags) plan() (p rfc9693Plan, err error) {
	if fs.empty == "" {
		return p, errors.New("--empty COMMAND is missing: how is the device's table emptied?")
	}
	if p.config, err = fs.ends(); err != nil {
		return p, err
	}
	if p.tests, err = parseTests(fs.tests, rfc9693Tests); err != nil {
		return p, err
	}
	most, err := parseRate(fs.maxRate)
	if err != nil || most == 0 {
		return p, fmt.Errorf("--max-rate %q: give connections per second such as 1M", fs.maxRate)
	}
	if p.safeRate, err = parseRate(fs.safeRate); err != nil || p.safeRate == 0 {
		return p, fmt.Errorf("--safe-rate %q: give connections per second such as 50k", fs.safeRate)
	}
	if !(fs.alpha > 0) || !(fs.acceptable >= 0 && fs.acceptable < 1) || !(fs.relative > 0 && fs.relative < 1) || fs.again < 0 || fs.repetitions < 1 {
		return p, errors.New("--validation and --precision must be above 0, --loss, --precision below 1, --verify-loss 0 or more, --repetitions 1 or more")
	}
	flows := int(p.config.Flows.Len())
	if p.tests["capacity"] && (fs.safe < 1 || fs.safe > flows) {
		return p, fmt.Errorf("--safe %d: give 1 to %d, the number of flows", fs.safe, flows)
	}
	within := fs.within
	if within <= 0 {
		within = max(1, flows/100)
	}
	p.empty, p.repetitions, p.alpha, p.stderr = fs.empty, fs.repetitions, fs.alpha, fs.Stderr
	p.search = search.Options{High: most, Error: 1, Relative: fs.relative, Loss: fs.acceptable, Verify: fs.again}
	p.capacity = rfc9693.CapacityOptions{
		Safe: fs.safe, Largest: flows, Error: within, Alpha: fs.alpha, Beta: 0.1, Gamma: 0.5, MaxRate: most, RateErrors: 0.1, Verify: fs.again,
	}
	return p, nil
}

// run does the tests; what is done stands in r, also after an error.
func (p *rfc9693Plan) run(ctx context.Context, r *rfc9693Result) error {
	t, err := generator.Open(p.config)
	if err != nil {
		return err
	}
	if err = t.Warm(ctx); err == nil {
		err = p.test(ctx, &generator.Stateful{Tester: t, Delete: func(ctx context.Context) error { return shell(ctx, p.empty) }}, r)
	}
	return errors.Join(err, t.Close())
}

func (p *rfc9693Plan) test(ctx context.Context, dev rfc9693.Device, r *rfc9693Result) error {
	connections := int(p.config.Flows.Len())
	if p.tests["establishment"] {
		o := p.search
		o.Progress = stepsOn(p.stderr, "establishment")
		found, err := rfc9693.EstablishmentRate(ctx, dev, connections, p.alpha, o)
		if err != nil {
			return fmt.Errorf("establishment: %w", err)
		}
		r.Establishment = &found
	}
	if p.tests["teardown"] {
		d, err := rfc9693.TearDownRate(ctx, dev, connections, p.safeRate, p.repetitions)
		if err != nil {
			return fmt.Errorf("tear-down: %w", err)
		}
		r.TearDown = &d
	}
	if p.tests["capacity"] {
		o := p.capacity
		if progressOn(p.stderr) != nil {
			o.Progress = func(s rfc9693.CapacityStep) {
				fmt.Fprintf(p.stderr, "capacity: %d connections, %.0f/s, fit: %v\n", s.Connections, s.Rate, s.Fits)
			}
		}
		c, err := rfc9693.TableCapacity(ctx, dev, o)
		if err != nil {
			return fmt.Errorf("capacity: %w", err)
		}
		r.Capacity = &c
	}
	return nil
}

// shell runs a command of the user's.
func shell(ctx context.Context, command string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // for what a killed shell has started
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("--empty %q: %w: %s", command, err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

func (r *rfc9693Result) print(out io.Writer, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	fmt.Fprintf(out, "RFC 9693, %s, %d connections\n", r.Protocol, r.Connections)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if f := r.Establishment; f != nil {
		fmt.Fprintf(t, "establishment\t%s; each validated at %.4g times the rate; %d trials\n", foundText(f, "connections/s"), r.Validation, len(f.Steps))
	}
	if d := r.TearDown; d != nil {
		fmt.Fprintf(t, "tear-down\t%.0f connections/s (%.0f to %.0f), %d times, the command's own time included\n", d.Rate.Median, d.Rate.P1, d.Rate.P99, d.Rate.Repetitions)
	}
	if c := r.Capacity; c != nil {
		if c.AtLeast {
			fmt.Fprintf(t, "capacity\tat least %d connections, which is all there are to try with; established at %.0f/s\n", c.Connections, c.Rate)
		} else {
			fmt.Fprintf(t, "capacity\t%d connections (%d do not fit), established at %.0f/s\n", c.Connections, c.Connections+c.Error, c.Rate)
		}
	}
	t.Flush()
	if r.Interrupted {
		fmt.Fprintln(out, "interrupted: this is the result so far")
	}
	return nil
}
