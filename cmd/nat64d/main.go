// Command nat64d is the translator: AF_XDP poll-mode workers between an
// IPv6-only and an IPv4 network.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"handoff64/cmd/nat64d/config"
)

// version is set by the build: -ldflags "-X main.version=…".
var version string

// Exit codes, the same for all commands.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

const usage = `nat64d translates between IPv6-only clients and IPv4 servers (NAT64).

Usage:
  nat64d run --config FILE [--pprof ADDR] [--profile KIND] [--profile-dir DIR] [--tables DIR]
  nat64d check --config FILE
  nat64d replay --config FILE --ipv6-in PCAP --ipv4-in PCAP --ipv6-out PCAP --ipv4-out PCAP [--drops]

Commands:
  run      translate until SIGTERM or SIGINT
  check    validate a configuration; lists every problem, not just the first
  replay   the same data path over capture files, without privileges

'nat64d COMMAND --help' lists a command's flags. A running nat64d is looked into with nat64ctl.
`

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

func dispatch(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "run":
		return runCommand(args[1:], stdout, stderr)
	case "check":
		return checkCommand(args[1:], stdout, stderr)
	case "replay":
		return replayCommand(args[1:], stdout, stderr)
	case "--help", "-help", "-h", "help":
		fmt.Fprint(stdout, usage)
		return exitOK
	case "--version", "-version", "version":
		fmt.Fprintln(stdout, "nat64d", versionString())
		return exitOK
	}
	fmt.Fprintf(stderr, "nat64d: unknown command %q; one of run, check, replay (nat64d --help)\n", args[0])
	return exitUsage
}

// versionString is what the build said, else what the toolchain recorded.
func versionString() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// flags returns a flag set in the house style: errors in one line, help on
// stdout.
func newFlags(name, synopsis string, stdout io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {
		fs.SetOutput(stdout)
		fmt.Fprintf(stdout, "Usage:\n  nat64d %s\n\nFlags:\n", synopsis)
		fs.PrintDefaults()
	}
	return fs
}

// parse returns an exit code and false when the command ends here.
func parse(fs *flag.FlagSet, args []string, stderr io.Writer) (int, bool) {
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "nat64d %s: %v (nat64d %s --help)\n", fs.Name(), err, fs.Name())
		return exitUsage, false
	}
	return exitOK, true
}

// loadConfig reads and validates the file; problems go to stderr, one a line.
func loadConfig(file string, stderr io.Writer) (*config.Config, bool) {
	_, c, ok := loadDocument(file, stderr)
	return c, ok
}

// loadDocument is loadConfig that gives the text as well.
func loadDocument(file string, stderr io.Writer) (config.Document, *config.Config, bool) {
	if file == "" {
		fmt.Fprintln(stderr, "nat64d: --config FILE is missing")
		return config.Document{}, nil, false
	}
	data, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintf(stderr, "nat64d: configuration: %v\n", err)
		return config.Document{}, nil, false
	}
	text := config.NewDocument(file, data)
	c, problems := text.Parse()
	for _, p := range problems {
		fmt.Fprintln(stderr, p.Error())
	}
	return text, c, len(problems) == 0
}

func checkCommand(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("check", "check --config FILE", stdout)
	file := fs.String("config", "", "configuration `FILE` (JSON)")
	if code, ok := parse(fs, args, stderr); !ok {
		return code
	}
	c, ok := loadConfig(*file, stderr)
	if !ok {
		return exitUsage
	}
	for _, w := range c.Warnings {
		fmt.Fprintln(stderr, "warning:", w.Error())
	}
	fmt.Fprintf(stdout, "%s: ok\n", *file)
	return exitOK
}
