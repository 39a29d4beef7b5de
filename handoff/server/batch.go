package server

// answer is one datagram that waits in a batch.
type answer struct {
	own, to    addr4
	port       uint16
	start, end int // in batch.data
}

// batch is what the handler made of one burst of datagrams: what must become
// durable, and the answers that may leave once it has. Owned by one goroutine
// at a time: the reader fills it, the committer empties it.
type batch struct {
	changes
	answers []answer
	parcels []span // packets for the local programs, with tundev.Offset octets in front
	data    []byte
	last    uint64 // the highest number of an entry or lease that was given out
}

// idle says whether there is nothing to do about a batch.
func (b *batch) idle() bool { return b.empty() && len(b.answers) == 0 && len(b.parcels) == 0 }

func (b *batch) reset() {
	b.changes.reset()
	b.answers, b.parcels, b.data = b.answers[:0], b.parcels[:0], b.data[:0]
}

// payload is what an answer consists of.
func (b *batch) payload(a *answer) []byte { return b.data[a.start:a.end] }

// add finishes an answer that was appended to b.data from start on.
func (b *batch) add(own, to addr4, port uint16, start int) {
	b.answers = append(b.answers, answer{own: own, to: to, port: port, start: start, end: len(b.data)})
}
