// Command nat64lab builds client–NAT64–server networks out of namespaces and
// veth pairs, and runs things in them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"handoff64/cmd/commandline"
	"handoff64/tools/lab"
	"handoff64/tools/lab/benchmark"
	"handoff64/tools/lab/compare"
	"handoff64/tools/lab/tunnels"
)

// version is set by the linker (-X main.version=…).
var version string

// usageError is a mistake on the command line.
type usageError struct{ error }

// command is one subcommand. It declares its flags on the set before run is
// called, and run gets what is left after them.
type command struct {
	name, args, summary string
	flags               func(*flag.FlagSet, *settings)
	run                 func(context.Context, *settings, []string) error
}

// settings are the values of all flags; each command declares those it has.
type settings struct {
	options  lab.Options
	binDir   string
	noDaemon bool
	keep     bool
	megabyte int64
	seconds  int
	runs     int
	compare  compare.Options
	bench    benchmark.Options
	tunnels  tunnels.Options
	tunnel   tunnels.End
	json     string
	out      io.Writer
}

func commands() []command {
	return []command{
		{"up", "", "build a network and start nat64d in it", upFlags, runUp},
		{"down", "", "take a network down, whatever is left of it", nameFlag, runDown},
		{"exec", "HOST -- CMD [ARG...]", "run a program in a host: client, nat64, server, r6, r4, ...", nameFlag, runExec},
		{"list", "", "list the networks that are up", func(*flag.FlagSet, *settings) {}, runList},
		{"demo", "", "show TCP, UDP, ICMP and handoff going through nat64d", demoFlags, runDemo},
		{"bench", "", "run the benchmarks that fit this machine: tables, JSON and plots", benchFlags, runBench},
		{"compare", "", "measure nat64d with small packets beside other devices", compareFlags, runCompare},
		{"tunnels", "", "measure servers that translate for themselves beside tunnels", tunnelsFlags, runTunnels},
		{"tunnel", "", "be one end of a tunnel, plain or WireGuard, to measure against", tunnelFlags, runTunnel},
		{"throughput", "", "measure TCP through nat64d beside plain kernel forwarding", throughputFlags, runThroughput},
	}
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process around it.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "nat64lab: no command; `nat64lab --help` lists them")
		return commandline.Usage
	}
	switch args[0] {
	case "--help", "-help", "-h", "help":
		usage(stdout)
		return commandline.OK
	case "--version", "-version":
		fmt.Fprintln(stdout, "nat64lab", commandline.Version(version))
		return commandline.OK
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return runCommand(c, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "nat64lab: unknown command %q; `nat64lab --help` lists them\n", args[0])
	return commandline.Usage
}

// runCommand parses the flags of one command and runs it.
func runCommand(c command, args []string, stdout, stderr io.Writer) int {
	s := &settings{out: stdout}
	set := flag.NewFlagSet("nat64lab "+c.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	showVersion := set.Bool("version", false, "print the version and exit")
	c.flags(set, s)
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "usage: nat64lab %s\n\n%s.\n\n", strings.TrimSpace(c.name+" [FLAGS] "+c.args), strings.TrimRight(strings.ToUpper(c.summary[:1])+c.summary[1:], "., "))
		set.SetOutput(stdout)
		set.VisitAll(func(f *flag.Flag) { printFlag(stdout, f) })
		return commandline.OK
	case err != nil:
		fmt.Fprintf(stderr, "nat64lab %s: %s; `nat64lab %s --help` explains\n", c.name, commandline.Mistake(err), c.name)
		return commandline.Usage
	case *showVersion:
		fmt.Fprintln(stdout, "nat64lab", commandline.Version(version))
		return commandline.OK
	}
	// A signal ends what is under way and lets it clean up; a second one
	// ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := c.run(ctx, s, set.Args())
	var misuse usageError
	switch {
	case errors.As(err, &misuse):
		fmt.Fprintf(stderr, "nat64lab %s: %v; `nat64lab %s --help` explains\n", c.name, err, c.name)
		return commandline.Usage
	case err != nil:
		fmt.Fprintf(stderr, "nat64lab %s: %v\n", c.name, err)
		return commandline.Failure
	}
	return commandline.OK
}

// printFlag writes a flag the way the documentation spells it, with two
// dashes.
func printFlag(w io.Writer, f *flag.Flag) {
	name, text := flag.UnquoteUsage(f)
	if name != "" {
		name = " " + strings.ToUpper(name)
	}
	if f.DefValue != "" && f.DefValue != "0" && f.DefValue != "false" {
		text += fmt.Sprintf(" (default %s)", f.DefValue)
	}
	fmt.Fprintf(w, "  --%-20s %s\n", f.Name+name, text)
}

func usage(w io.Writer) {
	fmt.Fprint(w, "usage: nat64lab COMMAND [FLAGS]\n\nBuilds networks of namespaces with a NAT64 in the middle. Needs root.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.summary)
	}
	fmt.Fprint(w, "\n`nat64lab COMMAND --help` lists the flags of a command; --version prints the version.\n")
}
