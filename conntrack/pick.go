package conntrack

import "math/bits"

// picker is one shard's way of choosing ports. Owned by the shard's worker.
type picker struct {
	pool *ports
	rng  keyStream
	own  [sumWords]uint64
}

// class is a part of the number space that a mapped port is taken from, by the
// client's port (RFC 6146 §3.5.1.1, §3.5.2.3): well-known ports map to such
// ports, others to others, as long as there are any. ICMP identifiers have no
// classes (§3.5.3). It is a range of blocks.
type class struct{ first, count uint64 }

const wellKnownBlocks = 1024 >> blockShift

// mask has, in summary word i, the blocks of the class.
func (c class) mask(i int) uint64 {
	low := uint64(0)
	if i == 0 {
		low = 1<<wellKnownBlocks - 1
	}
	switch {
	case c.count == blocks:
		return ^uint64(0)
	case c.first == 0:
		return low
	}
	return ^low
}

// classes gives where to look for a port for the client's, in turn.
func classes(k kind, port uint16) [2]class {
	wellKnown, others := class{0, wellKnownBlocks}, class{wellKnownBlocks, blocks - wellKnownBlocks}
	switch {
	case k == kindICMP:
		return [2]class{{0, blocks}}
	case port>>blockShift < wellKnownBlocks:
		return [2]class{wellKnown, others}
	}
	return [2]class{others, wellKnown}
}

// pick claims a port for the client's port: at the address first, where the
// client has mappings, else at home, where its hash points (paired pooling, RFC
// 4787 REQ-2), else at the next addresses that have any.
func (pk *picker) pick(k kind, first, home int, client uint16, r uint64) (addr int, port uint16, ok bool) {
	p := pk.pool
	n := len(p.addrs)
	if first != home {
		if port, ok = pk.pickAt(p.set(k, first), classes(k, client), client, r); ok {
			return first, port, true
		}
	}
	addr = home
	for range n {
		if addr, ok = p.nextAny(k, addr); !ok {
			return 0, 0, false
		}
		if port, ok = pk.pickAt(p.set(k, addr), classes(k, client), client, r); ok {
			return addr, port, true
		}
		addr = (addr + 1) % n
	}
	return 0, 0, false
}

// foresee is the port that pick would claim first, if there is one of the
// class, the parity and the shard's own blocks.
func (pk *picker) foresee(k kind, addr int, client uint16, r uint64) (uint16, bool) {
	return pk.scan(pk.pool.set(k, addr), classes(k, client)[0], client&1, 0, r, false)
}

// pickAt claims a port of one address. The class counts for more than the
// parity (RFC 4787 REQ-4), and that for more than whose block it is: the
// shard's own are looked at before those of others.
func (pk *picker) pickAt(set int, from [2]class, client uint16, r uint64) (uint16, bool) {
	for _, c := range from {
		if c.count == 0 {
			break
		}
		for _, parity := range [2]uint16{client & 1, client&1 ^ 1} {
			for _, foreign := range [2]uint64{0, ^uint64(0)} {
				if port, ok := pk.scan(set, c, parity, foreign, r, true); ok {
					return port, true
				}
			}
		}
	}
	return 0, false
}

// scan looks through the blocks of one class and parity from a random one on
// (RFC 6056 §3.3.2: nobody can tell the next port from those seen), which r
// says. With claim false it only says what it would have claimed.
func (pk *picker) scan(set int, c class, parity uint16, foreign, r uint64, claim bool) (uint16, bool) {
	s := &pk.pool.sets[set]
	start := int(c.first + r%blocks*c.count/blocks)
	first, from := start>>6, start&63
	for i := 0; i <= sumWords; i++ {
		at := (first + i) % sumWords
		m := s.sum[parity][at].Load() & (pk.own[at] ^ foreign) & c.mask(at)
		switch i {
		case 0:
			m &^= 1<<from - 1
		case sumWords:
			m &= 1<<from - 1
		}
		for ; m != 0; m &= m - 1 {
			if port, ok := pk.claimIn(set, at*64+bits.TrailingZeros64(m), parity, int(r>>32&63), claim); ok {
				return port, true
			}
		}
	}
	return 0, false
}

// claimIn claims a port of one block and parity, the first from bit turn on.
func (pk *picker) claimIn(set, block int, parity uint16, turn int, claim bool) (uint16, bool) {
	w, mask := &pk.pool.sets[set].free[block], parityMask(parity)
	for {
		old := w.Load()
		if old&mask == 0 {
			return 0, false
		}
		bit := (bits.TrailingZeros64(bits.RotateLeft64(old&mask, -turn)) + turn) & 63
		if !claim {
			return uint16(block<<blockShift | bit), true
		}
		if w.CompareAndSwap(old, old&^(1<<bit)) {
			pk.pool.settle(set, block, parity, old&^(1<<bit))
			return uint16(block<<blockShift | bit), true
		}
	}
}
