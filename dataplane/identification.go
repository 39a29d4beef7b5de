package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
)

// identifications makes the identifications of IPv4 packets: ChaCha8, so that whoever sees
// many of them cannot tell the next (RFC 7739 §3). A draw serves four packets.
// Owned by one worker.
type identifications struct {
	source *rand.ChaCha8
	drawn  uint64
	left   int // of drawn, in 16 bits
}

func newIdentifications(seed uint64) identifications {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return identifications{source: rand.NewChaCha8(key)}
}

// next is the identification of one packet. Zero is left out: some stacks take it for
// none.
func (r *identifications) next() uint16 {
	if r.left == 0 {
		r.drawn, r.left = r.source.Uint64(), 4
	}
	id := uint16(r.drawn)
	r.drawn >>= 16
	r.left--
	return max(id, 1)
}
