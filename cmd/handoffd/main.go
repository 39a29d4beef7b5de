// Command handoffd is the NAT64 handoff server: it runs on an IPv4-only host and
// keeps the authoritative connection table of the NAT64s that speak to it.
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
	"syscall"

	"handoff64/cmd/commandline"
)

// version is set by the linker (-X main.version=…); go install leaves it empty.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a mistake on the command line or in the configuration.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	err := dispatch(ctx, args, stdout, stderr)
	if err == nil {
		return commandline.OK
	}
	fmt.Fprintf(stderr, "handoffd: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, new(usageError)) {
		return commandline.Usage
	}
	return commandline.Failure
}

// program is what a command gets. Used by one goroutine.
type program struct {
	ctx            context.Context
	stdout, stderr io.Writer
}

// command is one row of the list of commands. Read only.
type command struct {
	name, usage, about string
	run                func(p *program, c *command, args []string) error
}

func commands() []command {
	return []command{
		{"run", runUsage, "serve NAT64s until told to stop", runServer},
		{"entries", entriesUsage, "show the authoritative table", showEntries},
		{"lookup", lookupUsage, "say who is, or was, behind an address and port", lookup},
		{"annotate", annotateUsage, "add the real client to each line of another program's log", annotateLog},
		{"mode", modeUsage, "show the mode of the running server, or change it", showMode},
		{"status", statusUsage, "show whether the server is ready, its NAT64s and its counters", showStatus},
	}
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("no command; give one of %s (see handoffd --help)", commandNames())
	}
	switch args[0] {
	case "--help", "-help", "-h", "help":
		_, err := io.WriteString(stdout, helpText())
		return err
	case "--version", "-version":
		_, err := fmt.Fprintln(stdout, "handoffd", commandline.Version(version))
		return err
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(&program{ctx, stdout, stderr}, &c, args[1:])
		}
	}
	return usagef("command %q is unknown; give one of %s (see handoffd --help)", args[0], commandNames())
}

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

func helpText() string {
	var b strings.Builder
	b.WriteString("handoffd keeps the authoritative connection table of NAT64s on an IPv4-only host.\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  handoffd %-8s %s\n", c.name, c.about)
	}
	b.WriteString("\nhandoffd COMMAND --help tells more, handoffd --version the version.\n")
	return b.String()
}

// parse reads a command's flags and words in any order. done says that --help or
// --version was all that was asked for.
func (c *command) parse(p *program, fs *flag.FlagSet, args []string) (words []string, done bool, err error) {
	fs.SetOutput(io.Discard)
	var help, wantVersion bool
	fs.BoolVar(&help, "help", false, "")
	fs.BoolVar(&help, "h", false, "")
	fs.BoolVar(&wantVersion, "version", false, "")
	for {
		if err := fs.Parse(args); err != nil {
			return nil, false, usagef("%s (see handoffd %s --help)", commandline.Mistake(err), c.name)
		}
		args = fs.Args()
		if len(args) == 0 {
			break
		}
		words, args = append(words, args[0]), args[1:]
	}
	switch {
	case help:
		_, err = fmt.Fprintf(p.stdout, "%s\n\n%s", c.about, c.usage)
		return nil, true, err
	case wantVersion:
		_, err = fmt.Fprintln(p.stdout, "handoffd", commandline.Version(version))
		return nil, true, err
	}
	return words, false, nil
}

// noWords refuses words where there are only flags.
func (c *command) noWords(words []string) error {
	if len(words) > 0 {
		return usagef("%s takes no argument %q (see handoffd %s --help)", c.name, words[0], c.name)
	}
	return nil
}
