package main

import (
	"errors"
	"flag"
	"fmt"

	"handoff64/handoff/server"
)

const modeUsage = `  handoffd mode [minimal|local-nat|mixed] [--state-dir DIR]

Without an argument prints the mode of the running server. With one changes it, until the next
start: entries and addresses stay, connections go on. local-nat and mixed need the TUN device,
which a server makes at its start: in that mode, or with --mode-changes.
`

// showMode asks the running server, for its mode or for another one.
func showMode(p *program, c *command, args []string) error {
	fs := flag.NewFlagSet("mode", flag.ContinueOnError)
	stateDir := fs.String("state-dir", server.DefaultStateDir, "")
	words, done, err := c.parse(p, fs, args)
	if err != nil || done {
		return err
	}
	if len(words) > 1 {
		return usagef("mode takes one mode at most (see handoffd mode --help)")
	}
	if len(words) == 1 {
		m, err := server.ParseMode(words[0])
		if err != nil {
			return usageError{err}
		}
		return server.ChangeMode(p.ctx, *stateDir, m)
	}
	v, err := server.OpenView(p.ctx, *stateDir)
	if err != nil {
		return err
	}
	st, err := v.Status(p.ctx)
	if err == nil {
		_, err = fmt.Fprintln(p.stdout, st.Mode)
	}
	return errors.Join(err, v.Close())
}
