package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

const (
	readBatch   = 8 // messages, of up to 44 datagrams of full size each
	maxDatagram = 65535
	errorBatch  = 64
	errorQuote  = 576
	socketQueue = 8 << 20 // octets, each direction
)

// socket is the one UDP socket that all channels share: it listens on the
// client port of every address and tells the channels apart by the packet's own
// address (IP_PKTINFO). It never blocks. Owned by the worker's goroutine.
type socket struct {
	conn   net.PacketConn
	batch  *ipv4.PacketConn
	ready  [1]unix.PollFd // its descriptor is for poll alone; conn owns it
	in     []ipv4.Message
	failed []ipv4.Message
}

// openSocket binds to the port on all addresses: those of pool4 may come later
// than the worker.
func openSocket(port uint16) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("handoff: control socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), "handoff control socket")
	defer file.Close() // conn below has a duplicate
	if err := prepare(fd); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(port)}); err != nil {
		return nil, fmt.Errorf("handoff: control socket: bind to UDP port %d (handoff.client_port): %w", port, err)
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("handoff: control socket: %w", err)
	}
	s := &socket{conn: conn, batch: ipv4.NewPacketConn(conn), in: messages(readBatch, maxDatagram), failed: messages(errorBatch, errorQuote)}
	fd32, err := descriptor(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s.ready[0] = unix.PollFd{Fd: fd32, Events: unix.POLLIN}
	return s, nil
}

// prepare sets the socket's options. IP_PMTUDISC_DONT clears the DF bit:
// a tunnelled packet of full size does not fit in one datagram, and the kernel
// may fragment it.
func prepare(fd int) error {
	for _, o := range []struct {
		name  string
		opt   int
		value int
	}{
		{"IP_PKTINFO", unix.IP_PKTINFO, 1},
		{"IP_RECVERR", unix.IP_RECVERR, 1},
		{"IP_MTU_DISCOVER", unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT},
	} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, o.opt, o.value); err != nil {
			return fmt.Errorf("handoff: control socket: option %s: %w", o.name, err)
		}
	}
	// Without it datagrams come one by one.
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	for _, o := range []struct {
		name            string
		force, ordinary int
	}{
		{"SO_RCVBUF", unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
		{"SO_SNDBUF", unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, socketQueue) == nil {
			continue // beyond net.core.{r,w}mem_max, which takes CAP_NET_ADMIN
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.ordinary, socketQueue); err != nil {
			return fmt.Errorf("handoff: control socket: option %s: %w", o.name, err)
		}
	}
	return nil
}

// messages makes room for n datagrams and what the kernel says about each.
func messages(n, size int) []ipv4.Message {
	ms := make([]ipv4.Message, n)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, size)}
		ms[i].OOB = make([]byte, 128)
	}
	return ms
}

func descriptor(conn net.PacketConn) (int32, error) {
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("handoff: control socket: %w", err)
	}
	var fd int32
	if err := raw.Control(func(n uintptr) { fd = int32(n) }); err != nil {
		return 0, fmt.Errorf("handoff: control socket: %w", err)
	}
	return fd, nil
}

func (s *socket) close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("handoff: control socket: %w", err)
	}
	return nil
}

// poll says what there is to read: datagrams, errors. One system call in place
// of two that mostly fail, which would leave two error values as garbage each.
func (s *socket) poll() (datagrams, failures bool) {
	s.ready[0].Revents = 0
	if n, err := unix.Poll(s.ready[:], 0); n < 1 || err != nil {
		return false, false // EINTR: there is another round
	}
	return s.ready[0].Revents&unix.POLLIN != 0, s.ready[0].Revents&unix.POLLERR != 0
}

// read takes up to a batch of datagrams. An error that the kernel had noted for
// the socket (some datagram was undeliverable) only makes it look again: the
// error queue tells which.
func (s *socket) read() []ipv4.Message {
	for range 3 {
		n, err := s.batch.ReadBatch(s.in, unix.MSG_DONTWAIT)
		if err == nil {
			return s.in[:n]
		}
		if errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return nil
}

// readErrors takes up to a batch from the error queue: the beginnings of
// datagrams that ICMP errors have quoted.
func (s *socket) readErrors() []ipv4.Message {
	n, err := s.batch.ReadBatch(s.failed, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return nil
	}
	return s.failed[:n]
}

// write sends as many datagrams as the kernel takes at once. EAGAIN in the
// error means that the socket's buffer is full.
func (s *socket) write(ms []ipv4.Message) (int, error) {
	return s.batch.WriteBatch(ms, unix.MSG_DONTWAIT)
}

// controlMessage finds one control message of the IP level.
func controlMessage(oob []byte, kind int32) []byte {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return nil
		}
		if h.Level == unix.IPPROTO_IP && h.Type == kind {
			return data
		}
		oob = rest
	}
	return nil
}

// destination is the address that a datagram came to: ipi_addr, the third field
// of struct in_pktinfo.
func destination(m *ipv4.Message) (addr uint32, ok bool) {
	info := controlMessage(m.OOB[:m.NN], unix.IP_PKTINFO)
	if len(info) < unix.SizeofInet4Pktinfo {
		return 0, false
	}
	return binary.BigEndian.Uint32(info[8:]), true
}

// peer is the IPv4 address and port of a message: of the sender, or, in the
// error queue, of whom the datagram was for.
func peer(m *ipv4.Message) (addr uint32, port uint16, ok bool) {
	u, ok := m.Addr.(*net.UDPAddr)
	if !ok || len(u.IP) != net.IPv4len {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(u.IP), uint16(u.Port), true
}

// portUnreachable says whether the error is ICMP type 3 code 3 and comes from
// the given address itself. The layout is struct sock_extended_err, with the
// offender's struct sockaddr_in behind it.
func portUnreachable(m *ipv4.Message, from uint32) bool {
	const origin, kind, code, offender = 4, 5, 6, 16
	e := controlMessage(m.OOB[:m.NN], unix.IP_RECVERR)
	if len(e) < offender+unix.SizeofSockaddrInet4 {
		return false
	}
	return e[origin] == unix.SO_EE_ORIGIN_ICMP && e[kind] == 3 && e[code] == 3 &&
		binary.NativeEndian.Uint16(e[offender:]) == unix.AF_INET &&
		binary.BigEndian.Uint32(e[offender+4:]) == from
}
