package dataplane

import (
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

// kernelBox is the worker's port to the host's kernel and what a round gives to
// it. Owned by the worker; empty between rounds.
type kernelBox struct {
	port   ring.Port // nil: there is no way to the kernel
	n      int
	descs  [outboxSize]ring.Desc
	counts [outboxSize]kernelCount
}

// kernelCount is the counter that a packet for the kernel goes under: it was
// passed as it came (by family), or it was translated (by direction).
type kernelCount uint8

const passedAs = kernelCount(directions) // + Family; below: a Direction

// pass gives a packet that turned out to be the host's own to its kernel, as it
// arrived. It is for what only a worker can tell (a later fragment of the
// host's datagram, say): the filter leaves everything else to the kernel. The
// packet counts as passed once the port has taken it.
func (w *Worker) pass(m *meta) {
	if w.kernel.port == nil {
		w.drop(m, DropNoKernelPort)
		return
	}
	w.enqueueKernel(ring.Desc{Addr: m.addr, Len: m.len}, passedAs+kernelCount(map6(m.dir)))
	m.verdict, m.left = gone, LeftKernel
}

// enqueueKernel appends to what goes to the kernel; a full box is sent first.
// There must be a port.
func (w *Worker) enqueueKernel(d ring.Desc, c kernelCount) {
	k := &w.kernel
	if k.n == outboxSize {
		w.flushKernel()
	}
	k.descs[k.n], k.counts[k.n] = d, c
	k.n++
}

// flushKernel hands the round's packets to the kernel. One that it refuses does
// not keep the others.
func (w *Worker) flushKernel() {
	k := &w.kernel
	for at := 0; at < k.n; at++ {
		sent := k.port.Send(k.descs[at:k.n])
		for range sent {
			w.countKernel(at)
			at++
		}
		if at < k.n {
			w.counters.drop(DropKernelPortFull)
			w.frames.Push(k.descs[at].Addr)
		}
	}
	k.n = 0
}

func (w *Worker) countKernel(i int) {
	c := w.kernel.counts[i]
	if c >= passedAs {
		w.counters.Passed[c-passedAs]++
		return
	}
	w.counters.Translated[c]++
	side := Direction(c).side()
	w.counters.TxPackets[side]++
	w.counters.TxBytes[side] += uint64(w.kernel.descs[i].Len)
}

// localRounds is how often a busy worker looks for packets of the host itself:
// each look is a system call. An idle one looks in every round.
const localRounds = 4

// receiveKernel starts a burst with what the host itself sends through the NAT64.
func (w *Worker) receiveKernel() int {
	b := &w.main
	b.n = 0
	n := w.kernel.port.Recv(b.descs[:])
	for i := range n {
		b.add(w.umem, b.descs[i], viaKernel)
	}
	w.countMixed(b)
	return n
}

// toHost says whether packets to this hop go to the host itself.
func (w *Worker) toHost(h *nexthop.Hop) bool { return w.local && h.State == nexthop.Local }

// localMTU is that of the way between the host and its NAT64. No link lies
// there: what fits the IPv4 link behind the NAT64 fits, if it fits a frame.
func (w *Worker) localMTU() uint32 {
	return LocalMTU(w.mtu(IPv4, w.snap.IPv4.MTU), w.umem.FrameSize)
}

// LocalMTU is the MTU of the device that leads to the NAT64 for the host itself.
func LocalMTU(mtu4 uint32, frameSize int) uint32 {
	return max(min(mtu4+20, uint32(frameSize-answerL3)), minIPv6MTU)
}
