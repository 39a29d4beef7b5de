// Package pcapport is a network interface made of capture files: what arrives
// is read from one, what is sent is written to another. Its clock is that of
// the packets, which whoever replays sets:
//
//	for t, ok := earliest Peek of all ports; ok; … {
//		every port: SetNow(t)
//		poll the worker until nothing is due any more
//	}
//
// Nothing here looks at the machine's clock, so the same input makes the same
// output, octet for octet.
package pcapport

import (
	"errors"
	"time"

	"handoff64/ring"
)

// Port is one queue of an interface. Owned by one goroutine.
type Port struct {
	umem *ring.UMEM
	free *ring.FrameStack
	in   *Reader // nil: nothing arrives
	out  *Writer // nil: what is sent disappears

	now    time.Time
	queued []ring.Desc // sent and not yet flushed
	err    error       // the first one; nothing arrives any more after it
}

var _ ring.Port = (*Port)(nil)

// New returns a port that receives what in holds and writes what it sends to
// out. Either may be nil. The port does not close them.
func New(umem *ring.UMEM, free *ring.FrameStack, in *Reader, out *Writer) *Port {
	return &Port{umem: umem, free: free, in: in, out: out, now: time.Unix(0, 0).UTC()}
}

// Peek returns the time of the next packet to arrive, or false when none is
// left. Times never decrease: a packet that was captured out of order counts
// as of the time of its predecessor.
func (p *Port) Peek() (time.Time, bool) {
	if p.in == nil || p.err != nil {
		return time.Time{}, false
	}
	t, ok, err := p.in.peek()
	p.fail(err)
	return t, ok
}

// SetNow sets the clock: packets up to then are due, and what is sent carries
// that time.
func (p *Port) SetNow(t time.Time) { p.now = t }

// Recv implements ring.Port: it returns packets that are due and for which
// there is a free frame.
func (p *Port) Recv(descs []ring.Desc) int {
	for i := range descs {
		t, ok := p.Peek()
		if !ok || t.After(p.now) {
			return i
		}
		frame, ok := p.free.Pop()
		if !ok {
			return i
		}
		addr := frame + ring.Headroom
		n, err := p.in.take(p.umem.Mem[addr : frame+uint64(p.umem.FrameSize)])
		if err != nil {
			p.fail(err)
			p.free.Push(frame)
			return i
		}
		descs[i] = ring.Desc{Addr: addr, Len: uint32(n)}
	}
	return len(descs)
}

// Send implements ring.Port: it takes all.
func (p *Port) Send(descs []ring.Desc) int {
	p.queued = append(p.queued, descs...)
	return len(descs)
}

// Flush implements ring.Port.
func (p *Port) Flush() {
	for _, d := range p.queued {
		if p.out != nil && p.err == nil {
			p.fail(p.out.write(p.now, p.umem.Packet(d)))
		}
		p.free.Push(d.Addr)
	}
	p.queued = p.queued[:0]
}

// PollFD implements ring.Port: there is nothing to sleep on.
func (p *Port) PollFD() int { return -1 }

// Err is the first error of reading or writing, which names file and packet.
func (p *Port) Err() error { return p.err }

// Places lists the frames in the port's hands, for ring.Census.
func (p *Port) Places() []ring.Place {
	var frames []uint64
	for _, d := range p.queued {
		frames = append(frames, d.Addr)
	}
	return []ring.Place{{Name: "pcap port's queue", Frames: frames}}
}

func (p *Port) fail(err error) {
	if err != nil {
		p.err = errors.Join(p.err, err)
	}
}
