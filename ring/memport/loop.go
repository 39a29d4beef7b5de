package memport

import (
	"handoff64/ring"
)

// Source writes the next packet to room, the part of a frame behind the
// headroom, and returns the packet's length. It must not allocate.
type Source func(room []byte) int

// Cycle returns a Source that hands out the given packets in turn. They are
// laid out one after the other, so that a million of them cost the cache no
// more than their octets, read in the order that prefetchers like best.
func Cycle(packets ...[]byte) Source {
	var all []byte
	ends := make([]int, len(packets))
	for i, p := range packets {
		all = append(all, p...)
		ends[i] = len(all)
	}
	next, from := 0, 0
	return func(room []byte) int {
		n := copy(room, all[from:ends[next]])
		from += n
		if next++; next == len(ends) {
			next, from = 0, 0
		}
		return n
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
	tx     []ring.Desc // sent and not yet completed

	received, txPackets, txBytes uint64
}

// NewLoop returns a port that receives what source makes; without a source it
// receives nothing. txRing bounds what is sent between two Flushes.
func NewLoop(name string, umem *ring.UMEM, free *ring.FrameStack, source Source, txRing int) *Loop {
	return &Loop{umem: umem, free: free, name: name, source: source, tx: make([]ring.Desc, 0, txRing)}
}

// SetSource changes what the port receives from now on.
func (l *Loop) SetSource(s Source) { l.source = s }

// Recv implements ring.Port.
func (l *Loop) Recv(descs []ring.Desc) int {
	if l.source == nil {
		return 0
	}
	n := 0
	for ; n < len(descs); n++ {
		frame, ok := l.free.Pop()
		if !ok {
			break
		}
		addr := frame + ring.Headroom
		room := l.umem.Mem[addr : frame+uint64(l.umem.FrameSize)]
		descs[n] = ring.Desc{Addr: addr, Len: uint32(l.source(room))}
	}
	l.received += uint64(n)
	return n
}

// Send implements ring.Port.
func (l *Loop) Send(descs []ring.Desc) int {
	at := len(l.tx)
	n := copy(l.tx[at:cap(l.tx)], descs)
	l.tx = l.tx[:at+n]
	for i := range descs[:n] {
		l.txBytes += uint64(descs[i].Len)
	}
	l.txPackets += uint64(n)
	return n
}

// Flush implements ring.Port.
func (l *Loop) Flush() {
	for i := range l.tx {
		l.free.Push(l.tx[i].Addr)
	}
	l.tx = l.tx[:0]
}

// PollFD implements ring.Port.
func (l *Loop) PollFD() int { return -1 }

// Received is the number of packets handed out by Recv.
func (l *Loop) Received() uint64 { return l.received }

// Sent is what Send took: packets and octets.
func (l *Loop) Sent() (packets, octets uint64) { return l.txPackets, l.txBytes }

// Places lists the frames sent and not yet completed, for ring.Census.
func (l *Loop) Places() []ring.Place {
	return []ring.Place{{Name: l.name + " tx ring", Frames: addrs(l.tx)}}
}
