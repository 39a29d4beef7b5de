package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/demo"
	"handoff64/tools/lab/throughput"
)

func nameFlag(set *flag.FlagSet, s *settings) { named(set, s, lab.DefaultName) }

func named(set *flag.FlagSet, s *settings, name string) {
	set.StringVar(&s.options.Name, "name", name, "`name` of the network, and prefix of its namespaces")
}

// buildFlags are those of all commands that build a network with nat64d.
func buildFlags(set *flag.FlagSet, s *settings) {
	set.IntVar(&s.options.Queues, "queues", 1, "`number` of RX and TX queues of every interface, and of nat64d's workers")
	set.StringVar(&s.binDir, "bin-dir", "", "`folder` of nat64d, nat64ctl and handoffd (default: where nat64lab is, then the PATH)")
}

func upFlags(set *flag.FlagSet, s *settings) {
	nameFlag(set, s)
	buildFlags(set, s)
	set.BoolVar(&s.options.Routers, "routers", false, "put a router on each side, r6 and r4")
	set.IntVar(&s.options.Clients, "clients", 1, "`number` of clients, 1 or 2 (2 needs --routers)")
	set.IntVar(&s.options.Servers, "servers", 1, "`number` of servers, 1 to 3 (more than 1 needs --routers)")
	set.IntVar(&s.options.MTU4, "mtu4", 1500, "MTU in `octets` of the servers' links")
	set.IntVar(&s.options.MTU6, "mtu6", 1500, "MTU in `octets` of the clients' links")
	set.BoolVar(&s.noDaemon, "no-nat64d", false, "do not start nat64d")
}

func demoFlags(set *flag.FlagSet, s *settings) {
	// Names of their own, so that they run beside a network that is up.
	named(set, s, "nat64demo")
	buildFlags(set, s)
	set.BoolVar(&s.keep, "keep", false, "leave the network and nat64d up at the end")
	set.Int64Var(&s.megabyte, "mb", 100, "size of the download in `megabytes`")
}

func throughputFlags(set *flag.FlagSet, s *settings) {
	named(set, s, "nat64tput")
	buildFlags(set, s)
	set.IntVar(&s.seconds, "seconds", 5, "`seconds` of each run")
	set.IntVar(&s.runs, "runs", 3, "`number` of runs, of which the median counts")
}

// noArguments refuses what a command would otherwise ignore.
func noArguments(args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// binaries finds the programs beside this one.
func (s *settings) binaries() (lab.Binaries, error) {
	dir := s.binDir
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return lab.Binaries{}, fmt.Errorf("find the folder of nat64lab: %w", err)
		}
		dir = filepath.Dir(self)
	}
	return lab.FindBinaries(dir)
}

func runUp(ctx context.Context, s *settings, args []string) (err error) {
	if err := noArguments(args); err != nil {
		return err
	}
	if err := s.options.Check(); err != nil {
		return usageError{err}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	var binaries lab.Binaries
	if !s.noDaemon {
		if binaries, err = s.binaries(); err != nil {
			return err
		}
	}
	l, err := lab.Up(s.options)
	if err != nil {
		return err
	}
	if !s.noDaemon {
		d := l.Daemon(binaries)
		d.Config["workers"] = map[string]any{"count": s.options.Queues}
		if err := d.Start(ctx); err != nil {
			return errors.Join(err, l.Down())
		}
	}
	if err := l.Disown(); err != nil {
		return errors.Join(err, l.Down())
	}
	describe(s, l)
	return nil
}

// describe tells a newcomer what can be done with the network.
func describe(s *settings, l *lab.Lab) {
	name := ""
	if l.Options.Name != lab.DefaultName {
		name = " --name " + l.Options.Name
	}
	fmt.Fprintf(s.out, "network %s is up: %s\n", l.Options.Name, strings.Join(l.Hosts(), ", "))
	fmt.Fprintf(s.out, "  client %s, server %s, which the client calls %s\n\n", l.Client(), l.Server(), lab.Embed(l.Server()))
	fmt.Fprintf(s.out, "  nat64lab exec%s client -- ping %s\n", name, lab.Embed(l.Server()))
	if !s.noDaemon {
		fmt.Fprintf(s.out, "  nat64ctl --socket %s sessions\n  less %s\n", l.Socket(), l.LogFile())
	}
	fmt.Fprintf(s.out, "  nat64lab down%s\n", name)
}

func runDown(_ context.Context, s *settings, args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	return lab.Down(s.options.Name)
}

// runExec becomes the program, so that signals, terminal and exit code are
// the program's own.
func runExec(_ context.Context, s *settings, args []string) error {
	if len(args) < 1 {
		return usageError{errors.New("which host?")}
	}
	host, argv := args[0], args[1:]
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return usageError{errors.New("which program?")}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	l, err := lab.Open(s.options.Name)
	if err != nil {
		return err
	}
	if !slices.Contains(l.Hosts(), host) {
		return usageError{fmt.Errorf("no host %q in %s; there are %s", host, l.Options.Name, strings.Join(l.Hosts(), ", "))}
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	return l.Host(host).Enter(func() error {
		return fmt.Errorf("run %s: %w", program, unix.Exec(program, argv, os.Environ()))
	})
}

func runList(_ context.Context, s *settings, args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	names, err := lab.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		l, err := lab.Open(name)
		if err != nil {
			fmt.Fprintf(s.out, "%s\t(incomplete; `nat64lab down --name %s` removes it)\n", name, name)
			continue
		}
		fmt.Fprintf(s.out, "%s\t%s\n", name, strings.Join(l.Hosts(), " "))
	}
	return nil
}

func runDemo(ctx context.Context, s *settings, args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	if s.megabyte < 1 {
		return usageError{errors.New("--mb starts at 1")}
	}
	if err := s.options.Check(); err != nil {
		return usageError{err}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	binaries, err := s.binaries()
	if err != nil {
		return err
	}
	return demo.Run(ctx, demo.Options{Lab: s.options, Binaries: binaries, Out: s.out, Keep: s.keep, Octets: s.megabyte * 1_000_000})
}

func runThroughput(ctx context.Context, s *settings, args []string) error {
	if err := noArguments(args); err != nil {
		return err
	}
	if s.seconds < 1 || s.runs < 1 {
		return usageError{errors.New("--seconds and --runs start at 1")}
	}
	if err := s.options.Check(); err != nil {
		return usageError{err}
	}
	if err := lab.NeedRoot(); err != nil {
		return err
	}
	binaries, err := s.binaries()
	if err != nil {
		return err
	}
	return throughput.Run(ctx, throughput.Options{Lab: s.options, Binaries: binaries, Out: s.out, Seconds: s.seconds, Runs: s.runs})
}
