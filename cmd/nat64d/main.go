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
	"strings"
	"text/tabwriter"

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

'nat64d COMMAND --help' lists a command's flags, 'nat64d --version' prints the version.
A running nat64d is looked into with nat64ctl.
`

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

func dispatch(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintln(stderr, "nat64d: no command; give one of run, check, replay (nat64d --help)")
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
	fmt.Fprintf(stderr, "nat64d: command %q is unknown; give one of run, check, replay (nat64d --help)\n", args[0])
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

// commandFlags is one command's flags in the house style: errors in one line on
// stderr, help on stdout, two dashes.
type commandFlags struct {
	*flag.FlagSet
	about, synopsis string
	stdout, stderr  io.Writer
}

func newFlags(name, about, synopsis string, stdout, stderr io.Writer) *commandFlags {
	fs := &commandFlags{flag.NewFlagSet(name, flag.ContinueOnError), about, synopsis, stdout, stderr}
	fs.SetOutput(io.Discard)
	fs.Usage = func() {} // the package also calls it after a mistake
	return fs
}

// parse returns an exit code and false when the command ends here.
func (fs *commandFlags) parse(args []string) (int, bool) {
	wantVersion := fs.Bool("version", false, "print the version")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.help()
		return exitOK, false
	case err == nil && *wantVersion:
		fmt.Fprintln(fs.stdout, "nat64d", versionString())
		return exitOK, false
	case err != nil:
		return fs.misuse(dashes.Replace(err.Error())), false
	case fs.NArg() > 0:
		return fs.misuse(fmt.Sprintf("unexpected argument %q", fs.Arg(0))), false
	}
	return exitOK, true
}

// misuse says in one line what is wrong with the command line.
func (fs *commandFlags) misuse(what string) int {
	fmt.Fprintf(fs.stderr, "nat64d %s: %s (nat64d %s --help)\n", fs.Name(), what, fs.Name())
	return exitUsage
}

// dashes turns the flag package's spelling of flags into ours.
var dashes = strings.NewReplacer("not defined: -", "not defined: --", "needs an argument: -", "needs an argument: --", "for flag -", "for flag --")

func (fs *commandFlags) help() {
	fmt.Fprintf(fs.stdout, "%s\n\nUsage:\n  nat64d %s\n\nFlags:\n", fs.about, fs.synopsis)
	t := tabwriter.NewWriter(fs.stdout, 0, 8, 3, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(t, "  --%s\t%s\n", strings.TrimSpace(f.Name+" "+value), text)
	})
	t.Flush()
}

// loadConfig reads and validates the file; problems go to stderr, one a line.
func loadConfig(file string, stderr io.Writer) (*config.Config, bool) {
	_, c, ok := loadDocument(file, stderr)
	return c, ok
}

// loadDocument is loadConfig that gives the text as well.
func loadDocument(file string, stderr io.Writer) (config.Document, *config.Config, bool) {
	if file == "" {
		fmt.Fprintln(stderr, "nat64d: --config FILE is missing; give one such as --config /etc/nat64d/nat64d.json")
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
	fs := newFlags("check", "Lists every problem of a configuration with its line, then warnings. Needs no privileges.\nThe exit code is 2 when there is a problem.",
		"check --config FILE", stdout, stderr)
	file := fs.String("config", "", "configuration `FILE` (JSON)")
	if code, ok := fs.parse(args); !ok {
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
