package memport

import (
	"handoff64/ring"
)

// Source writes packet number n to room, the part of a frame behind the
// headroom, and returns the packet's length. It must not allocate.
type Source func(n uint64, room []byte) int

// Cycle returns a Source that hands out the given packets in turn. They are
// laid out one after the other, so that a million of them cost the cache no
// more than their octets.
func Cycle(packets ...[]byte) Source {
	var all []byte
	ends := make([]int, len(packets)+1)
	for i, p := range packets {
		all = append(all, p...)
		ends[i+1] = len(all)
	}
	count := uint64(len(packets))
	return func(n uint64, room []byte) int {
		i := n % count
		return copy(room, all[ends[i]:ends[i+1]])
	}
}

// Loop is a Port for benchmarks: Recv always finds as many packets as it has
// room and frames for, Send always takes all, Flush gives the frames back, and
// nothing allocates. Owned by one goroutine.
type Loop struct {
	umem   *ring.UMEM
	free   *ring.FrameStack
	name   string
	source Source
	next   uint64
	tx     []uint64 // sent and not yet completed

	txPackets, txBytes uint64
}

// NewLoop returns a port that receives what source makes; without a source it
// receives nothing. txRing bounds what is sent between two Flushes.
func NewLoop(name string, umem *ring.UMEM, free *ring.FrameStack, source Source, txRing int) *Loop {
	return &Loop{umem: umem, free: free, name: name, source: source, tx: make([]uint64, 0, txRing)}
}

// Recv implements ring.Port.
func (l *Loop) Recv(descs []ring.Desc) int {
	if l.source == nil {
		return 0
	}
	for i := range descs {
		frame, ok := l.free.Pop()
		if !ok {
			return i
		}
		addr := frame + ring.Headroom
		room := l.umem.Mem[addr : frame+uint64(l.umem.FrameSize)]
		descs[i] = ring.Desc{Addr: addr, Len: uint32(l.source(l.next, room))}
		l.next++
	}
	return len(descs)
}

// Send implements ring.Port.
func (l *Loop) Send(descs []ring.Desc) int {
	n := min(len(descs), cap(l.tx)-len(l.tx))
	for _, d := range descs[:n] {
		l.tx = append(l.tx, d.Addr)
		l.txBytes += uint64(d.Len)
	}
	l.txPackets += uint64(n)
	return n
}

// Flush implements ring.Port.
func (l *Loop) Flush() {
	for _, addr := range l.tx {
		l.free.Push(addr)
	}
	l.tx = l.tx[:0]
}

// PollFD implements ring.Port.
func (l *Loop) PollFD() int { return -1 }

// Received is the number of packets handed out by Recv.
func (l *Loop) Received() uint64 { return l.next }

// Sent is what Send took: packets and octets.
func (l *Loop) Sent() (packets, octets uint64) { return l.txPackets, l.txBytes }

// Places lists the frames sent and not yet completed, for ring.Census.
func (l *Loop) Places() []ring.Place {
	return []ring.Place{{Name: l.name + " tx ring", Frames: append([]uint64(nil), l.tx...)}}
}
