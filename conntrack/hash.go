package conntrack

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
)

// hasher hashes keys with secrets drawn at start-up, so that nobody outside
// can choose packets that meet in one bucket (design.md, invariant 4). It is a
// folded-multiply hash: each stage xors its inputs with secrets, multiplies
// them to 128 bits and folds the halves together. It is staged because the
// client's transport address decides alone who owns its mappings; a session's
// hash continues from there. Immutable after newHasher; safe for everybody.
type hasher struct {
	s      [10]uint64
	shards uint64
	// byAddress is what of client's result comes from the address alone: the upper
	// half with port blocks, nothing without.
	byAddress uint64
	portShift uint64 // mapped ports are dealt to shards in blocks of 2 to the power of this
}

// newHasher derives the secrets from seed.
func newHasher(seed [32]byte, shards int) hasher {
	g := rand.NewChaCha8(seed)
	h := hasher{shards: uint64(shards), portShift: blockShift}
	for i := range h.s {
		h.s[i] = g.Uint64()
	}
	return h
}

// forBlocks makes a client's address alone say who owns its mappings, and deals
// ports in blocks of the size given; 0 changes nothing.
func (h hasher) forBlocks(size int) hasher {
	if size > 0 {
		h.byAddress, h.portShift = 0xffffffff<<32, uint64(bits.TrailingZeros(uint(size)))
	}
	return h
}

// seedFor gives every consumer of the table's secret a seed of its own.
func seedFor(secret [32]byte, purpose uint64) [32]byte {
	g := rand.NewChaCha8(secret)
	var seed [32]byte
	for i := range 4 {
		binary.LittleEndian.PutUint64(seed[i*8:], g.Uint64()^purpose*0x9e3779b97f4a7c15)
	}
	return seed
}

// fold multiplies and folds.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// scale maps the 32 low bits of h onto [0, n) by multiplication.
func scale(h, n uint64) uint64 { return h & 0xffffffff * n >> 32 }

// pairing decides which pool4 address a client's mappings come from (RFC 4787
// REQ-2). It has no secret, unlike all else here: a handoff server has the
// client's entries under that address, so after a restart, or a reboot, the
// client must be asked about under the same one. There is nothing to hide
// either: every server that a client talks to sees its address.
func pairing(a Addr6) uint64 {
	const k1, k2, k3 = 0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9
	return fold(fold(a.Hi^k1, a.Lo^k2)^k3, k1)
}

// address hashes the client's address alone, the first stage of client.
func (h *hasher) address(a Addr6) uint64 { return fold(a.Hi^h.s[0], a.Lo^h.s[1]) }

// client hashes the client's transport address: owner and BIB.
func (h *hasher) client(a Addr6, port uint16) uint64 {
	address := h.address(a)
	c := fold(address^h.s[2], uint64(port)^h.s[3])
	return c ^ (c^address)&h.byAddress
}

// owner picks the shard from the upper half of client's result; the BIB index
// uses the lower half, so that one shard's entries spread over its whole index.
func (h *hasher) owner(client uint64) uint64 { return scale(client>>32, h.shards) }

// A session hash carries its shard in the top eight bits; the other bits come
// from the last stage: 16 for the tag, 40 from bit 16 on for the bucket.

func (h *hasher) key64(k *Key64) uint64 { return h.session(h.client(k.Client, k.ClientPort), k) }

// session is key64 where the client's hash is known.
func (h *hasher) session(c uint64, k *Key64) uint64 {
	rest := uint64(k.Server)<<32 | uint64(k.ServerPort)<<16 | uint64(k.Proto)<<8 | uint64(k.Pool6)
	return h.owner(c)<<56 | h.rest64(c, rest)
}

// rest64 is the last stage of key64, without the shard.
func (h *hasher) rest64(c, rest uint64) uint64 { return fold(c^h.s[4], rest^h.s[5]) >> 8 }

// key46 hints at the shard whose block the mapped port belongs to. It is a
// hint only: a shard that has run out takes ports of other blocks.
func (h *hasher) key46(k *Key46) uint64 {
	a := uint64(k.Server)<<32 | uint64(k.Mapped)
	b := uint64(k.ServerPort)<<32 | uint64(k.MappedPort)<<16 | uint64(k.Proto)
	return h.words46(a, b)
}

// words46 is key46 for both addresses, and for both ports and the protocol.
func (h *hasher) words46(a, b uint64) uint64 {
	block := uint64(uint16(b>>16)) >> (h.portShift & 15)
	return blockOwner(block, h.shards)<<56 | fold(fold(a^h.s[6], b^h.s[7]), h.s[8])>>8
}

// blockOwner deals blocks of ports to shards in turn.
func blockOwner(block, shards uint64) uint64 { return block % shards }

// Owner is the index of the shard that alone makes mappings for this client
// transport address. For ICMP the port is the echo identifier.
func (t *Table) Owner(client Addr6, port uint16) int {
	return int(t.hash.owner(t.hash.client(client, port)))
}

// OwnerOf is Owner for the client of a key whose Hash64 is known.
func OwnerOf(hash64 uint64) int { return int(hash64 >> 56) }

// Hash64 hashes a key for Touch64, Locate64 and Lookup64.
func (t *Table) Hash64(k *Key64) uint64 { return t.hash.key64(k) }

// Hash46 hashes a key for Touch46, Locate46 and Lookup46.
func (t *Table) Hash46(k *Key46) uint64 { return t.hash.key46(k) }
