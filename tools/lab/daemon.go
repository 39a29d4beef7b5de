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

	"golang.org/x/sys/unix"
)

// readyTimeout bounds the wait for a started nat64d.
const readyTimeout = 30 * time.Second

// Binaries says where the programs under test are.
type Binaries struct {
	Nat64d, Nat64ctl string
}

// FindBinaries looks for the programs in a folder, then along the PATH.
func FindBinaries(dir string) (Binaries, error) {
	var b Binaries
	for name, path := range map[string]*string{"nat64d": &b.Nat64d, "nat64ctl": &b.Nat64ctl} {
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

// Daemon is a nat64d in the nat64 host of a lab. One goroutine starts, stops
// and restarts it; Ctl and what is built on it may be called from any.
type Daemon struct {
	Config map[string]any // what it runs with; a change counts from the next start

	lab      *Lab
	binaries Binaries
	cmd      *exec.Cmd
	ended    chan struct{} // closed when the process has been waited for
	waitErr  error         // valid once ended is closed
}

// DefaultConfig is a configuration that fits the lab.
func (l *Lab) DefaultConfig() map[string]any {
	return map[string]any{
		"ipv6_interface": IPv6Interface,
		"ipv4_interface": IPv4Interface,
		"pool6":          []string{Pool6.String()},
		"pool4":          []map[string]any{{"address": Pool4.String(), "ports": "1024-65535"}},
		"assign_pool4":   true,
		"workers":        map[string]any{"count": 1},
		"poll":           "adaptive",
		"metrics":        "",
		"control_socket": l.Socket(),
	}
}

// Socket is where a nat64d of the lab listens for nat64ctl.
func (l *Lab) Socket() string { return filepath.Join(l.Dir, "nat64d.sock") }

// ConfigFile is the configuration of the lab's nat64d.
func (l *Lab) ConfigFile() string { return filepath.Join(l.Dir, "nat64d.json") }

// LogFile is the log of all nat64d that ran in the lab.
func (l *Lab) LogFile() string { return filepath.Join(l.Dir, "nat64d.log") }

// tablesOf is where the nat64d of a lab keeps its sessions: in memory, where a
// restarted one finds them, and where Down knows to look.
func tablesOf(name string) string { return filepath.Join("/dev/shm/nat64lab", name) }

// Daemon prepares a nat64d with the default configuration; Start runs it.
func (l *Lab) Daemon(binaries Binaries) *Daemon {
	return &Daemon{lab: l, binaries: binaries, Config: l.DefaultConfig()}
}

// Start writes the configuration, runs nat64d and waits until it is ready.
// The process outlives its starter: whoever made the lab may leave it to
// Down, called from anywhere.
func (d *Daemon) Start(ctx context.Context) error {
	config, err := json.MarshalIndent(d.Config, "", "  ")
	if err != nil {
		return fmt.Errorf("nat64d configuration: %w", err)
	}
	if err := os.WriteFile(d.lab.ConfigFile(), append(config, '\n'), 0o644); err != nil {
		return fmt.Errorf("nat64d configuration: %w", err)
	}
	log, err := os.OpenFile(d.lab.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("nat64d log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(d.binaries.Nat64d, "run", "--config", d.lab.ConfigFile(), "--tables", tablesOf(d.lab.Options.Name))
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C at the demo's terminal must not reach it
	// before the demo has shown its last figures.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := d.lab.Host("nat64").Start(cmd); err != nil {
		return err
	}
	d.cmd, d.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		d.waitErr = cmd.Wait()
		close(ended)
	}(d.ended)
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

// Stop asks nat64d to stop and returns what came of it: nil for exit code 0.
func (d *Daemon) Stop() error {
	if err := d.end(unix.SIGTERM); err != nil {
		return err
	}
	if d.waitErr != nil {
		return fmt.Errorf("nat64d after SIGTERM: %w; its log:\n%s", d.waitErr, d.Log())
	}
	return nil
}

// Kill ends nat64d without giving it a chance to clean up.
func (d *Daemon) Kill() error { return d.end(unix.SIGKILL) }

// Restart stops nat64d and starts it again.
func (d *Daemon) Restart(ctx context.Context) error {
	if err := d.Stop(); err != nil {
		return err
	}
	return d.Start(ctx)
}

// Running says whether nat64d was started and has not ended.
func (d *Daemon) Running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// end sends a signal and waits for the process.
func (d *Daemon) end(signal unix.Signal) error {
	if d.cmd == nil {
		return errors.New("nat64d was not started")
	}
	if err := d.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to nat64d: %w", signal, err)
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(4 * stopTimeout):
		return fmt.Errorf("nat64d still runs %s after %s; its log:\n%s", 4*stopTimeout, signal, d.Log())
	}
}

// Log is what the lab's nat64d have logged so far.
func (d *Daemon) Log() string {
	content, err := os.ReadFile(d.lab.LogFile())
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(content)
}

// Ctl runs nat64ctl against the daemon and returns its standard output.
func (d *Daemon) Ctl(ctx context.Context, args ...string) (string, error) {
	return d.lab.Ctl(ctx, d.binaries, args...)
}

// Ctl runs nat64ctl against the lab's nat64d, whoever started that.
func (l *Lab) Ctl(ctx context.Context, binaries Binaries, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, binaries.Nat64ctl, append([]string{"--socket", l.Socket()}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("nat64ctl %v: %w: %s", args, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
