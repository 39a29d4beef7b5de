package dataplane

import "handoff64/ring"

// kernelBox collects what a round gives to the host's kernel. Owned by the
// worker; empty between rounds.
type kernelBox struct {
	port  ring.Port // nil: there is no way to the kernel
	n     int
	descs [outboxSize]ring.Desc
	from  [outboxSize]Family // what each packet arrived as
}

// pass gives a packet that turned out to be the host's own to its kernel, as it
// arrived. It is for what only a worker can tell (a later fragment of the
// host's datagram, say): the filter leaves everything else to the kernel. The
// packet counts as passed once the port has taken it.
func (w *Worker) pass(m *meta) {
	k := &w.kernel
	if k.port == nil {
		w.drop(m, DropNoKernelPort)
		return
	}
	if k.n == outboxSize {
		w.flushKernel()
	}
	k.descs[k.n], k.from[k.n] = ring.Desc{Addr: m.addr, Len: m.len}, map6(m.dir)
	k.n++
	m.verdict = gone
}

// flushKernel hands the round's packets to the kernel. One that it refuses does
// not keep the others.
func (w *Worker) flushKernel() {
	k := &w.kernel
	for at := 0; at < k.n; at++ {
		sent := k.port.Send(k.descs[at:k.n])
		for range sent {
			w.counters.Passed[k.from[at]]++
			at++
		}
		if at < k.n {
			w.counters.drop(DropKernelPortFull)
			w.frames.Push(k.descs[at].Addr)
		}
	}
	k.n = 0
}
