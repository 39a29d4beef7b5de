package nexthop

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	recvBuffer   = 8 << 20 // octets that the kernel may hold for us: some 20,000 routes
	batchSize    = 256 << 10
	datagramSize = 32 << 10 // rtnetlink's largest
	batches      = 4
)

// batch is a run of netlink messages as they came off a socket. Whoever holds
// it owns it.
type batch struct {
	data []byte
	lost bool // the kernel dropped messages: what they said must be read anew
}

// eventSocket receives what the kernel says to some multicast groups. It stays
// open, so that it stays in the network namespace it was made in, whatever is
// lost. A batch is read at a time into buffers that go round: a full routing
// table arrives as a million datagrams. run is one goroutine; close may be
// called from any.
type eventSocket struct {
	file *os.File
	raw  syscall.RawConn
	free chan []byte
	out  chan batch
}

func openEvents(buffer int, groups ...uint) (*eventSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	s := &eventSocket{
		file: os.NewFile(uintptr(fd), "netlink"),
		free: make(chan []byte, batches),
		out:  make(chan batch, batches),
	}
	// The privileged option goes beyond net.core.rmem_max.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("set the netlink receive buffer to %d: %w", buffer, err), s.file.Close())
		}
	}
	addr := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	for _, g := range groups {
		addr.Groups |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, addr); err != nil {
		return nil, errors.Join(fmt.Errorf("join the netlink groups %v: %w", groups, err), s.file.Close())
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("netlink socket: %w", err), s.file.Close())
	}
	for range batches {
		s.free <- make([]byte, batchSize)
	}
	return s, nil
}

// run reads until the socket is closed.
func (s *eventSocket) run(done <-chan struct{}) {
	for {
		var b batch
		select {
		case b.data = <-s.free:
		case <-done:
			return
		}
		if err := s.fill(&b); err != nil {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond): // not known to happen; if it does, not in a tight loop
				b.lost = true
			}
		}
		select {
		case s.out <- b:
		case <-done:
			return
		}
	}
}

// fill waits for messages, then takes all that have arrived and fit.
func (s *eventSocket) fill(b *batch) error {
	n := 0
	var failure error
	err := s.raw.Read(func(fd uintptr) bool {
		for len(b.data)-n >= datagramSize {
			size, from, err := unix.Recvfrom(int(fd), b.data[n:n+datagramSize], unix.MSG_TRUNC)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return n > 0 || b.lost
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.ENOBUFS):
				b.lost = true
			case err != nil:
				failure = err
				return true
			case size > datagramSize:
				b.lost = true
			case fromKernel(from):
				n += (size + 3) &^ 3
			}
		}
		return true
	})
	b.data = b.data[:n]
	return errors.Join(err, failure)
}

// fromKernel keeps out what other processes send to our port.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// recycle gives a batch back to be filled again.
func (s *eventSocket) recycle(b batch) { s.free <- b.data[:batchSize] }

func (s *eventSocket) close() error {
	if err := s.file.Close(); err != nil {
		return fmt.Errorf("close the netlink socket: %w", err)
	}
	return nil
}

// message is one netlink message. Its data is valid as long as the batch.
type message struct {
	kind, flags uint16
	data        []byte
}

// messages walks over a batch.
func (b batch) messages() iter.Seq[message] {
	return func(yield func(message) bool) {
		data := b.data
		for len(data) >= unix.SizeofNlMsghdr {
			size := int(native.Uint32(data))
			if size < unix.SizeofNlMsghdr || size > len(data) {
				return
			}
			m := message{native.Uint16(data[4:]), native.Uint16(data[6:]), data[unix.SizeofNlMsghdr:size]}
			if !yield(m) {
				return
			}
			data = data[min((size+3)&^3, len(data)):]
		}
	}
}
