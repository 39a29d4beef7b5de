package tunport

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

const (
	ethernetHeader = 14
	etherTypeIPv4  = 0x0800
	etherTypeIPv6  = 0x86dd
)

// Port is one queue of the device. It belongs to one worker, but for Errors.
// Frames are in its hands during a call only: the kernel copies both ways.
type Port struct {
	fd   int
	umem *ring.UMEM
	free *ring.FrameStack

	errors    atomic.Uint64
	lastErrno atomic.Uint32
}

var _ ring.Port = (*Port)(nil)

// Recv implements ring.Port. A packet too large for a frame is cut, as its
// length field then tells: keep the device's MTU below that. Every call costs at
// least one system call.
func (p *Port) Recv(descs []ring.Desc) int {
	for i := range descs {
		frame, ok := p.free.Pop()
		if !ok {
			return i // the packet stays in the queue
		}
		start := frame + ring.Headroom
		room := p.umem.Mem[start+ethernetHeader : frame+uint64(p.umem.FrameSize)]
		n, err := unix.Read(p.fd, room)
		if err != nil {
			p.free.Push(frame)
			p.note(err)
			return i
		}
		writeEthernet(p.umem.Mem[start:start+ethernetHeader], room[0])
		descs[i] = ring.Desc{Addr: start, Len: uint32(ethernetHeader + n)}
	}
	return len(descs)
}

// writeEthernet puts the header of a frame without addresses in front of an IP
// packet, whose first octet says what it is.
func writeEthernet(h []byte, version byte) {
	clear(h)
	switch version >> 4 {
	case 4:
		binary.BigEndian.PutUint16(h[12:], etherTypeIPv4)
	case 6:
		binary.BigEndian.PutUint16(h[12:], etherTypeIPv6)
	}
}

// Send implements ring.Port. It stops at the first packet that the kernel does
// not take; the caller may offer those behind it. The frames are back in the
// stack at once.
func (p *Port) Send(descs []ring.Desc) int {
	for i := range descs {
		packet := p.umem.Packet(descs[i])
		if len(packet) <= ethernetHeader {
			p.note(unix.EINVAL)
			return i
		}
		if _, err := unix.Write(p.fd, packet[ethernetHeader:]); err != nil {
			p.note(err)
			return i
		}
		p.free.Push(descs[i].Addr)
	}
	return len(descs)
}

// Flush implements ring.Port: nothing waits.
func (p *Port) Flush() {}

// PollFD implements ring.Port.
func (p *Port) PollFD() int { return p.fd }

// note counts what went wrong. That nothing is there to read, or no room to
// write, is no fault.
func (p *Port) note(err error) {
	// Not errors.As, which allocates; this is what the two calls return.
	if errno, ok := err.(unix.Errno); ok && errno != unix.EAGAIN && errno != unix.EINTR {
		p.lastErrno.Store(uint32(errno))
		p.errors.Add(1)
	}
}

// Errors is how many calls failed for no ordinary reason (the device is down,
// the kernel had no memory), and the latest such error. Any goroutine may ask.
func (p *Port) Errors() (n uint64, last error) {
	if errno := p.lastErrno.Load(); errno != 0 {
		last = unix.Errno(errno)
	}
	return p.errors.Load(), last
}

// Places lists the frames in the port, for ring.Census: it keeps none.
func (p *Port) Places() []ring.Place { return nil }
