package dataplane

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/conntrack"
)

// RunConfig says how a worker spends its time.
type RunConfig struct {
	CPU   int  // to pin to; negative: wherever the scheduler puts it
	Busy  bool // spin instead of sleeping when nothing comes
	Clock func() conntrack.Tick
}

const (
	// idleRounds is how many empty rounds an adaptive worker does before it
	// sleeps, some 2 µs: long enough to ride out the gaps of a busy link, and
	// less than a sleep costs. On a CPU that the worker shares with what feeds it,
	// every round more keeps packets away.
	idleRounds = 16
	// Sleeps are bounded, because timers, routes and parked packets have no
	// descriptor of their own.
	idleSleep   = 50 * time.Millisecond
	parkedSleep = 2 * time.Millisecond
	// laggingSleep is for packets that a device did not take yet.
	laggingSleep = time.Millisecond
)

// Run polls until ctx ends, on a thread of its own. It flushes what it has
// queued before it returns.
func (w *Worker) Run(ctx context.Context, c RunConfig) error {
	runtime.LockOSThread() // not unlocked: the pinned thread ends with its goroutine
	if c.CPU >= 0 {
		var set unix.CPUSet
		set.Set(c.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("worker %d: pin to CPU %d: %w", w.id, c.CPU, err)
		}
	}
	stop := context.AfterFunc(ctx, w.waker.wake)
	defer stop()
	fds := w.pollFDs()
	for idle := 0; ctx.Err() == nil; {
		n := w.Poll(c.Clock())
		w.wakeOthers()
		if n > 0 || c.Busy {
			idle = 0
			continue
		}
		if idle++; idle > idleRounds {
			w.sleep(fds)
		}
	}
	w.Poll(c.Clock())
	w.tell()
	return nil
}

// pollFDs is what an adaptive worker sleeps on.
func (w *Worker) pollFDs() []unix.PollFd {
	fds := []unix.PollFd{{Fd: int32(w.waker.fd), Events: unix.POLLIN}}
	for i := range w.rx {
		if fd := w.rx[i].PollFD(); fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	if w.local {
		if fd := w.kernel.port.PollFD(); fd >= 0 {
			fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	return fds
}

// sleep waits for a packet or a wake-up. The flag is raised before the rings
// are looked at for the last time, so that whoever adds to them afterwards
// sees it and wakes us.
func (w *Worker) sleep(fds []unix.PollFd) {
	timeout := w.sleepTime()
	w.waker.asleep.Store(true)
	if w.anythingWaiting() {
		timeout = 0
	}
	// EINTR and spurious wake-ups only cost a round.
	n, _ := unix.Poll(fds, int(timeout.Milliseconds()))
	w.waker.asleep.Store(false)
	if n > 0 && fds[0].Revents != 0 {
		w.waker.drain()
	}
}

// sleepTime is how long the worker may sleep if nobody wakes it.
func (w *Worker) sleepTime() time.Duration {
	for i := range w.rx {
		if lag := w.rx[i].lag; lag != nil && lag.TXPending() {
			return laggingSleep
		}
	}
	if w.parked.n > 0 {
		return parkedSleep
	}
	return idleSleep
}

// anythingWaiting looks into the rings that other goroutines fill.
func (w *Worker) anythingWaiting() bool {
	for from := range w.group.size() {
		if from != w.id && w.group.rings[from][w.id].Len() > 0 {
			return true
		}
	}
	return w.handoff != nil && w.handoff.In.Len() > 0
}

// Wake ends the worker's sleep, if it sleeps: something was pushed to it. Any
// goroutine.
func (w *Worker) Wake() {
	if w.waker.asleep.Load() {
		w.waker.wake()
	}
}

// wakeOthers wakes the workers that were given packets in this round.
func (w *Worker) wakeOthers() {
	for to := 0; w.gave != 0; to, w.gave = to+1, w.gave>>1 {
		if w.gave&1 != 0 {
			w.group.workers[to].Wake()
		}
	}
}

// waker ends a worker's sleep from any goroutine.
type waker struct {
	fd     int
	asleep atomic.Bool
}

func newWaker() (fd int, err error) {
	fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	return fd, nil
}

// wake never blocks: a full counter means that a wake-up is pending already.
func (k *waker) wake() { _, _ = unix.Write(k.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (k *waker) drain() {
	var b [8]byte
	_, _ = unix.Read(k.fd, b[:])
}

// NewClock returns a clock that counts as CLOCK_BOOTTIME does but costs no
// system call: the difference to the monotonic clock is taken once.
func NewClock() func() conntrack.Tick {
	var t unix.Timespec
	start := time.Now()
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		t = unix.Timespec{} // every supported kernel has it; counting from zero is right too
	}
	base := time.Duration(t.Nano())
	return func() conntrack.Tick {
		return conntrack.Tick((base + time.Since(start)) / (time.Second / conntrack.TicksPerSecond))
	}
}
