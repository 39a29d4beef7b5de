package handoff

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// sleeper lets the worker sleep on its socket and be woken. The worker says that
// it is about to sleep and then looks at the rings once more; a packet worker
// pushes and then looks whether the worker sleeps. As both are atomic
// operations, at least one of them sees the other, so no record is left lying.
// rest is the worker's; wake and interrupt are anybody's.
type sleeper struct {
	asleep atomic.Bool
	event  *os.File // eventfd; a late write to a closed one does nothing
	fd     int      // its descriptor, for poll and read
	one    [8]byte  // what is written to the eventfd; read only
	buf    [8]byte
	fds    [2]unix.PollFd
	limit  unix.Timespec
}

func newSleeper() (*sleeper, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("handoff: eventfd: %w", err)
	}
	s := &sleeper{event: os.NewFile(uintptr(fd), "handoff eventfd"), fd: fd}
	binary.NativeEndian.PutUint64(s.one[:], 1)
	return s, nil
}

func (s *sleeper) close() error {
	if err := s.event.Close(); err != nil {
		return fmt.Errorf("handoff: %w", err)
	}
	return nil
}

// Wake tells the worker that something was pushed to it. Any goroutine, as
// often as it likes: it costs a system call only if the worker sleeps, and only
// the first who finds it so.
func (w *Worker) Wake() {
	if w.sleep.asleep.Load() && w.sleep.asleep.CompareAndSwap(true, false) {
		w.sleep.interrupt()
	}
}

// interrupt ends the present sleep, or the next one at once. It fails only after
// close, when nobody sleeps any more.
func (s *sleeper) interrupt() { s.event.Write(s.one[:]) }

// rest sleeps until a datagram, an ICMP error, a Wake, the next deadline, or the
// end of ctx.
func (w *Worker) rest(ctx context.Context) error {
	s := w.sleep
	s.asleep.Store(true)
	defer s.asleep.Store(false)
	if w.pending() || ctx.Err() != nil {
		return nil
	}
	s.limit = unix.NsecToTimespec(max(w.deadline()-int64(w.clock().Sub(w.start)), 0))
	s.fds = [2]unix.PollFd{{Fd: w.sock.ready[0].Fd, Events: unix.POLLIN}, {Fd: int32(s.fd), Events: unix.POLLIN}}
	if _, err := unix.Ppoll(s.fds[:], &s.limit, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("handoff: poll on the control socket: %w", err)
	}
	if s.fds[1].Revents != 0 {
		unix.Read(s.fd, s.buf[:]) // EAGAIN: it was read before
	}
	return nil
}

// pending says whether a packet worker has pushed something that there is room
// to work on.
func (w *Worker) pending() bool {
	for _, l := range w.links {
		if l.Out.Len() > 0 && room(l.Back) > 0 {
			return true
		}
	}
	return len(w.found) > 0 && !w.retries.crowded()
}
