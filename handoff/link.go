package handoff

import (
	"handoff64/conntrack"
	"handoff64/ring"
)

// Link is the rings between one packet worker and the handoff worker: each has
// one producer and one consumer, and nobody ever waits at one. A frame named in
// a record belongs to whoever has taken the record.
type Link struct {
	Out  *ring.SPSC[conntrack.ToServer]   // worker → handoff worker
	In   *ring.SPSC[conntrack.FromServer] // handoff worker → worker
	Back *ring.SPSC[uint64]               // handoff worker → worker: frames whose packet was sent or given up
	Lend *ring.SPSC[uint64]               // worker → handoff worker: free frames for packets that come back
}

// NewLink returns a link whose rings hold size elements each.
func NewLink(size int) *Link {
	return &Link{
		Out:  ring.NewSPSC[conntrack.ToServer](size),
		In:   ring.NewSPSC[conntrack.FromServer](size),
		Back: ring.NewSPSC[uint64](size),
		Lend: ring.NewSPSC[uint64](size),
	}
}

// room is how many elements the producer of a ring can push for certain.
func room[T any](q *ring.SPSC[T]) int { return q.Cap() - q.Len() }
