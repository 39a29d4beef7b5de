package generator

import (
	"handoff64/ring"
)

// transmitter sends what is due on a lane, of its own accord and in one burst
// at most. Owned by the lane's thread.
type transmitter interface{ round(l *lane, c *clock) }

// lane is one queue of one interface with what is sent and received there.
// Owned by one thread while a trial runs.
type lane struct {
	umem   *ring.UMEM
	frames *ring.FrameStack
	ports  []ring.Port // to receive from; the first one to send to
	index  int         // among the interface's lanes

	senders  []transmitter
	receiver *receiver
	descs    [maxBurst]ring.Desc
}

// round receives a burst from every port, sends what is due, and flushes.
// sending is false once senders are to be silent.
func (l *lane) round(c *clock, sending bool) {
	for _, p := range l.ports {
		n := p.Recv(l.descs[:])
		if n == 0 {
			continue
		}
		l.receiver.burst(l.umem, l.descs[:n], c.now())
		for _, d := range l.descs[:n] {
			l.frames.Push(d.Addr)
		}
	}
	if sending {
		for _, s := range l.senders {
			s.round(l, c)
		}
	}
	for _, p := range l.ports {
		p.Flush()
	}
}
