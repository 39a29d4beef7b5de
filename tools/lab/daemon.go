package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// readyTimeout bounds the wait for a started program.
const readyTimeout = 30 * time.Second

// Binaries says where the programs under test are.
type Binaries struct {
	Nat64d, Nat64ctl, Handoffd string
}

// FindBinaries looks for the programs in a folder, then along the PATH.
func FindBinaries(dir string) (Binaries, error) {
	var b Binaries
	for name, path := range map[string]*string{"nat64d": &b.Nat64d, "nat64ctl": &b.Nat64ctl, "handoffd": &b.Handoffd} {
		*path = filepath.Join(dir, name)
		if _, err := os.Stat(*path); err == nil {
			continue
		}
		found, err := exec.LookPath(name)
		if err != nil {
			return b, fmt.Errorf("%s is neither in %s nor in the PATH; build it with make build", name, dir)
		}
		*path = found
	}
	return b, nil
}

// Daemon is a nat64d in a translating host of a lab. One goroutine starts,
// stops and restarts it; Ctl and what is built on it may be called from any.
type Daemon struct {
	Config map[string]any // what it runs with; a change counts from the next start

	process
	lab      *Lab
	host     Host
	binaries Binaries
}

// DefaultConfig is a configuration that fits the lab's first nat64 host.
func (l *Lab) DefaultConfig() map[string]any { return l.configOf("nat64") }

// configOf is a configuration that fits a nat64 host. What nat64d keeps for
// itself lies in the lab's folder: labs share neither keys nor servers.
func (l *Lab) configOf(host string) map[string]any {
	pool6, pool4 := Pool6, Pool4
	if host == SecondNat64 {
		pool6, pool4 = SecondPool6, SecondPool4
	}
	return map[string]any{
		"ipv6_interface": IPv6Interface,
		"ipv4_interface": IPv4Interface,
		"pool6":          []string{pool6.String()},
		"pool4":          []map[string]any{{"address": pool4.String(), "ports": "1024-65535"}},
		"assign_pool4":   true,
		"workers":        map[string]any{"count": 1},
		"poll":           "adaptive",
		"metrics":        "",
		"control_socket": filepath.Join(l.dirOf(host), "nat64d.sock"),
		"handoff":        map[string]any{"key_file": filepath.Join(l.dirOf(host), "handoff.keys")},
	}
}

// dirOf is where the nat64d of a host has its configuration, log, socket and
// keys. A second one has a folder of its own in the lab's.
func (l *Lab) dirOf(host string) string {
	if host == "nat64" {
		return l.Dir
	}
	return filepath.Join(l.Dir, host)
}

// Socket is where the first nat64d of the lab listens for nat64ctl.
func (l *Lab) Socket() string { return filepath.Join(l.Dir, "nat64d.sock") }

// LogFile is the log of all instances of the first nat64d of the lab.
func (l *Lab) LogFile() string { return filepath.Join(l.Dir, "nat64d.log") }

// tablesOf is where the nat64d of a lab keep their sessions: in memory, where
// a restarted one finds them, and where Down knows to look.
func tablesOf(name string) string { return filepath.Join("/dev/shm/nat64lab", name) }

// Daemon prepares a nat64d in the nat64 host, with the default configuration;
// Start runs it.
func (l *Lab) Daemon(binaries Binaries) *Daemon { return l.DaemonOn("nat64", binaries) }

// DaemonOn is Daemon for a nat64 host of the caller's choice.
func (l *Lab) DaemonOn(host string, binaries Binaries) *Daemon {
	return &Daemon{
		process: process{name: "nat64d", logFile: filepath.Join(l.dirOf(host), "nat64d.log")},
		lab:     l, host: l.Host(host), binaries: binaries, Config: l.configOf(host),
	}
}

// Socket is where this nat64d listens for nat64ctl.
func (d *Daemon) Socket() string { return filepath.Join(d.lab.dirOf(d.host.Name), "nat64d.sock") }

// Tables is the folder of its session tables.
func (d *Daemon) Tables() string { return filepath.Join(tablesOf(d.lab.Options.Name), d.host.Name) }

// File is where its configuration lies.
func (d *Daemon) File() string { return filepath.Join(d.lab.dirOf(d.host.Name), "nat64d.json") }

// WriteConfig writes the configuration, for a start or a reload.
func (d *Daemon) WriteConfig() error {
	config, err := json.MarshalIndent(d.Config, "", "  ")
	if err != nil {
		return fmt.Errorf("nat64d configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(d.File()), 0o755); err != nil {
		return fmt.Errorf("nat64d folder: %w", err)
	}
	if err := os.WriteFile(d.File(), append(config, '\n'), 0o644); err != nil {
		return fmt.Errorf("nat64d configuration: %w", err)
	}
	return nil
}

// Start writes the configuration, runs nat64d and waits until it is ready.
func (d *Daemon) Start(ctx context.Context) error {
	if err := d.WriteConfig(); err != nil {
		return err
	}
	if err := d.start(d.host, d.binaries.Nat64d, "run", "--config", d.File(), "--tables", d.Tables()); err != nil {
		return err
	}
	return d.awaitReady(ctx)
}

// awaitReady polls the status until it says ready.
func (d *Daemon) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		status, err := d.Status(ctx)
		if err == nil && status.Ready {
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("nat64d ended before it was ready (%v); its log:\n%s", d.waitErr, d.Log())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("nat64d is not ready: %w (last answer: %v); its log:\n%s", ctx.Err(), err, d.Log()), d.Kill())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Restart stops nat64d and starts it again.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.Stop(); err != nil {
		return err
	}
	return d.Start(ctx)
}

// Ctl runs nat64ctl against the daemon and returns its standard output.
func (d *Daemon) Ctl(ctx context.Context, args ...string) (string, error) {
	return ctl(ctx, d.binaries, d.Socket(), args...)
}

// Ctl runs nat64ctl against the lab's first nat64d, whoever started that.
func (l *Lab) Ctl(ctx context.Context, binaries Binaries, args ...string) (string, error) {
	return ctl(ctx, binaries, l.Socket(), args...)
}

func ctl(ctx context.Context, binaries Binaries, socket string, args ...string) (string, error) {
	out, err := printed(exec.CommandContext(ctx, binaries.Nat64ctl, append([]string{"--socket", socket}, args...)...))
	if err != nil {
		return out, fmt.Errorf("nat64ctl %v: %w", args, err)
	}
	return out, nil
}

// printed runs a program and returns its standard output; the error holds what
// it said on the other.
func printed(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
