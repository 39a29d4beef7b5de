// Command pktgen generates packets, receives them and measures what lies
// between: flags and wiring; the work is done by the packages below bench.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"

	"handoff64/cmd/commandline"

	"golang.org/x/sys/unix"
)

// version is set by the build: -ldflags "-X main.version=…".
var version string

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
		return commandline.Usage
	}
	switch args[0] {
	case "--help", "-help", "-h", "help":
		usage(stdout)
		return commandline.OK
	case "--version", "-version", "version":
		fmt.Fprintln(stdout, "pktgen", commandline.Version(version))
		return commandline.OK
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
	return commandline.Usage
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

// newFlags returns the flags of a command. about is what its help says first,
// synopsis its usage line without the program's name.
func newFlags(name, about, synopsis string, stdout, stderr io.Writer) *commandline.Flags {
	return commandline.NewFlags("pktgen", commandline.Version(version), name, about, synopsis, stdout, stderr)
}
