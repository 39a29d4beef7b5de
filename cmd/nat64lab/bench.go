package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"handoff64/cmd/commandline"
	"handoff64/tools/lab"
	"handoff64/tools/lab/benchmark"
)

func benchFlags(set *flag.FlagSet, s *settings) {
	o := &s.bench
	o.Groups = benchmark.Groups()
	set.Func("groups", "of "+strings.Join(o.Groups, ", ")+", the `names` of what to measure (default all; none: show what is there)", words(&o.Groups))
	set.StringVar(&o.Source, "source", ".", "`folder` of the module")
	set.StringVar(&o.Dir, "out", "bench/results", "`folder` for JSON and SVG")
	set.StringVar(&o.Document, "document", "", "Markdown `file` whose tables are renewed")
	set.IntVar(&o.Count, "count", 3, "`number` of runs of each Go benchmark")
	set.StringVar(&s.binDir, "bin-dir", "", "`folder` of nat64d, nat64ctl and pktgen (default: where nat64lab is, then the PATH)")
}

// runBench measures and shows.
func runBench(ctx context.Context, s *settings, args []string) (err error) {
	if err := noArguments(args); err != nil {
		return err
	}
	o := s.bench
	o.Out, o.Version, o.Log = s.out, commandline.Version(version), slog.New(slog.NewTextHandler(os.Stderr, nil))
	if slices.Equal(o.Groups, []string{"none"}) {
		o.Groups = nil
	}
	for _, g := range o.Groups {
		if !slices.Contains(benchmark.Groups(), g) {
			return usageError{fmt.Errorf("--groups: %q is none of %s", g, strings.Join(benchmark.Groups(), ", "))}
		}
	}
	if o.Count < 1 {
		return usageError{errors.New("--count starts at 1")}
	}
	if lab.NeedRoot() == nil {
		if o.Binaries, err = s.binaries(); err != nil {
			return err
		}
		if o.Nat64lab, err = os.Executable(); err != nil {
			return fmt.Errorf("find nat64lab: %w", err)
		}
		o.Pktgen = filepath.Join(filepath.Dir(o.Binaries.Nat64d), "pktgen")
	}
	return benchmark.Run(ctx, o)
}
