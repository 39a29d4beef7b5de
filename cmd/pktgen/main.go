// Command pktgen generates packets, receives them and measures what lies
// between: flags and wiring; the work is done by the packages below bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// version is set by the build: -ldflags "-X main.version=…".
var version string

// Exit codes, the same for all commands.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// command is one subcommand. run gets what stands behind the name, and a
// context that ends with SIGINT or SIGTERM: a command then stops cleanly and
// shows what it has so far. It returns an exit code.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdout, stderr io.Writer) int
}

// commands is the table of all subcommands: a new one is a line here and a
// file of its own.
func commands() []command {
	return []command{
		{"send", "send stamped frames", runSend},
		{"receive", "receive stamped frames and count what is missing", runReceive},
		{"measure", "send and receive: loss, rate, reordering, delay", runMeasure},
		{"replay", "send the frames of a capture file", runReplay},
		{"rfc8219", "throughput, frame loss, latency and delay variation of a translator", runRFC8219},
		{"rfc9693", "connection establishment and tear-down rate, table capacity", runRFC9693},
		{"forward", "forward between two interfaces, to measure against", runForward},
	}
}

func main() { os.Exit(dispatch(os.Args[1:], os.Stdout, os.Stderr)) }

func dispatch(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprintf(stderr, "pktgen: no command; give one of %s (pktgen --help)\n", commandNames())
		return exitUsage
	}
	switch args[0] {
	case "--help", "-help", "-h", "help":
		usage(stdout)
		return exitOK
	case "--version", "-version", "version":
		fmt.Fprintln(stdout, "pktgen", versionString())
		return exitOK
	}
	for _, c := range commands() {
		if c.name == args[0] {
			// A second signal ends the process at once.
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop)
			return c.run(ctx, args[1:], stdout, stderr)
		}
	}
	fmt.Fprintf(stderr, "pktgen: command %q is unknown; give one of %s (pktgen --help)\n", args[0], commandNames())
	return exitUsage
}

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

func usage(out io.Writer) {
	fmt.Fprint(out, "pktgen generates packets over AF_XDP, receives them and measures what lies between. Needs root.\n\nUsage:\n  pktgen COMMAND [FLAGS]\n\nCommands:\n")
	t := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.summary)
	}
	t.Flush()
	fmt.Fprint(out, "\n'pktgen COMMAND --help' lists a command's flags, 'pktgen --version' prints the version.\n")
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

// newFlags returns the flags of a command. about is what its help says first,
// synopsis its usage line without the program's name.
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
		fmt.Fprintln(fs.stdout, "pktgen", versionString())
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
	fmt.Fprintf(fs.stderr, "pktgen %s: %s (pktgen %s --help)\n", fs.Name(), what, fs.Name())
	return exitUsage
}

// failure says in one line what went wrong at run time.
func (fs *commandFlags) failure(err error) int {
	fmt.Fprintf(fs.stderr, "pktgen %s: %s\n", fs.Name(), strings.ReplaceAll(err.Error(), "\n", "; "))
	return exitFailure
}

// dashes turns the flag package's spelling of flags into ours.
var dashes = strings.NewReplacer("not defined: -", "not defined: --", "needs an argument: -", "needs an argument: --", "for flag -", "for flag --")

func (fs *commandFlags) help() {
	fmt.Fprintf(fs.stdout, "%s\n\nUsage:\n  pktgen %s\n\nFlags:\n", fs.about, fs.synopsis)
	t := tabwriter.NewWriter(fs.stdout, 0, 8, 3, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(t, "  --%s\t%s\n", strings.TrimSpace(f.Name+" "+value), text)
	})
	t.Flush()
}
