package benchmark

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/perf/benchfmt"

	"handoff64/tools/lab/compare"
)

// goRun is one call of go test. Benchmarks that need many operations to mean
// something get their number, others a time.
type goRun struct{ pattern, benchtime string }

var goRuns = map[string][]goRun{
	groupMemory:   {{"Calibration|Dataplane$", "200ms"}},
	groupSessions: {{"Calibration", "200ms"}, {"Establish|Expire|Teardown", "1000000x"}, {"Scaling", "5000000x"}},
}

// goBenchmarks runs a group's benchmarks, all of them once, then all again.
func (o *Options) goBenchmarks(ctx context.Context, group string) (command string, all []Benchmark, err error) {
	var commands []string
	runs := map[string]map[string][]float64{}
	var order []string
	for round := range o.Count {
		for _, r := range goRuns[group] {
			if round == 0 {
				commands = append(commands, fmt.Sprintf("go test %s -run '^$' -bench '%s' -benchtime %s -count %d ./bench", profiled, r.pattern, r.benchtime, o.Count))
			}
			out, err := o.goTest(ctx, r)
			if err != nil {
				return "", nil, err
			}
			if order, err = read(out, runs, order); err != nil {
				return "", nil, err
			}
		}
	}
	for _, name := range order {
		b := Benchmark{Name: name, Units: map[string]compare.Spread{}}
		for unit, values := range runs[name] {
			b.Units[unit] = compare.SpreadOf(values)
		}
		all = append(all, b)
	}
	return strings.Join(commands, "\n"), all, nil
}

// profiled compiles benchmarks as nat64d is compiled; go test by itself does not.
const profiled = "-pgo=cmd/nat64d/default.pgo"

// goTest runs benchmarks without the tests.
func (o *Options) goTest(ctx context.Context, r goRun) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "test", profiled, "-run", "^$", "-bench", r.pattern, "-benchtime", r.benchtime, "./bench")
	cmd.Dir = o.Source
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %w: %s%s", cmd.Args, err, &stderr, out)
	}
	return out, nil
}

// read adds what go test printed to runs, by name and unit; order is that in
// which names came first.
func read(out []byte, runs map[string]map[string][]float64, order []string) ([]string, error) {
	r := benchfmt.NewReader(bytes.NewReader(out), "go test")
	for r.Scan() {
		result, ok := r.Result().(*benchfmt.Result)
		if !ok {
			continue // a line that is no result
		}
		name := nameOf(result.Name)
		if runs[name] == nil {
			runs[name] = map[string][]float64{}
			order = append(order, name)
		}
		for _, v := range result.Values {
			unit, value := v.Unit, v.Value
			if v.OrigUnit != "" { // the reader makes sec/op of ns/op
				unit, value = v.OrigUnit, v.OrigValue
			}
			runs[name][unit] = append(runs[name][unit], value)
		}
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("read what go test printed: %w", err)
	}
	return order, nil
}

// nameOf leaves out the number of processors at the end.
func nameOf(n benchfmt.Name) string {
	name := string(n)
	if i := strings.LastIndexByte(name, '-'); i > 0 && strings.Trim(name[i+1:], "0123456789") == "" {
		name = name[:i]
	}
	return name
}
