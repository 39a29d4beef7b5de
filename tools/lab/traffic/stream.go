package traffic

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"io"
	"math/rand/v2"
)

// blockSize is how much of a stream is made at a time.
const blockSize = 1 << 20

// Stream is an io.Reader of n octets that look random, are the same for every
// Stream of that length, and differ everywhere from what a lost, repeated or
// reordered segment would leave. For one goroutine.
type Stream struct {
	left  int64
	block []byte
	at    int
	count uint64
	sum   hash.Hash
}

// NewStream makes a stream of n octets.
func NewStream(n int64) *Stream {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	block := make([]byte, blockSize)
	rand.NewChaCha8(seed).Read(block) // never fails, by its documentation
	return &Stream{left: n, block: block, sum: sha256.New()}
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if s.at == len(s.block) {
		s.at = 0
		s.count++
		// Making 1 GB of fresh random numbers would take longer than sending
		// it; a number in each block makes every block another one.
		binary.LittleEndian.PutUint64(s.block, s.count)
	}
	n := copy(p[:min(int64(len(p)), s.left)], s.block[s.at:])
	s.sum.Write(p[:n])
	s.at += n
	s.left -= int64(n)
	return n, nil
}

// Sum is the SHA-256 of what has been read so far.
func (s *Stream) Sum() []byte { return s.sum.Sum(nil) }
