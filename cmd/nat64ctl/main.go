// Command nat64ctl looks into a running nat64d over its Unix socket and steers
// it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/control"
)

// version is set by the linker (-X main.version=…); go install leaves it empty.
var version string

const defaultSocket = "/run/nat64d.sock"

// program is one run of nat64ctl. Used by one goroutine.
type program struct {
	out    *bufio.Writer
	stdout io.Writer // behind out
	errs   io.Writer
	client *control.Client
	json   bool
	now    func() time.Time
	second <-chan time.Time // when `stats --watch` looks again
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, time.Now, tick.C))
}

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, now func() time.Time, second <-chan time.Time) int {
	p := &program{out: bufio.NewWriter(stdout), stdout: stdout, errs: stderr, now: now, second: second}
	err := p.dispatch(ctx, args)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil // the user's own Ctrl-C
	}
	if ferr := p.out.Flush(); err == nil && ferr != nil {
		err = fmt.Errorf("writing the output: %w", ferr)
	}
	if err == nil {
		return commandline.OK
	}
	var bad control.ConfigError
	if errors.As(err, &bad) {
		for _, problem := range bad.Problems {
			fmt.Fprintf(stderr, "nat64ctl: %s\n", problem)
		}
		return commandline.Usage
	}
	fmt.Fprintf(stderr, "nat64ctl: %v\n", err)
	if errors.As(err, new(usageError)) {
		return commandline.Usage
	}
	return commandline.Failure
}

// options are the flags that every command takes, before or after its name.
type options struct {
	socket        string
	json          bool
	help, version bool
}

func (o *options) register(fs *flag.FlagSet) {
	fs.StringVar(&o.socket, "socket", o.socket, "")
	fs.BoolVar(&o.json, "json", o.json, "")
	fs.BoolVar(&o.help, "help", o.help, "")
	fs.BoolVar(&o.help, "h", o.help, "")
	fs.BoolVar(&o.version, "version", o.version, "")
}

// dispatch finds the command and runs it.
func (p *program) dispatch(ctx context.Context, args []string) error {
	o := options{socket: defaultSocket}
	words, err := parse("nat64ctl", &o, args, true)
	if err != nil {
		return err
	}
	if o.version {
		fmt.Fprintln(p.out, "nat64ctl", commandline.Version(version))
		return nil
	}
	if len(words) == 0 {
		if !o.help {
			return usagef("no command; give one of %s (see nat64ctl --help)", commandNames())
		}
		p.out.WriteString(helpText())
		return nil
	}
	name := words[0]
	c, err := find(name)
	if err != nil {
		return err
	}
	r := request{}
	words, err = parse(name, &o, words[1:], false, func(fs *flag.FlagSet) {
		if c.flags != nil {
			c.flags(fs, &r)
		}
	})
	if err != nil {
		return err
	}
	if o.version {
		fmt.Fprintln(p.out, "nat64ctl", commandline.Version(version))
		return nil
	}
	if o.help {
		p.out.WriteString(c.help())
		return nil
	}
	r.words = words
	p.client, p.json = control.NewClient(o.socket), o.json
	return c.run(&r, ctx, p)
}

// parse reads flags and words in any order. With stop set it leaves everything
// behind the first word alone.
func parse(name string, o *options, args []string, stop bool, more ...func(*flag.FlagSet)) ([]string, error) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	o.register(fs)
	for _, m := range more {
		m(fs)
	}
	var words []string
	for {
		if err := fs.Parse(args); err != nil {
			return nil, usagef("%s (see %s --help)", commandline.Mistake(err), fullName(name))
		}
		args = fs.Args()
		if len(args) == 0 || stop {
			return append(words, args...), nil
		}
		words, args = append(words, args[0]), args[1:]
		if len(args) > 0 && negative(args[0]) {
			words, args = append(words, args[0]), args[1:]
		}
	}
}

// negative is a number below zero: a wrong value, but no flag.
func negative(word string) bool {
	_, err := strconv.Atoi(word)
	return err == nil && word[0] == '-'
}

func fullName(name string) string {
	if name == "nat64ctl" {
		return name
	}
	return "nat64ctl " + name
}

// find returns the command called name.
func find(name string) (*command, error) {
	all := commands()
	for i := range all {
		if all[i].name == name {
			return &all[i], nil
		}
	}
	return nil, usagef("command %q is unknown; give one of %s", name, commandNames())
}
