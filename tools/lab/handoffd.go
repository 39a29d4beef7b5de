package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"handoff64/handoff/server"
)

// Handoffd is a handoff server in a host of a lab. One goroutine starts, stops
// and restarts it; what asks it may be called from any, also while it does not
// run: its table is there as it left it.
type Handoffd struct {
	Args []string // further flags of `handoffd run`; a change counts from the next start

	process
	lab      *Lab
	host     Host
	binaries Binaries
}

// Handoffd prepares a handoff server in a host, with its state in the lab's
// folder; Start runs it.
func (l *Lab) Handoffd(host string, binaries Binaries) *Handoffd {
	return &Handoffd{
		process: process{name: "handoffd", logFile: filepath.Join(l.Dir, host+".handoffd.log")},
		lab:     l, host: l.Host(host), binaries: binaries,
	}
}

// StateDir holds its table and, unless Args says otherwise, its log.
func (h *Handoffd) StateDir() string { return filepath.Join(h.lab.Dir, h.host.Name+".handoffd") }

// EventLog is the log of who was behind which port.
func (h *Handoffd) EventLog() string { return filepath.Join(h.StateDir(), "handoffd.log") }

// Start runs handoffd and waits until it is ready.
func (h *Handoffd) Start(ctx context.Context) error {
	if err := os.MkdirAll(h.StateDir(), 0o750); err != nil {
		return fmt.Errorf("handoffd folder: %w", err)
	}
	args := append([]string{"run", "--state-dir", h.StateDir()}, h.Args...)
	if err := h.start(h.host, h.binaries.Handoffd, args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		status, err := h.Status(ctx)
		if err == nil && status.Ready {
			return nil
		}
		select {
		case <-h.ended:
			return fmt.Errorf("handoffd ended before it was ready (%v); its log:\n%s", h.waitErr, h.Log())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("handoffd is not ready: %w (last answer: %v); its log:\n%s", ctx.Err(), err, h.Log()), h.Kill())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Run runs a command of handoffd on this server's state and returns what it
// printed.
func (h *Handoffd) Run(ctx context.Context, command string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, h.binaries.Handoffd, append([]string{command, "--state-dir", h.StateDir()}, args...)...)
	out, err := printed(cmd)
	if err != nil {
		return out, fmt.Errorf("handoffd %s %v: %w", command, args, err)
	}
	return out, nil
}

// Status is what `handoffd status --json` says.
func (h *Handoffd) Status(ctx context.Context) (s server.Status, err error) {
	out, err := h.Run(ctx, "status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("handoffd status printed %q: %w", out, err)
	}
	return s, nil
}

// Entries is what `handoffd entries --json` says.
func (h *Handoffd) Entries(ctx context.Context) ([]server.Row, error) {
	out, err := h.Run(ctx, "entries", "--json")
	if err != nil {
		return nil, err
	}
	return parseLines[server.Row]("handoffd entries", out)
}

// Lookup says who is behind an address and port, as `handoffd lookup` does.
func (h *Handoffd) Lookup(ctx context.Context, mapped string, args ...string) (string, error) {
	out, err := h.Run(ctx, "lookup", append([]string{mapped}, args...)...)
	return strings.TrimSpace(out), err
}
