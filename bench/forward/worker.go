package forward

import (
	"context"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// These are those of nat64d's workers; its empty rounds take four times as long.
const (
	burstSize      = 64
	burstsPerPort  = 4
	idleRounds     = 64
	idleSleepMS    = 50
	laggingSleepMS = 1
)

// Counters say what became of packets: Received = Sent + TXFull.
type Counters struct {
	Received uint64 `json:"received"`
	Sent     uint64 `json:"sent"`
	TXFull   uint64 `json:"tx_full"` // lost because the other interface's TX ring was full
}

// worker forwards between its queues of the two interfaces. Owned by one
// goroutine; others read what it shows.
type worker struct {
	umem   *ring.UMEM
	frames *ring.FrameStack
	ports  [2][]ring.Port
	cpu    int

	rewrite   [2]bool     // by the side that is sent on
	addresses [2][12]byte // destination and source

	count Counters
	shown struct{ received, sent, txFull atomic.Uint64 }
	descs [burstSize]ring.Desc
}

func newWorker(umem *ring.UMEM, frames *ring.FrameStack, ports [2][]ring.Port) *worker {
	return &worker{umem: umem, frames: frames, ports: ports}
}

// setAddresses makes what is sent on a side go to a station.
func (w *worker) setAddresses(side int, to, from [6]byte) {
	w.rewrite[side] = true
	copy(w.addresses[side][:6], to[:])
	copy(w.addresses[side][6:], from[:])
}

// run polls until ctx ends.
func (w *worker) run(ctx context.Context, busy bool) error {
	runtime.LockOSThread()
	if w.cpu >= 0 {
		if err := pin(w.cpu); err != nil {
			return err
		}
	}
	var fds []unix.PollFd
	for _, ports := range w.ports {
		for _, p := range ports {
			fds = append(fds, unix.PollFd{Fd: int32(p.PollFD()), Events: unix.POLLIN})
		}
	}
	for idle := 0; ctx.Err() == nil; {
		if w.poll() > 0 || busy {
			idle = 0
			continue
		}
		if idle++; idle > idleRounds {
			_, _ = unix.Poll(fds, w.sleepMS()) // EINTR only costs a round
		}
	}
	return nil
}

// sleepMS is how long to sleep if nothing comes.
func (w *worker) sleepMS() int {
	for _, ports := range w.ports {
		for _, p := range ports {
			if lag, ok := p.(ring.Lagging); ok && lag.TXPending() {
				return laggingSleepMS
			}
		}
	}
	return idleSleepMS
}

// poll does one round: some bursts from every port, then a word to every port, so
// that nothing waits for what comes next.
func (w *worker) poll() int {
	n := 0
	for side, ports := range w.ports {
		for _, p := range ports {
			for range burstsPerPort {
				moved := w.move(p, 1-side)
				if n += moved; moved < burstSize {
					break
				}
			}
		}
	}
	for _, ports := range w.ports {
		for _, p := range ports {
			p.Flush()
		}
	}
	if n > 0 {
		w.shown.received.Store(w.count.Received)
		w.shown.sent.Store(w.count.Sent)
		w.shown.txFull.Store(w.count.TXFull)
	}
	return n
}

// move takes a burst from a port and sends it on the other side. What the TX
// ring does not take, also after the device was told to empty it, is lost and
// counted: waiting would stop all else.
func (w *worker) move(from ring.Port, to int) int {
	n := from.Recv(w.descs[:])
	if n == 0 {
		return 0
	}
	for _, d := range w.descs[:n] {
		w.address(w.umem.Packet(d), to)
	}
	out := w.ports[to][0]
	sent := out.Send(w.descs[:n])
	for sent < n {
		out.Flush()
		more := out.Send(w.descs[sent:n])
		if more == 0 {
			break
		}
		sent += more
	}
	for _, d := range w.descs[sent:n] {
		w.frames.Push(d.Addr)
	}
	w.count.Received += uint64(n)
	w.count.Sent += uint64(sent)
	w.count.TXFull += uint64(n - sent)
	return n
}

// address writes the Ethernet addresses of a frame that leaves on a side.
func (w *worker) address(frame []byte, side int) {
	if len(frame) < 12 {
		return // the filter lets none of these through
	}
	if w.rewrite[side] {
		copy(frame[:12], w.addresses[side][:])
		return
	}
	var from [6]byte
	copy(from[:], frame[6:12])
	copy(frame[6:12], frame[:6])
	copy(frame[:6], from[:])
}
