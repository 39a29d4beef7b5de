package traffic

import "math/bits"

// Permutation puts the numbers below N in pseudorandom order, each exactly
// once, without a table (RFC 4814 §4.4: addresses and ports of a test are to
// be drawn at random, and a set of flows of known size is to be complete). It
// scrambles numbers of as few bits as hold N with steps that each can be
// undone, and scrambles again what falls outside. The zero value is the order
// of nothing. Immutable; any goroutine may use it.
type Permutation struct {
	n, mask    uint64
	shift      uint
	mul1, mul2 uint64 // odd
	add1, add2 uint64
}

// NewPermutation returns an order of the numbers below n (at least 1) that the
// seed chooses.
func NewPermutation(n, seed uint64) Permutation {
	width := uint(max(bits.Len64(n-1), 1))
	p := Permutation{n: n, mask: ^uint64(0) >> (64 - width), shift: (width + 1) / 2}
	p.mul1, p.add1 = splitMix(&seed)|1, splitMix(&seed)
	p.mul2, p.add2 = splitMix(&seed)|1, splitMix(&seed)
	return p
}

// InOrder is the order of counting: At(i) is i modulo n.
func InOrder(n uint64) Permutation { return Permutation{n: n} }

// splitMix is Steele, Lea and Flood's generator of seeds (OOPSLA 2014).
func splitMix(state *uint64) uint64 {
	*state += 0x9e3779b97f4a7c15
	z := *state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Len is the number of numbers.
func (p *Permutation) Len() uint64 { return p.n }

// At is the number at place i of the order, which repeats after Len places.
func (p *Permutation) At(i uint64) uint64 {
	if i >= p.n {
		i %= p.n
	}
	if p.mask == 0 {
		return i
	}
	for {
		// Multiplication by an odd number, addition, and a shift of at least
		// half the width are one-to-one within the mask. The shift carries the
		// upper bits, which are well mixed, to the lower ones, which are not.
		i = (i*p.mul1 + p.add1) & p.mask
		i ^= i >> p.shift
		i = (i*p.mul2 + p.add2) & p.mask
		i ^= i >> p.shift
		i = (i * 0xd1342543de82ef95) & p.mask
		// Walking the cycle that i is on ends, as it began below n; the mask
		// is less than twice n, so it takes two steps at most on average.
		if i < p.n {
			return i
		}
	}
}
