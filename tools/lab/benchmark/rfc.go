package benchmark

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"handoff64/tools/lab"
)

// tableLimit is the limit of sessions with which the capacity is looked for: one
// that the search has to find.
const tableLimit = 20_000

// rfc runs the procedures on nat64d over veth. The RFCs want hours: times and
// repetitions are shorter here, and results say so.
func (o *Options) rfc(ctx context.Context, r *RFC) error {
	r.Limit = tableLimit
	var commands []string
	pktgen := func(l *lab.Lab, into any, args ...string) error {
		commands = append(commands, "bin/pktgen "+strings.Join(quoted(args), " ")+" …")
		return o.pktgen(ctx, l, into, args...)
	}
	err := o.inLab(ctx, nil, func(l *lab.Lab) error {
		for _, direction := range []string{"6to4", "4to6"} {
			var one RFC8219
			if err := pktgen(l, &one, "rfc8219", "--direction", direction, "--flows", "10000", "--sizes", "80,1514", "--max-rate", "1M", "--loss", "0.001", "--verify-loss", "1",
				"--trial", "1s", "--stream", "500ms", "--repetitions", "3", "--wait", "300ms"); err != nil {
				return err
			}
			r.RFC8219 = append(r.RFC8219, one)
		}
		return pktgen(l, &r.RFC9693, "rfc9693", "--flows", "50000", "--max-rate", "1M", "--verify-loss", "1", "--repetitions", "5", "--wait", "300ms",
			"--empty", o.Binaries.Nat64ctl+" --socket "+l.Socket()+" flush")
	})
	if err != nil {
		return err
	}
	limits := map[string]any{"limits": map[string]any{"sessions": tableLimit}}
	err = o.inLab(ctx, limits, func(l *lab.Lab) error {
		return pktgen(l, &r.Capacity, "rfc9693", "--tests", "capacity", "--flows", "50000", "--max-rate", "200k", "--verify-loss", "1",
			"--safe", "10000", "--within", "2500", "--wait", "300ms", "--empty", o.Binaries.Nat64ctl+" --socket "+l.Socket()+" flush")
	})
	r.Command = strings.Join(commands, "\n")
	return err
}

// quoted writes arguments as a shell would need them, paths of this machine left
// out.
func quoted(args []string) (words []string) {
	for i, a := range args {
		if i > 0 && args[i-1] == "--empty" {
			a = "'bin/nat64ctl --socket … flush'"
		}
		words = append(words, a)
	}
	return words
}

// inLab builds a network with nat64d, whose configuration has further keys.
func (o *Options) inLab(ctx context.Context, more map[string]any, do func(*lab.Lab) error) (err error) {
	l, err := lab.Up(lab.Options{Name: "nat64bench"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	d := l.Daemon(o.Binaries)
	for k, v := range more {
		d.Config[k] = v
	}
	if err := d.Start(ctx); err != nil {
		return err
	}
	return errors.Join(do(l), d.Stop())
}

// pktgen runs the program between client and server, and reads what it prints.
func (o *Options) pktgen(ctx context.Context, l *lab.Lab, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, o.Pktgen, append(args, "--json", "--dst", lab.Embed(l.Server()).String(),
		"--tx", "eth0", "--tx-netns", l.Host("client").Path(), "--rx", "eth0", "--rx-netns", l.Host("server").Path())...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("pktgen %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("pktgen %s printed %q: %w", args[0], out, err)
	}
	return nil
}
