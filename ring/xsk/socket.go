package xsk

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// Socket is one AF_XDP socket: one queue of one interface. It implements
// ring.Port and belongs to one worker, but for Stats and the counters behind
// it, which any goroutine may read while the Device is open.
type Socket struct {
	fd    int
	link  string
	queue int

	umem *ring.UMEM
	free *ring.FrameStack
	rx   RXRing
	tx   TXRing
	fill FillRing
	comp CompletionRing

	// A socket may hold no more than these many frames for receiving (in fill
	// and RX ring) and for sending (in TX and completion ring), so that no
	// ring can eat all frames and dry up the others of the same stack.
	rxBudget, txBudget int
	rxHeld, txHeld     int

	zeroCopy bool
	busyPoll bool

	wakeups   atomic.Uint64 // system calls made to start transmission
	errors    atomic.Uint64 // those that failed for no ordinary reason
	lastErrno atomic.Uint32

	mappings [][]byte
}

var (
	_ ring.Port    = (*Socket)(nil)
	_ ring.Lagging = (*Socket)(nil)
)

// Recv implements ring.Port.
func (s *Socket) Recv(descs []ring.Desc) int {
	n := s.rx.take(descs)
	s.rxHeld -= n
	if want := s.rxBudget - s.rxHeld; want > 0 {
		s.rxHeld += s.fill.put(s.free, want)
	}
	if s.fill.needsWakeup() || (s.busyPoll && n == 0) {
		s.wakeRX()
	}
	return n
}

// Send implements ring.Port.
func (s *Socket) Send(descs []ring.Desc) int {
	if s.txBudget-s.txHeld < len(descs) {
		s.txHeld -= s.comp.reclaim(s.free)
	}
	n := min(len(descs), s.txBudget-s.txHeld)
	for _, d := range descs[:n] {
		// The kernel skips such a descriptor without completing it: its frame
		// would be lost.
		if d.Len == 0 || d.Addr&uint64(s.umem.FrameSize-1)+uint64(d.Len) > uint64(s.umem.FrameSize) {
			panic(fmt.Sprintf("xsk: packet of %d octets at %#x is empty or leaves its frame", d.Len, d.Addr))
		}
	}
	n = s.tx.put(descs[:n])
	s.txHeld += n
	return n
}

// Flush implements ring.Port. What the kernel leaves in the TX ring (its
// budget is used up, the driver's queue is full, the link is down) is offered
// again by the next Flush.
func (s *Socket) Flush() {
	if s.txHeld == 0 {
		return
	}
	pending := s.tx.pending()
	for pending > 0 && s.tx.needsWakeup() && s.wakeTX() {
		left := s.tx.pending()
		if left == pending {
			break // no progress: do not insist
		}
		pending = left
	}
	s.txHeld -= s.comp.reclaim(s.free)
}

// PollFD implements ring.Port.
func (s *Socket) PollFD() int { return s.fd }

// TXPending implements ring.Lagging.
func (s *Socket) TXPending() bool { return s.txHeld > 0 && s.tx.pending() > 0 }

// TXIncomplete is the number of packets that were handed to Send and whose
// frames the kernel has not returned. Worker only.
func (s *Socket) TXIncomplete() int {
	s.txHeld -= s.comp.reclaim(s.free)
	return s.txHeld
}

// wakeTX makes the kernel work on the TX ring and says whether to ask for more.
// EAGAIN means that a budget is used up or that the socket's send buffer is
// full; EBUSY and ENOBUFS that the device's queue is; ENETDOWN that the link
// is down. All pass. Any other error is counted for Stats and does not stop
// the worker: ENXIO, say, means that the interface is gone.
func (s *Socket) wakeTX() bool {
	s.wakeups.Add(1)
	_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0, unix.EAGAIN:
		return true
	case unix.EBUSY, unix.ENOBUFS, unix.ENETDOWN, unix.EINTR:
		return false
	}
	s.countError(errno)
	return false
}

// wakeRX makes the driver look at the fill ring again and, with busy polling,
// runs its receive loop on this CPU.
func (s *Socket) wakeRX() {
	_, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(s.fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	switch errno {
	case 0, unix.EAGAIN, unix.EBUSY, unix.ENOBUFS, unix.ENETDOWN, unix.EINTR:
		return
	}
	s.countError(errno)
}

func (s *Socket) countError(errno unix.Errno) {
	s.lastErrno.Store(uint32(errno))
	s.errors.Add(1)
}

// Stats are a socket's counters since it was opened.
type Stats struct {
	RXDropped       uint64 // packets that found no free frame, or were too long for one
	RXRingFull      uint64 // packets that found the RX ring full
	RXFillRingEmpty uint64 // times that the kernel looked for a free frame in vain
	RXInvalid       uint64 // fill ring entries that the kernel refused
	TXInvalid       uint64 // TX descriptors that the kernel refused
	TXRingEmpty     uint64
	Wakeups         uint64 // system calls made to start transmission
	Errors          uint64 // those that failed unexpectedly
	LastError       error  // the latest such failure, nil if there was none
}

// RXLost is the number of packets for the socket that did not get into its RX
// ring. Looks into an empty fill ring are not among them: copying, each of them
// is counted as a dropped packet as well (__xsk_rcv in net/xdp/xsk.c); without
// copying it is the driver that looks, for packets to come.
func (s Stats) RXLost() uint64 { return s.RXDropped + s.RXRingFull }

// Stats reads the kernel's and our own counters. Any goroutine may ask.
func (s *Socket) Stats() (Stats, error) {
	k, err := xdpStatistics(s.fd)
	if err != nil {
		return Stats{}, fmt.Errorf("xsk: %s queue %d: read statistics: %w", s.link, s.queue, err)
	}
	out := Stats{
		RXDropped: k.Rx_dropped, RXRingFull: k.Rx_ring_full, RXFillRingEmpty: k.Rx_fill_ring_empty_descs,
		RXInvalid: k.Rx_invalid_descs, TXInvalid: k.Tx_invalid_descs, TXRingEmpty: k.Tx_ring_empty_descs,
		Wakeups: s.wakeups.Load(), Errors: s.errors.Load(),
	}
	if errno := s.lastErrno.Load(); errno != 0 {
		out.LastError = fmt.Errorf("xsk: %s queue %d: wake-up: %w", s.link, s.queue, unix.Errno(errno))
	}
	return out, nil
}

// Queue is the interface's queue that the socket serves.
func (s *Socket) Queue() int { return s.queue }

// Link is the name of the interface.
func (s *Socket) Link() string { return s.link }

// ZeroCopy says whether the driver moves packets to and from our frames
// without copying.
func (s *Socket) ZeroCopy() bool { return s.zeroCopy }

// BusyPoll says whether the socket drives its queue by busy polling.
func (s *Socket) BusyPoll() bool { return s.busyPoll }

// Places lists the frames in the four rings, for ring.Census. It is exact once
// the kernel is at rest. The worker must not use the socket meanwhile.
func (s *Socket) Places() []ring.Place {
	name := fmt.Sprintf("%s queue %d ", s.link, s.queue)
	return []ring.Place{
		{Name: name + "fill ring", Frames: s.fill.held()},
		{Name: name + "RX ring", Frames: s.rx.held()},
		{Name: name + "TX ring", Frames: s.tx.held()},
		{Name: name + "completion ring", Frames: s.comp.held()},
	}
}

// close closes the socket, which takes it out of the filter's map and makes
// the kernel let go of its frames, and then unmaps the rings.
func (s *Socket) close() error {
	var errs []error
	if err := unix.Close(s.fd); err != nil {
		errs = append(errs, fmt.Errorf("xsk: close %s queue %d: %w", s.link, s.queue, err))
	}
	for _, m := range s.mappings {
		if err := unix.Munmap(m); err != nil {
			errs = append(errs, fmt.Errorf("xsk: unmap a ring of %s queue %d: %w", s.link, s.queue, err))
		}
	}
	return errors.Join(errs...)
}
