package dataplane

import (
	"handoff64/conntrack"
	"handoff64/ring"
)

// Group couples the workers of one translator. A client's mappings belong to
// one worker; when a packet that opens a session arrives on another worker's
// queue, its frame goes to the owner and a free frame comes back in exchange,
// so that no worker runs dry.
type Group struct {
	workers []*Worker
	rings   [][]*ring.SPSC[handover] // [from][to]
	refunds [][]*ring.SPSC[uint64]   // [from][to]: frames in exchange
}

// handover is a packet on its way to the worker that owns its client.
type handover struct {
	desc ring.Desc
	via  via
	note fragmentNote
}

// handoverRing is how many packets may be underway between two workers.
const handoverRing = 1024

// NewGroup returns the rings for n workers. Workers join by being created.
func NewGroup(n int) *Group {
	g := &Group{workers: make([]*Worker, n)}
	for from := range n {
		g.rings = append(g.rings, make([]*ring.SPSC[handover], n))
		g.refunds = append(g.refunds, make([]*ring.SPSC[uint64], n))
		for to := range n {
			if to != from {
				g.rings[from][to] = ring.NewSPSC[handover](handoverRing)
				g.refunds[from][to] = ring.NewSPSC[uint64](handoverRing)
			}
		}
	}
	return g
}

func (g *Group) join(w *Worker) { g.workers[w.id] = w }

func (g *Group) size() int { return len(g.workers) }

// giveTo hands the packet to its owner.
func (w *Worker) giveTo(owner int, m *meta) { w.push(owner, m, w.noteOf(m)) }

// inbox is scratch for what other workers and the handoff worker sent.
type inbox struct {
	packets [BurstSize]handover
	frames  [BurstSize]uint64
	control [BurstSize]conntrack.FromServer
	owed    [maxWorkers]int // frames that we still have to give in exchange
}

// maxWorkers fits the bit set of woken workers.
const maxWorkers = 64

// takeHandovers works on one burst from every other worker.
func (w *Worker) takeHandovers() (taken int) {
	for from := range w.group.size() {
		if from == w.id {
			continue
		}
		n := w.group.refunds[from][w.id].PopBatch(w.in.frames[:])
		for _, f := range w.in.frames[:n] {
			w.frames.Push(f)
		}
		n = w.group.rings[from][w.id].PopBatch(w.in.packets[:])
		w.main.n = 0
		for i := range n {
			w.takeHandover(&w.in.packets[i])
		}
		w.in.owed[from] += w.main.n
		w.taken += uint64(w.main.n)
		w.refund(from)
		if w.main.n > 0 {
			w.process(&w.main)
		}
		taken += n
	}
	return taken
}

// takeHandover puts a packet into the burst, or hears what became of one.
func (w *Worker) takeHandover(h *handover) {
	if h.note.role == roleVerdict {
		w.decided(h.note.ref, h.note.outcome, h.note.reason, h.note.peer)
		return
	}
	w.main.add(w.umem, h.desc, h.via).noted(&h.note)
}

// refund gives free frames back for the packets that a worker sent us, as far
// as we have any; the rest stays owed.
func (w *Worker) refund(to int) {
	for w.in.owed[to] > 0 {
		f, ok := w.frames.Pop()
		if !ok {
			return
		}
		if !w.group.refunds[w.id][to].Push(f) {
			w.frames.Push(f)
			return
		}
		w.in.owed[to]--
	}
}
