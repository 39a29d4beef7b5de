package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/rfc8219"
	"handoff64/bench/search"
	"handoff64/bench/traffic"
	"handoff64/bench/trial"
	"handoff64/cmd/commandline"
)

const rfc8219Help = `Runs the procedures of RFC 8219 section 7 on a translator between two interfaces: throughput, frame loss rate, latency and
packet delay variation (PDV). Each flow is sent once before, so that a stateful translator knows it. The RFC asks for streams
of a minute, twenty times, which is what the flags say if they are not given: about an hour and a half for each size. SIGINT
ends the tests, and what was measured until then is printed.

Examples:
  pktgen rfc8219 --tx eth2 --rx eth3 --dst 64:ff9b::198.18.0.2 --flows 60000 --max-rate 5M --sizes rfc
  # a first impression within a minute
  pktgen rfc8219 --tx eth2 --rx eth3 --dst 64:ff9b::198.18.0.2 --flows 60000 --max-rate 1M --trial 1s --stream 2s --repetitions 3`

// rfcSizes are those of RFC 8219 §5.1.1 for Ethernet, less the frame check
// sequence of 4 octets; the first is made larger where a stamp needs it.
var rfcSizes = []int{80, 124, 252, 508, 764, 1020, 1276, 1514}

// rfcTags is how many frames the RFC wants to be tagged at least; the tester
// stamps all.
const rfcTags = 500

// tests of RFC 8219, in the order in which they run.
var rfc8219Tests = []string{"throughput", "loss", "latency", "pdv"}

type rfc8219Flags struct {
	measureFlags
	tests, sizes, maxRate, streamRate string
	acceptable, relative              float64
	repetitions, again                int
	trial, stream                     time.Duration
}

func newRFC8219Flags(stdout, stderr io.Writer) *rfc8219Flags {
	fs := &rfc8219Flags{measureFlags: measureFlags{sendFlags: sendFlags{Flags: newFlags("rfc8219", rfc8219Help, "rfc8219 --tx IF --rx IF [FLAGS]", stdout, stderr)}}}
	fs.declareEnds()
	fs.declareWays("both")
	fs.flowFlags.declareFlows(fs.Flags)
	fs.portFlags.declare(fs.Flags)
	fs.BoolVar(&fs.json, "json", false, "print the results as one JSON object")
	fs.StringVar(&fs.tests, "tests", strings.Join(rfc8219Tests, ","), "`LIST` of tests to run")
	fs.StringVar(&fs.sizes, "sizes", "", "`OCTETS,OCTETS...` of frames on the --tx side, without check sequence, or rfc for all that RFC 8219 names (default the smallest)")
	fs.StringVar(&fs.maxRate, "max-rate", "1M", "frames per second in each direction at which the search begins: the medium's `RATE`")
	fs.StringVar(&fs.streamRate, "stream-rate", "", "`RATE` of the streams for latency and PDV (default the throughput that was found)")
	fs.Float64Var(&fs.acceptable, "loss", 0, "`SHARE` of frames that may be lost in a trial that passes, such as 0.00001")
	fs.Float64Var(&fs.relative, "precision", 0.01, "`SHARE` of the throughput at which the search ends")
	fs.IntVar(&fs.again, "verify-loss", 0, "`number` of times that a trial with too much loss is repeated before it counts (ETSI GS NFV-TST 009); 0 is the RFC's")
	fs.DurationVar(&fs.trial, "trial", time.Minute, "`TIME` of a trial of throughput and frame loss")
	fs.DurationVar(&fs.stream, "stream", time.Minute, "`TIME` of a stream for PDV, and half that of one for latency")
	fs.IntVar(&fs.repetitions, "repetitions", 20, "`number` of streams for latency, and for PDV")
	return fs
}

// sizeResult is what was measured with one size of frames; what was not is nil.
type sizeResult struct {
	Size       int                 `json:"size"`
	Throughput *search.Found       `json:"throughput,omitempty"`
	Loss       []rfc8219.LossPoint `json:"frame_loss,omitempty"`
	Latency    *rfc8219.Latency    `json:"latency,omitempty"`
	PDV        *rfc8219.PDV        `json:"pdv,omitempty"`
}

// rfc8219Result is what --json prints.
type rfc8219Result struct {
	Direction   string       `json:"direction"`
	Flows       uint64       `json:"flows"`
	Loss        float64      `json:"acceptable_loss"`
	Trial       float64      `json:"trial_s"`
	Stream      float64      `json:"stream_s"`
	Repetitions int          `json:"repetitions"`
	Interrupted bool         `json:"interrupted"`
	Sizes       []sizeResult `json:"sizes"`
}

func runRFC8219(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newRFC8219Flags(stdout, stderr)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	direction, learn, err := fs.ways()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	c, err := fs.ends()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	options, tests, err := fs.options(direction, fs.least(&c))
	if err != nil {
		return fs.Misuse(err.Error())
	}
	r := rfc8219Result{
		Direction: fs.direction, Flows: c.Flows.Len(), Loss: fs.acceptable, Trial: fs.trial.Seconds(), Stream: fs.stream.Seconds(), Repetitions: fs.repetitions,
	}
	err = withTester(ctx, c, learn, func(t *generator.Tester) error {
		for _, o := range options {
			size := sizeResult{Size: o.Size}
			err := fs.test(ctx, t, o, tests, &size)
			r.Sizes = append(r.Sizes, size)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if ctx.Err() != nil && len(r.Sizes) > 0 {
		r.Interrupted, err = true, nil
	}
	if len(r.Sizes) > 0 { // also after an error: what was measured until then
		err = errors.Join(err, r.print(stdout, fs.json))
	}
	if err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// withTester opens the interfaces, has each flow known, and calls do.
func withTester(ctx context.Context, c generator.Config, learn float64, do func(*generator.Tester) error) error {
	t, err := generator.Open(c)
	if err != nil {
		return err
	}
	if err = learnAll(ctx, t, learn, c.Flows); err == nil {
		err = do(t)
	}
	return errors.Join(err, t.Close())
}

// options are those of each size.
func (fs *rfc8219Flags) options(d trial.Direction, least int) (all []rfc8219.Options, tests map[string]bool, err error) {
	if tests, err = parseTests(fs.tests, rfc8219Tests); err != nil {
		return nil, nil, err
	}
	most, err := parseRate(fs.maxRate)
	if err != nil || most == 0 {
		return nil, nil, fmt.Errorf("--max-rate %q: give frames per second such as 1M", fs.maxRate)
	}
	if (tests["latency"] || tests["pdv"]) && !tests["throughput"] && fs.streamRate == "" {
		return nil, nil, errors.New("--tests: latency and pdv need the throughput, or a --stream-rate")
	}
	if fs.trial <= 0 || fs.stream <= 0 || fs.repetitions < 1 {
		return nil, nil, errors.New("--trial, --stream and --repetitions must be above 0")
	}
	if !(fs.acceptable >= 0 && fs.acceptable < 1) || !(fs.relative > 0 && fs.relative < 1) || fs.again < 0 {
		return nil, nil, errors.New("--loss and --precision are shares between 0 and 1, --verify-loss is 0 or more")
	}
	if rate, err := parseRate(fs.streamRate); fs.streamRate != "" && (err != nil || rate == 0) {
		return nil, nil, fmt.Errorf("--stream-rate %q: give frames per second such as 100k", fs.streamRate)
	}
	sizes, err := parseFrameSizes(fs.sizes, least)
	for _, size := range sizes {
		all = append(all, rfc8219.Options{
			Size: size, Direction: d, Trial: fs.trial,
			Search:  search.Options{High: most, Error: 1, Relative: fs.relative, Loss: fs.acceptable, Verify: fs.again},
			Latency: rfc8219.Stream{Duration: 2 * fs.stream, TagAfter: fs.stream, Tags: rfcTags, Repetitions: fs.repetitions},
			PDV:     rfc8219.Stream{Duration: fs.stream, Repetitions: fs.repetitions},
		})
	}
	return all, tests, err
}

// parseTests reads a list of names out of known.
func parseTests(list string, known []string) (map[string]bool, error) {
	tests := map[string]bool{}
	for name := range strings.SplitSeq(list, ",") {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("--tests: %q is none of %s", name, strings.Join(known, ", "))
		}
		tests[name] = true
	}
	return tests, nil
}

// parseFrameSizes reads --sizes.
func parseFrameSizes(list string, least int) (sizes []int, err error) {
	switch list {
	case "":
		return []int{least}, nil
	case "rfc":
		for _, n := range rfcSizes {
			if n = max(n, least); !slices.Contains(sizes, n) {
				sizes = append(sizes, n)
			}
		}
		return sizes, nil
	}
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < least || n > traffic.MaxFrame {
			return nil, fmt.Errorf("--sizes: %q: frames of these flows have %d to %d octets", word, least, traffic.MaxFrame)
		}
		sizes = append(sizes, n)
	}
	return sizes, nil
}

// test runs the tests of one size; what is done stands in r, also after an error.
func (fs *rfc8219Flags) test(ctx context.Context, t *generator.Tester, o rfc8219.Options, tests map[string]bool, r *sizeResult) error {
	rate := 0.0
	if fs.streamRate != "" {
		var err error
		if rate, err = parseRate(fs.streamRate); err != nil {
			return fmt.Errorf("--stream-rate: %w", err)
		}
	}
	if tests["throughput"] {
		o.Search.Progress = stepsOn(fs.Stderr, fmt.Sprintf("throughput, %d octets", o.Size))
		found, err := rfc8219.Throughput(ctx, t, o)
		if err != nil {
			return err
		}
		if r.Throughput = &found; rate == 0 {
			rate = found.Rate
		}
	}
	if tests["loss"] {
		points, err := rfc8219.FrameLossRate(ctx, t, o)
		if r.Loss = points; err != nil {
			return err
		}
	}
	if rate == 0 {
		return nil // nothing passed: there is no rate at which to measure delays
	}
	if tests["latency"] {
		l, err := rfc8219.MeasureLatency(ctx, t, o, rate)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		r.Latency = &l
	}
	if tests["pdv"] {
		p, err := rfc8219.MeasurePDV(ctx, t, o, rate)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		r.PDV = &p
	}
	return nil
}

// stepsOn shows a line for each trial of a search, if somebody looks.
func stepsOn(out io.Writer, what string) func(search.Step) {
	if progressOn(out) == nil {
		return nil
	}
	return func(s search.Step) {
		verdict := "too much loss"
		if s.Passed {
			verdict = "passed"
		}
		fmt.Fprintf(out, "%s: %.0f/s offered %.0f/s, lost %.4g %%, %s\n", what, s.Rate, s.Offered, s.Loss*100, verdict)
	}
}

func (r *rfc8219Result) print(out io.Writer, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	fmt.Fprintf(out, "RFC 8219, %s, %d flows; rates are of each direction; trials of %.4g s, %d streams of %.4g s (PDV) and %.4g s (latency)\n",
		r.Direction, r.Flows, r.Trial, r.Repetitions, r.Stream, 2*r.Stream)
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for i := range r.Sizes {
		r.Sizes[i].print(t, r.Loss)
	}
	t.Flush()
	if r.Interrupted {
		fmt.Fprintln(out, "interrupted: this is the result so far")
	}
	return nil
}

func (s *sizeResult) print(t io.Writer, acceptable float64) {
	name := fmt.Sprintf("%d octets", s.Size)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, what, fmt.Sprintf(format, args...))
		name = ""
	}
	if f := s.Throughput; f != nil {
		row("throughput", "%s, with at most %.4g %% lost; %d trials", foundText(f, "frames/s"), acceptable*100, len(f.Steps))
	}
	for _, p := range s.Loss {
		row("frame loss", "%.4g %% at %.0f frames/s (offered %.0f)", p.Loss*100, p.Rate, p.Offered)
	}
	if l := s.Latency; l != nil {
		row("latency", "typical %s, worst case %s at %.0f frames/s; %d frames, at most %.4g %% lost", micros(l.Typical), micros(l.Worst), l.Rate, l.Tags, l.Loss*100)
	}
	if p := s.PDV; p != nil {
		row("PDV", "%s, least delay %s at %.0f frames/s; at most %.4g %% lost", micros(p.PDV), micros(p.Min), p.Rate, p.Loss*100)
	}
}

// foundText is a rate that was found, with what limits it.
func foundText(f *search.Found, unit string) string {
	switch {
	case f.AtLeast:
		return fmt.Sprintf("at least %.0f %s (the tester's or the search's limit)", f.Rate, unit)
	case f.Rate == 0:
		return fmt.Sprintf("none: %.0f %s failed", f.Error, unit)
	}
	return fmt.Sprintf("%.0f %s (%.0f failed)", f.Rate, unit, f.Rate+f.Error)
}

// micros is a summary of nanoseconds: the median, and between which others lie.
func micros(s trial.Summary) string {
	return fmt.Sprintf("%.1f µs (%.1f to %.1f)", s.Median/1e3, s.P1/1e3, s.P99/1e3)
}
