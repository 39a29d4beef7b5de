package xsk

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// socketSpec is what a new socket is made from.
type socketSpec struct {
	link    *link
	queue   int
	umem    *ring.UMEM
	free    *ring.FrameStack
	size    int     // of each ring
	frames  int     // share of the stack
	first   *Socket // owner of the registered UMEM, nil for the first socket
	zc      bool
	timeout time.Duration // how long a queue may still be held by a closing socket
}

// newSocket makes a socket with its rings, fills the fill ring and binds the
// socket to its queue. The filter does not know it yet.
func newSocket(spec socketSpec) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("xsk: AF_XDP socket (needs CAP_NET_RAW and a kernel with CONFIG_XDP_SOCKETS): %w", err)
	}
	s := &Socket{
		fd: fd, link: spec.link.name, queue: spec.queue, umem: spec.umem, free: spec.free,
		rxBudget: min(2*spec.size, spec.frames/2),
		txBudget: min(spec.size, spec.frames/4),
	}
	if err := s.setUp(spec); err != nil {
		return nil, errors.Join(fmt.Errorf("xsk: %s queue %d: %w", s.link, s.queue, err), s.close())
	}
	return s, nil
}

func (s *Socket) setUp(spec socketSpec) error {
	if spec.first == nil {
		if err := registerUMEM(s.fd, spec.umem); err != nil {
			return fmt.Errorf("register a UMEM of %d octets (needs CAP_IPC_LOCK or RLIMIT_MEMLOCK of that size): %w", len(spec.umem.Mem), err)
		}
	}
	for _, r := range []struct {
		option int
		name   string
	}{
		{unix.XDP_UMEM_FILL_RING, "fill"}, {unix.XDP_UMEM_COMPLETION_RING, "completion"},
		{unix.XDP_RX_RING, "RX"}, {unix.XDP_TX_RING, "TX"},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_XDP, r.option, spec.size); err != nil {
			return fmt.Errorf("make a %s ring of %d: %w", r.name, spec.size, err)
		}
	}
	if err := s.mapRings(uint32(spec.size)); err != nil {
		return err
	}
	s.raiseTXBudget(spec.size)
	// Frames must be there before the first packet comes.
	s.rxHeld += s.fill.put(s.free, s.rxBudget)
	if err := s.bind(spec); err != nil {
		return err
	}
	var err error
	if s.zeroCopy, err = boundZeroCopy(s.fd); err != nil {
		return fmt.Errorf("ask for the copy mode: %w", err)
	}
	return nil
}

// mapRings maps the four rings.
func (s *Socket) mapRings(size uint32) error {
	off, err := mmapOffsets(s.fd)
	if err != nil {
		return fmt.Errorf("ask for the rings' layout: %w", err)
	}
	mapRing := func(name string, page int64, o unix.XDPRingOffset, slotBytes uint64) ([]byte, error) {
		length := int(o.Desc + uint64(size)*slotBytes)
		m, err := unix.Mmap(s.fd, page, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return nil, fmt.Errorf("map the %s ring: %w", name, err)
		}
		s.mappings = append(s.mappings, m)
		return m, nil
	}
	rx, err := mapRing("RX", unix.XDP_PGOFF_RX_RING, off.Rx, uint64(descBytes))
	if err != nil {
		return err
	}
	tx, err := mapRing("TX", unix.XDP_PGOFF_TX_RING, off.Tx, uint64(descBytes))
	if err != nil {
		return err
	}
	fill, err := mapRing("fill", unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, 8)
	if err != nil {
		return err
	}
	comp, err := mapRing("completion", unix.XDP_UMEM_PGOFF_COMPLETION_RING, off.Cr, 8)
	if err != nil {
		return err
	}
	s.rx = RXRing{
		producer: atomicWord(rx, off.Rx.Producer), consumer: atomicWord(rx, off.Rx.Consumer),
		slots: descSlots(rx, off.Rx.Desc, size), mask: size - 1,
	}
	s.tx = TXRing{
		producer: atomicWord(tx, off.Tx.Producer), consumer: atomicWord(tx, off.Tx.Consumer),
		flags: atomicWord(tx, off.Tx.Flags), slots: descSlots(tx, off.Tx.Desc, size), mask: size - 1,
	}
	s.fill = FillRing{
		producer: atomicWord(fill, off.Fr.Producer), consumer: atomicWord(fill, off.Fr.Consumer),
		flags: atomicWord(fill, off.Fr.Flags), slots: addrSlots(fill, off.Fr.Desc, size), mask: size - 1,
	}
	s.comp = CompletionRing{
		producer: atomicWord(comp, off.Cr.Producer), consumer: atomicWord(comp, off.Cr.Consumer),
		slots: addrSlots(comp, off.Cr.Desc, size), mask: size - 1,
	}
	return nil
}

// raiseTXBudget lets one system call send the whole TX ring in copy mode,
// instead of 32 packets. Kernels before 6.17 do not know the option; there
// Flush calls again.
func (s *Socket) raiseTXBudget(size int) {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, size)
}

// bind ties the socket to its queue. The copy mode is the first socket's to
// choose; the others inherit it with the UMEM, and the kernel refuses flags
// from them.
func (s *Socket) bind(spec socketSpec) error {
	addr := unix.SockaddrXDP{Ifindex: uint32(spec.link.index), QueueID: uint32(spec.queue)}
	switch {
	case spec.first != nil:
		addr.Flags = unix.XDP_SHARED_UMEM
		addr.SharedUmemFD = uint32(spec.first.fd)
	case spec.zc:
		addr.Flags = unix.XDP_USE_NEED_WAKEUP | unix.XDP_ZEROCOPY
	default:
		addr.Flags = unix.XDP_USE_NEED_WAKEUP | unix.XDP_COPY
	}
	// The kernel frees the queue of a closed socket a little later, also that
	// of a killed process.
	deadline := time.Now().Add(spec.timeout)
	for {
		err := unix.Bind(s.fd, &addr)
		if errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("bind: the queue belongs to another AF_XDP socket: %w", err)
		}
		if err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		return nil
	}
}

// busyPollUsecs and busyPollBudget are how long one system call may poll an
// idle device and how many packets it may take.
const (
	busyPollUsecs  = 20
	busyPollBudget = 64
)

// enableBusyPoll makes the worker's system calls run the driver's receive
// loop instead of leaving it to interrupts (Linux 5.11).
func (s *Socket) enableBusyPoll() error {
	for _, o := range []struct {
		option, value int
		name          string
	}{
		{unix.SO_PREFER_BUSY_POLL, 1, "SO_PREFER_BUSY_POLL"},
		{unix.SO_BUSY_POLL, busyPollUsecs, "SO_BUSY_POLL"},
		{unix.SO_BUSY_POLL_BUDGET, busyPollBudget, "SO_BUSY_POLL_BUDGET"},
	} {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o.option, o.value); err != nil {
			return fmt.Errorf("xsk: %s queue %d: set %s (needs CAP_NET_ADMIN and CONFIG_NET_RX_BUSY_POLL): %w", s.link, s.queue, o.name, err)
		}
	}
	s.busyPoll = true
	return nil
}
