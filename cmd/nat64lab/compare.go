package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"handoff64/tools/lab"
	"handoff64/tools/lab/compare"
)

// compareFlags fill s.compare; lists are parsed where they are given.
func compareFlags(set *flag.FlagSet, s *settings) {
	o := &s.compare
	set.StringVar(&o.Name, "name", "nat64cmp", "`name` of the network, and prefix of its namespaces")
	set.StringVar(&s.binDir, "bin-dir", "", "`folder` of nat64d, nat64ctl and pktgen (default: where nat64lab is, then the PATH)")
	set.Func("devices", "of forward, nat64d, asavie, tayga and kernel, the `names` to measure (default all)", words(&o.Devices))
	set.Func("directions", "`64,46`: IPv6 to IPv4, IPv4 to IPv6 (default both)", words(&o.Directions))
	set.Func("counters", "`device,sender`: whose CPU receives what comes out, with one queue (default both)", words(&o.Counters))
	set.Func("queues", "`numbers` of queues and workers (default 1,2)", numbers(&o.Queues))
	set.Func("flows", "`numbers` of flows (default 1,10000)", numbers(&o.Flows))
	set.Func("frames", "`octets` of frames on the IPv6 side (default 80,1400)", numbers(&o.Frames))
	set.IntVar(&o.Rounds, "rounds", 3, "`number` of runs of each measurement, of which the median counts")
	set.StringVar(&o.Poll, "poll", "adaptive", "`adaptive` or busy, of forward and nat64d")
	set.DurationVar(&o.Window, "window", 0, "`time` of each run (default 400ms)")
	set.IntVar(&o.OfferedPPS, "offered", 2000000, "packets a second, `number` that are sent to measure throughput")
	set.IntVar(&o.LightPPS, "light", 10000, "packets a second, `number` at which latency is measured")
	set.StringVar(&o.BusyPoll, "busy-poll", "auto", "`auto`, on or off: busy polling of the interfaces by forward and nat64d")
	set.IntVar(&o.Ring, "ring-size", 0, "entries of each ring of forward and nat64d, a power of two `number` (default theirs)")
	set.IntVar(&o.PerQueue, "frames-per-queue", 0, "`number` of frames for each queue of forward and nat64d (default theirs)")
	set.BoolVar(&o.NoLatency, "no-latency", false, "measure throughput only")
	set.StringVar(&s.json, "json", "", "`file` to write the results to, beside the table")
}

func words(into *[]string) func(string) error {
	return func(list string) error {
		*into = strings.Split(list, ",")
		return nil
	}
}

func numbers(into *[]int) func(string) error {
	return func(list string) error {
		*into = nil
		for word := range strings.SplitSeq(list, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is not a positive number", word)
			}
			*into = append(*into, n)
		}
		return nil
	}
}

// runCompare measures and prints.
func runCompare(ctx context.Context, s *settings, args []string) (err error) {
	if err := noArguments(args); err != nil {
		return err
	}
	o := s.compare
	o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := o.Check(); err != nil {
		return usageError{err}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	if o.Binaries, err = s.binaries(); err != nil {
		return err
	}
	o.Pktgen = filepath.Join(filepath.Dir(o.Binaries.Nat64d), "pktgen")
	results, err := compare.Run(ctx, o)
	if err != nil {
		return err
	}
	if s.json != "" {
		content, err := json.MarshalIndent(results, "", "  ")
		if err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
		if err := os.WriteFile(s.json, append(content, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
	}
	return results.Print(s.out)
}
