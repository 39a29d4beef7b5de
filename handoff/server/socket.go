package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"handoff64/handoff/segment"
)

const (
	// burst is how many datagrams are read, and written, with one system call.
	burst = 64

	// maxDatagram holds the longest UDP payload over IPv4.
	maxDatagram = 65535

	// receiveBuffer is what the kernel is asked to keep for us while the disk
	// is slow; it gives what net.core.rmem_max allows.
	receiveBuffer = 4 << 20
)

// A control message is a header and a struct in_pktinfo (ip(7)), each aligned
// to 8 octets on the 64-bit systems that this program runs on.
const (
	cmsgHeader  = 16
	pktinfoLen  = 12 // interface, local address (ipi_spec_dst), destination (ipi_addr)
	cmsgPktinfo = cmsgHeader + 16
)

// socket is the server's one UDP socket. It reads and writes in bursts, and
// knows which of our addresses a datagram was sent to (IP_PKTINFO), so that the
// answer leaves from that one. One goroutine may read while another writes.
type socket struct {
	conn *net.UDPConn
	pc   *ipv4.PacketConn
	port uint16

	in  []ipv4.Message // the reader's
	got []datagram
	out []ipv4.Message // the writer's
	to  [burst]net.UDPAddr
}

func openSocket(ctx context.Context, listen netip.AddrPort) (*socket, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp4", listen.String())
	if err != nil {
		return nil, fmt.Errorf("bind the control port %v: %w", listen, err)
	}
	conn := pc.(*net.UDPConn)
	s := &socket{conn: conn, pc: ipv4.NewPacketConn(conn), port: uint16(conn.LocalAddr().(*net.UDPAddr).Port)}
	if err := s.pc.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the address of each datagram on %v: %w", listen, err), conn.Close())
	}
	if err := conn.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("size the receive buffer of %v: %w", listen, err), conn.Close())
	}
	if err := joined(conn); err != nil {
		return nil, errors.Join(fmt.Errorf("look at the socket of %v: %w", listen, err), conn.Close())
	}
	s.in, s.out = make([]ipv4.Message, burst), make([]ipv4.Message, burst)
	for i := range burst {
		s.in[i].Buffers, s.in[i].OOB = [][]byte{make([]byte, maxDatagram)}, make([]byte, 64)
		s.out[i].Buffers, s.out[i].OOB = make([][]byte, 1), make([]byte, cmsgPktinfo)
		s.to[i].IP = make(net.IP, 4)
		s.out[i].Addr = &s.to[i]
	}
	return s, nil
}

// joined asks the kernel to hand over datagrams that arrive together as one
// message. One that cannot hands them over singly.
func joined(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("its descriptor: %w", err)
	}
	return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) })
}

func (s *socket) close() error { return s.conn.Close() }

// read waits for a burst of datagrams. They are valid until the next read.
func (s *socket) read() ([]datagram, error) {
	n, err := s.pc.ReadBatch(s.in, 0)
	if err != nil {
		return nil, fmt.Errorf("read the control port: %w", err)
	}
	s.got = s.got[:0]
	for i := range s.in[:n] {
		m := &s.in[i]
		from, ok := m.Addr.(*net.UDPAddr)
		own := destination(m.OOB[:m.NN])
		if !ok || own == (addr4{}) {
			continue
		}
		d := datagram{
			own: own, from: from.AddrPort().Addr().Unmap().As4(), fromPort: uint16(from.Port), truncated: m.Flags&unix.MSG_TRUNC != 0,
		}
		size := segment.Size(m.OOB[:m.NN])
		for rest := m.Buffers[0][:m.N]; ; {
			d.data, rest = segment.Next(rest, size)
			s.got = append(s.got, d)
			if rest == nil {
				break
			}
		}
	}
	return s.got, nil
}

// destination is the address that a datagram was sent to, zero when the kernel
// did not say. Read by hand: the library's parser allocates for each datagram.
func destination(oob []byte) (a addr4) {
	for len(oob) >= cmsgHeader {
		length := int(binary.NativeEndian.Uint64(oob))
		level, typ := binary.NativeEndian.Uint32(oob[8:]), binary.NativeEndian.Uint32(oob[12:])
		if length < cmsgHeader || length > len(oob) {
			return addr4{}
		}
		if level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && length >= cmsgHeader+pktinfoLen {
			return addr4(oob[cmsgHeader+8:])
		}
		oob = oob[min((length+7)&^7, len(oob)):]
	}
	return addr4{}
}

// setSource is the control message that makes a datagram leave from own.
func setSource(oob []byte, own addr4) {
	clear(oob[:cmsgPktinfo])
	binary.NativeEndian.PutUint64(oob, cmsgHeader+pktinfoLen)
	binary.NativeEndian.PutUint32(oob[8:], unix.IPPROTO_IP)
	binary.NativeEndian.PutUint32(oob[12:], unix.IP_PKTINFO)
	copy(oob[cmsgHeader+4:], own[:])
}

// write sends the answers of a batch. One that the kernel refuses is counted and
// left out: UDP promises nothing, and the NAT64 asks again.
func (s *socket) write(b *batch, c *counters) {
	for rest := b.answers; len(rest) > 0; {
		n := min(len(rest), burst)
		for i := range rest[:n] {
			a := &rest[i]
			s.out[i].Buffers[0] = b.payload(a)
			copy(s.to[i].IP, a.to[:])
			s.to[i].Port = int(a.port)
			setSource(s.out[i].OOB, a.own)
		}
		s.flush(s.out[:n], c)
		rest = rest[n:]
	}
}

func (s *socket) flush(ms []ipv4.Message, c *counters) {
	for len(ms) > 0 {
		n, err := s.pc.WriteBatch(ms, 0)
		n = max(n, 0)
		for i := range ms[:n] {
			c.sent.Add(1)
			c.sentOctets.Add(uint64(len(ms[i].Buffers[0])))
		}
		if err != nil && n == 0 {
			c.sendErrors.Add(1)
			n = 1
		}
		ms = ms[n:]
	}
}
