// Package asavie forwards between two interfaces with the Socket of
// github.com/asavie/xdp, to keep the comparison with ring/xsk honest: it is
// written against that package's own interface the way its examples use it.
// Each Socket has a UMEM of its own, so each frame is copied from one to
// the other.
package asavie

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"
)

// Config says what to forward.
type Config struct {
	Interfaces [2]string
	NextHop    [2][6]byte // station that gets what is sent on an interface
	Queue      int        // of both interfaces
	CPU        int        // to pin to; negative: wherever

	// Options of both sockets; nil: the package's defaults (128 frames, rings
	// of 64).
	Options *xdp.SocketOptions
}

// Forwarder serves one queue of two interfaces. One goroutine runs it; Sent may
// be asked for from any.
type Forwarder struct {
	cfg      Config
	links    [2]*net.Interface
	programs [2]*xdp.Program
	attached [2]bool
	sockets  [2]*xdp.Socket
	sent     atomic.Uint64
}

// Open attaches the package's program to both interfaces, which gives each
// frame of the queue to the socket, and opens the sockets. It must run in
// the interfaces' network namespace, and so must Close.
func Open(cfg Config) (*Forwarder, error) {
	f := &Forwarder{cfg: cfg}
	for side := range 2 {
		if err := f.openSide(side); err != nil {
			return nil, errors.Join(fmt.Errorf("asavie: interface %q: %w", cfg.Interfaces[side], err), f.Close())
		}
	}
	return f, nil
}

func (f *Forwarder) openSide(side int) (err error) {
	if f.links[side], err = net.InterfaceByName(f.cfg.Interfaces[side]); err != nil {
		return err
	}
	index := f.links[side].Index
	if f.programs[side], err = xdp.NewProgram(f.cfg.Queue + 1); err != nil {
		return err
	}
	if err := f.programs[side].Attach(index); err != nil {
		return err
	}
	f.attached[side] = true
	if f.sockets[side], err = f.newSocket(index); err != nil {
		return err
	}
	return f.programs[side].Register(f.cfg.Queue, f.sockets[side].FD())
}

// releaseTimeout is how long a queue may still be held by a socket that was
// closed: the kernel frees it a little later.
const releaseTimeout = 3 * time.Second

// newSocket waits for the queue. The package's errors do not wrap the errno.
func (f *Forwarder) newSocket(index int) (*xdp.Socket, error) {
	for deadline := time.Now().Add(releaseTimeout); ; time.Sleep(10 * time.Millisecond) {
		s, err := xdp.NewSocket(index, f.cfg.Queue, f.cfg.Options)
		if err == nil || !strings.Contains(err.Error(), unix.EBUSY.Error()) || time.Now().After(deadline) {
			return s, err
		}
	}
}

// pollMS bounds how long Run takes to notice that ctx ended.
const pollMS = 50

// Run forwards until ctx ends. An errno that makes the package panic ends it
// with an error.
func (f *Forwarder) Run(ctx context.Context) (err error) {
	runtime.LockOSThread()
	if f.cfg.CPU >= 0 {
		var set unix.CPUSet
		set.Set(f.cfg.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("asavie: pin to CPU %d: %w", f.cfg.CPU, err)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asavie: Transmit panicked: %v", p)
		}
	}()
	for ctx.Err() == nil {
		var fds [2]unix.PollFd
		for i, s := range f.sockets {
			s.Fill(s.GetDescs(s.NumFreeFillSlots()))
			fds[i] = unix.PollFd{Fd: int32(s.FD()), Events: unix.POLLIN}
			if s.NumTransmitted() > 0 {
				fds[i].Events |= unix.POLLOUT
			}
		}
		if _, err := unix.Poll(fds[:], pollMS); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("asavie: poll: %w", err)
		}
		for i, s := range f.sockets {
			if n := s.NumCompleted(); n > 0 {
				s.Complete(n)
			}
			if n := s.NumReceived(); n > 0 {
				f.move(i, n)
			}
		}
	}
	return nil
}

// move copies n received frames into the other socket's and sends them. What
// there is no room for is lost, as it would be with any switch.
func (f *Forwarder) move(from, n int) {
	in, out, to := f.sockets[from], f.sockets[1-from], 1-from
	received := in.Receive(n)
	sending := out.GetDescs(out.NumFreeTxSlots())
	count := min(len(received), len(sending))
	for i := range count {
		frame := out.GetFrame(sending[i])
		sending[i].Len = uint32(copy(frame, in.GetFrame(received[i])))
		copy(frame[:6], f.cfg.NextHop[to][:])
		copy(frame[6:12], f.links[to].HardwareAddr)
	}
	if count > 0 {
		f.sent.Add(uint64(out.Transmit(sending[:count])))
	}
}

// Sent is the number of frames given to the kernel.
func (f *Forwarder) Sent() uint64 { return f.sent.Load() }

// Close gives the interfaces back. Run has returned before.
func (f *Forwarder) Close() error {
	var errs []error
	for side := range 2 {
		if f.attached[side] {
			errs = append(errs, f.programs[side].Detach(f.links[side].Index))
		}
		if f.sockets[side] != nil {
			errs = append(errs, f.sockets[side].Close())
		}
		if f.programs[side] != nil {
			errs = append(errs, f.programs[side].Close())
		}
	}
	return errors.Join(errs...)
}
