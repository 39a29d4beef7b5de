package main

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"handoff64/handoff/annotate"
	"handoff64/handoff/server"
)

const annotateUsage = `  handoffd annotate [FLAGS] [FILE...] < access.log

Adds the real client to each line of another program's log: " client=[2001:db8::7]:38526" at
the end; client=? where nobody is known. Lines of clients without a NAT64 get their own address.
Reads nginx's and Apache's combined format with the port ("192.0.2.64 - - [...] ... port=38526"
or "192.0.2.64:38526 - - [...] ..."), what journalctl -o json prints (adds HANDOFF_CLIENT and
HANDOFF_CLIENT_PORT), and other text with "192.0.2.64:38526", "192.0.2.64 port 38526" or
"[192.0.2.64]:38526" in it. Without a FILE it reads its standard
input, and can stand behind tail -f. Everything else passes unchanged; a summary goes to stderr.

--field N         the address is the Nth word of a line, or the JSON field called N
--port-field N    the same for the port, where it does not follow the address
--by time|table   who had the port at the time of the line (the default), or who has it now
--replace         put the client in the place of the address and port, instead of adding it
--slack DURATION  how far apart the clocks of the two logs may be (default 2s)
--log FILE        the session log, if it is not where handoffd writes it
--state-dir DIR   of handoffd
--json            the summary as JSON
--quiet           no summary
`

// annotateFlags are the values of the command's flags.
type annotateFlags struct {
	options         annotate.Options
	by, log, state  string
	asJSON, isQuiet bool
}

func (f *annotateFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.options.Field, "field", "", "")
	fs.StringVar(&f.options.PortField, "port-field", "", "")
	fs.StringVar(&f.by, "by", "time", "")
	fs.BoolVar(&f.options.Replace, "replace", false, "")
	fs.DurationVar(&f.options.Slack, "slack", 2*time.Second, "")
	fs.StringVar(&f.log, "log", "", "")
	fs.StringVar(&f.state, "state-dir", server.DefaultStateDir, "")
	fs.BoolVar(&f.asJSON, "json", false, "")
	fs.BoolVar(&f.isQuiet, "quiet", false, "")
	f.options.Wait = 250 * time.Millisecond // as package client has it
}

func (f *annotateFlags) check() error {
	switch f.by {
	case "time":
	case "table":
		f.options.By = annotate.ByTable
	default:
		return usagef("--by %q: give time or table (see handoffd annotate --help)", f.by)
	}
	if f.options.Slack < 0 {
		return usagef("--slack %v is below zero (see handoffd annotate --help)", f.options.Slack)
	}
	return nil
}

func annotateLog(p *program, c *command, args []string) error {
	fs := flag.NewFlagSet("annotate", flag.ContinueOnError)
	var f annotateFlags
	f.register(fs)
	files, done, err := c.parse(p, fs, args)
	if err != nil || done {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	source, err := annotate.OpenSource(p.ctx, func(ctx context.Context) (server.View, error) {
		return server.OpenView(ctx, f.state)
	}, f.log)
	if err != nil {
		return err
	}
	if f.options.By == annotate.ByTime && !source.HasLog() {
		fmt.Fprintln(p.stderr, "handoffd: handoffd writes its log to standard output, so only what its table has is known; --log FILE names a copy")
	}
	a, err := annotate.New(p.ctx, source, f.options)
	if err != nil {
		if errors.Is(err, annotate.ErrField) {
			err = usageError{err}
		}
		return errors.Join(err, source.Close())
	}
	return unlessInterrupted(p.ctx, func() error {
		err := errors.Join(annotateFiles(p, a, files), source.Close())
		if !f.isQuiet {
			summarize(p.stderr, &a.Counts, f.asJSON)
		}
		return err
	})
}

// unlessInterrupted does not wait for more input after a signal: what had come
// until then is done, and written, a moment after it.
func unlessInterrupted(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(time.Second):
		return nil
	}
}

func annotateFiles(p *program, a *annotate.Annotator, files []string) error {
	if len(files) == 0 {
		return a.Run(p.ctx, os.Stdin, p.stdout)
	}
	for _, name := range files {
		if err := annotateFile(p, a, name); err != nil {
			return err
		}
	}
	return nil
}

// annotateFile reads a file, which may be compressed as log rotation does it.
func annotateFile(p *program, a *annotate.Annotator, name string) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("open a log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var in io.Reader = f
	if strings.HasSuffix(name, ".gz") {
		if in, err = gzip.NewReader(bufio.NewReader(f)); err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
	}
	if err := a.Run(p.ctx, in, p.stdout); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// summarize says what became of the lines; what did not happen is left out.
func summarize(w io.Writer, c *annotate.Counts, asJSON bool) {
	if asJSON {
		json.NewEncoder(w).Encode(c) // stderr: nobody is left to tell
		return
	}
	fmt.Fprintf(w, "handoffd: %d lines, %d with their client", c.Lines, c.Found)
	for _, part := range []struct {
		n    int
		text string
	}{
		{c.Direct, "without a NAT64"}, {c.IPv6, "IPv6 already"}, {c.Unknown, "of nobody known"},
		{c.Ambiguous, "of one of several"}, {c.NoAddress, "without an address"},
		{c.NoTime, "without a time (--by table asks who has the port now)"}, {c.TooLong, "too long"},
	} {
		if part.n > 0 {
			fmt.Fprintf(w, ", %d %s", part.n, part.text)
		}
	}
	fmt.Fprintln(w)
}
