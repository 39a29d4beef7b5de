package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program that runs in a host until it is told to stop. It
// outlives its starter: whoever made the lab may leave it to Down, called from
// anywhere. One goroutine starts and ends it; the zero value was not started.
type process struct {
	name    string // for messages
	logFile string

	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has been waited for
	waitErr error         // valid once ended is closed
}

// start runs a program of the host; both its outputs go to the log.
func (p *process) start(h Host, program string, args ...string) error {
	log, err := os.OpenFile(p.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("%s log: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own: Ctrl-C at the demo's terminal must not reach it
	// before the demo has shown its last figures.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := h.Start(cmd); err != nil {
		return err
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		p.waitErr = cmd.Wait()
		close(ended)
	}(p.ended)
	return nil
}

// PID is the process that was started last.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Stop asks the program to stop and returns what came of it: nil for exit
// code 0.
func (p *process) Stop() error {
	if err := p.end(unix.SIGTERM); err != nil {
		return err
	}
	if p.waitErr != nil {
		return fmt.Errorf("%s after SIGTERM: %w; its log:\n%s", p.name, p.waitErr, p.Log())
	}
	return nil
}

// Kill ends the program without giving it a chance to clean up.
func (p *process) Kill() error { return p.end(unix.SIGKILL) }

// Hangup sends SIGHUP, at which a daemon reads its configuration anew.
func (p *process) Hangup() error { return p.signal(unix.SIGHUP) }

// Freeze stops the program where it is, as a machine that is far too busy would.
func (p *process) Freeze() error { return p.signal(unix.SIGSTOP) }

// Thaw lets it go on.
func (p *process) Thaw() error { return p.signal(unix.SIGCONT) }

// signal sends a signal that the program outlives.
func (p *process) signal(s unix.Signal) error {
	if p.cmd == nil {
		return fmt.Errorf("%s was not started", p.name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s to %s: %w", unix.SignalName(s), p.name, err)
	}
	return nil
}

// Running says whether the program was started and has not ended.
func (p *process) Running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// end sends a signal and waits for the process.
func (p *process) end(signal unix.Signal) error {
	if p.cmd == nil {
		return fmt.Errorf("%s was not started", p.name)
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s to %s: %w", signal, p.name, err)
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(4 * stopTimeout):
		return fmt.Errorf("%s still runs %s after %s; its log:\n%s", p.name, 4*stopTimeout, signal, p.Log())
	}
}

// Log is what all instances of the program in this lab have logged so far.
func (p *process) Log() string {
	content, err := os.ReadFile(p.logFile)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	return string(content)
}
