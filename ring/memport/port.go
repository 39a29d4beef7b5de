// Package memport is a network interface in memory: the twin of ring/xsk for
// tests and benchmarks, with the same frames, the same ownership and the same
// ways to refuse.
//
//	Inject ─→ rx ring ─→ Recv ─→ worker ─→ Send ─→ tx ring ─→ Flush ─→ Drain
//	                                                            └─→ free stack
package memport

import (
	"handoff64/ring"
)

// Port is one queue. Frames that arrive come from its FrameStack, frames that
// are sent return there, as with a device. Owned by one goroutine, tests
// included: Inject and Drain are called between polls, not beside them.
type Port struct {
	umem *ring.UMEM
	free *ring.FrameStack
	name string

	rx, tx   []ring.Desc
	ringSize int
	perFlush int      // packets that leave per Flush
	sent     [][]byte // what left, until Drain
	inDrops  uint64
}

// Unlimited makes every Flush transmit all there is.
const Unlimited = int(^uint(0) >> 1)

// New returns a port with empty rings of ringSize descriptors each. The name
// is for Census.
func New(name string, umem *ring.UMEM, free *ring.FrameStack, ringSize int) *Port {
	return &Port{
		umem: umem, free: free, name: name, ringSize: ringSize, perFlush: Unlimited,
		rx: make([]ring.Desc, 0, ringSize),
		tx: make([]ring.Desc, 0, ringSize),
	}
}

// NewUMEM maps a UMEM and returns it with a stack that holds all its frames:
// what one worker and its ports start from.
func NewUMEM(frames, frameSize int) (*ring.UMEM, *ring.FrameStack, error) {
	u, err := ring.NewUMEM(frames, frameSize)
	if err != nil {
		return nil, nil, err
	}
	s := ring.NewFrameStack(frames, frameSize)
	for i := range frames {
		s.Push(uint64(i * frameSize))
	}
	return u, s, nil
}

// Inject makes packet arrive: it is copied into a free frame behind the
// headroom. Without a free frame, with a full RX ring, or when the packet does
// not fit a frame, it is dropped as a device would and Inject returns false.
func (p *Port) Inject(packet []byte) bool {
	if len(p.rx) == p.ringSize || len(packet) > p.umem.FrameSize-ring.Headroom {
		p.inDrops++
		return false
	}
	frame, ok := p.free.Pop()
	if !ok {
		p.inDrops++
		return false
	}
	addr := frame + ring.Headroom
	copy(p.umem.Mem[addr:], packet)
	p.rx = append(p.rx, ring.Desc{Addr: addr, Len: uint32(len(packet))})
	return true
}

// Dropped is the number of packets that Inject could not take.
func (p *Port) Dropped() uint64 { return p.inDrops }

// Recv implements ring.Port.
func (p *Port) Recv(descs []ring.Desc) int {
	n := copy(descs, p.rx)
	p.rx = p.rx[:copy(p.rx, p.rx[n:])]
	return n
}

// Send implements ring.Port.
func (p *Port) Send(descs []ring.Desc) int {
	n := min(len(descs), p.ringSize-len(p.tx))
	p.tx = append(p.tx, descs[:n]...)
	return n
}

// SetTransmit limits how many packets leave per Flush: 0 stalls the device, so
// that its TX ring fills up; Unlimited is the default.
func (p *Port) SetTransmit(perFlush int) { p.perFlush = perFlush }

// Flush implements ring.Port: packets leave in order, as copies for Drain, and
// their frames return to the stack.
func (p *Port) Flush() {
	n := min(len(p.tx), p.perFlush)
	for _, d := range p.tx[:n] {
		p.sent = append(p.sent, append([]byte(nil), p.umem.Packet(d)...))
		p.free.Push(d.Addr)
	}
	p.tx = p.tx[:copy(p.tx, p.tx[n:])]
}

// TXPending implements ring.Lagging.
func (p *Port) TXPending() bool { return len(p.tx) > 0 }

// PollFD implements ring.Port: there is nothing to sleep on.
func (p *Port) PollFD() int { return -1 }

// Drain returns the packets that left since the last Drain, in order. They
// are the caller's.
func (p *Port) Drain() [][]byte {
	s := p.sent
	p.sent = nil
	return s
}

// Places lists the frames in the port's rings, for ring.Census.
func (p *Port) Places() []ring.Place {
	return []ring.Place{
		{Name: p.name + " rx ring", Frames: addrs(p.rx)},
		{Name: p.name + " tx ring", Frames: addrs(p.tx)},
	}
}

func addrs(descs []ring.Desc) []uint64 {
	a := make([]uint64, len(descs))
	for i, d := range descs {
		a[i] = d.Addr
	}
	return a
}
