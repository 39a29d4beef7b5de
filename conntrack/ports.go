package conntrack

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// Mapped ports are free bits. Per number space and pool4 address there are
// 1024 words of 64 ports, "blocks", dealt to shards in turn (block b belongs to
// shard b mod N). Two summary bits per block say whether it has a free even or
// odd port, and one bit per address whether it has any: finding a port looks at
// a bounded number of words, however full the pool is.
//
// Every worker may claim any port, by compare-and-swap, so that all ports of a
// range can be used; it looks in its own blocks first, because a returning
// packet's port then says which shard to ask first.
const (
	blockShift = 6
	blocks     = 1 << 16 >> blockShift
	sumWords   = blocks / 64
	evenPorts  = 0x5555_5555_5555_5555
)

// portSet is one address's free ports. A summary bit may be set while its block
// is full (for a moment); it is never clear while its block has a free port and
// nobody is at work on it.
type portSet struct {
	free [blocks]atomic.Uint64
	sum  [2][sumWords]atomic.Uint64
}

// ports is the pool of mapped ports and identifiers. claim, release and take
// are safe for every goroutine; usable never changes after newPorts.
type ports struct {
	addrs  []uint32 // pool4 addresses, ascending
	sets   []portSet
	usable []uint64 // like sets[].free with nothing taken
	any    [kinds][maxPool4 / 64]atomic.Uint64
	shards uint64
	shift  uint64 // words of ports are dealt to shards in runs of 2 to the power of this
	mem    [2]region
}

// newPorts lays out the pool. Reserved ports are never handed out; they do not
// concern ICMP identifiers. Nor is port 0, which no transport may use.
func newPorts(ranges []Pool4Range, reserved []uint16, h *hasher) (*ports, error) {
	p := &ports{addrs: pool4Addresses(ranges), shards: h.shards, shift: h.portShift - blockShift}
	n := kinds * len(p.addrs)
	var err error
	if p.mem[0], err = mapAnonymous(sizeOf[portSet](n)); err != nil {
		return nil, fmt.Errorf("port bitmaps of %d pool4 addresses: %w", len(p.addrs), err)
	}
	if p.mem[1], err = mapAnonymous(sizeOf[uint64](n * blocks)); err != nil {
		return nil, fmt.Errorf("port ranges of %d pool4 addresses: %w", len(p.addrs), err)
	}
	p.sets, p.usable = overlay[portSet](p.mem[0], 0, n), overlay[uint64](p.mem[1], 0, n*blocks)
	for _, r := range ranges {
		a, _ := p.indexOf(r.Addr)
		for _, k := range []kind{kindPorts, kindICMP} {
			words := p.usable[p.set(k, a)*blocks:][:blocks]
			for n := int(r.First); n <= int(r.Last); n++ {
				words[n>>blockShift] |= 1 << (n & 63)
			}
		}
	}
	for a := range p.addrs {
		words := p.usable[p.set(kindPorts, a)*blocks:][:blocks]
		words[0] &^= 1
		for _, r := range reserved {
			words[r>>blockShift] &^= 1 << (r & 63)
		}
	}
	p.freeAll()
	return p, nil
}

// freeAll sets every usable port free.
func (p *ports) freeAll() {
	for i, w := range p.usable {
		if w == 0 {
			continue
		}
		set, block := i/blocks, i%blocks
		p.sets[set].free[block].Store(w)
		p.announce(set, block, w)
	}
}

func (p *ports) close() error {
	if err := p.mem[0].unmap(); err != nil {
		return err
	}
	return p.mem[1].unmap()
}

// set numbers the port sets: all addresses of one kind, then of the other.
func (p *ports) set(k kind, addr int) int { return int(k)*len(p.addrs) + addr }

// addrOf gives the index of a port set's address.
func (p *ports) addrOf(set int) int {
	if set >= len(p.addrs) {
		set -= len(p.addrs)
	}
	return set
}

// indexOf finds a pool4 address. Most pools are one address or one prefix,
// which the first guess hits.
func (p *ports) indexOf(addr uint32) (int, bool) {
	if guess := int(addr) - int(p.addrs[0]); guess >= 0 && guess < len(p.addrs) && p.addrs[guess] == addr {
		return guess, true
	}
	lo, hi := 0, len(p.addrs)
	for lo < hi {
		mid := (lo + hi) / 2
		if p.addrs[mid] < addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(p.addrs) && p.addrs[lo] == addr
}

// inRange tells whether dynamic mappings may use a port at all.
func (p *ports) inRange(set int, port uint16) bool {
	return p.usable[set*blocks+int(port>>blockShift)]>>(port&63)&1 != 0
}

// isFree tells whether a port of the ranges is free at this moment.
func (p *ports) isFree(set int, port uint16) bool {
	return p.sets[set].free[port>>blockShift].Load()>>(port&63)&1 != 0
}

// claim takes one certain port.
func (p *ports) claim(set int, port uint16) bool {
	w := &p.sets[set].free[port>>blockShift]
	for {
		old := w.Load()
		if old>>(port&63)&1 == 0 {
			return false
		}
		if w.CompareAndSwap(old, old&^(1<<(port&63))) {
			p.settle(set, int(port>>blockShift), port&1, old&^(1<<(port&63)))
			return true
		}
	}
}

// release gives a claimed port of the ranges back.
func (p *ports) release(set int, port uint16) {
	bit := uint64(1) << (port & 63)
	p.sets[set].free[port>>blockShift].Or(bit)
	p.announce(set, int(port>>blockShift), bit)
}

// announce sets the summaries for free ports that were just added to a block.
func (p *ports) announce(set, block int, free uint64) {
	s, bit := &p.sets[set], uint64(1)<<(block&63)
	for parity := range 2 {
		if free&parityMask(uint16(parity)) == 0 {
			continue
		}
		if w := &s.sum[parity][block>>6]; w.Load()&bit == 0 {
			w.Or(bit)
		}
	}
	k, a := set/len(p.addrs), set%len(p.addrs)
	if w := &p.any[k][a>>6]; w.Load()>>(a&63)&1 == 0 {
		w.Or(1 << (a & 63))
	}
}

// settle clears summaries of what a claim emptied; now is the block after it.
// Each level is looked at again after its bit went: whoever freed a port in
// between either finds the bit clear and sets it, or is seen here.
func (p *ports) settle(set, block int, parity uint16, now uint64) {
	mask := parityMask(parity)
	if now&mask != 0 {
		return
	}
	s, bit := &p.sets[set], uint64(1)<<(block&63)
	s.sum[parity][block>>6].And(^bit)
	if s.free[block].Load()&mask != 0 {
		s.sum[parity][block>>6].Or(bit)
		return
	}
	if !s.empty() {
		return
	}
	k, a := set/len(p.addrs), set%len(p.addrs)
	p.any[k][a>>6].And(^(1 << (a & 63)))
	if !s.empty() {
		p.any[k][a>>6].Or(1 << (a & 63))
	}
}

// empty tells whether the summaries show no free port.
func (s *portSet) empty() bool {
	for parity := range s.sum {
		for i := range s.sum[parity] {
			if s.sum[parity][i].Load() != 0 {
				return false
			}
		}
	}
	return true
}

func parityMask(parity uint16) uint64 { return evenPorts << (parity & 1) }

// own masks, in summary word i, the blocks of one shard.
func (p *ports) own(shard uint64, i int) (mask uint64) {
	for b := range uint64(64) {
		if blockOwner((uint64(i)*64+b)>>p.shift, p.shards) == shard {
			mask |= 1 << b
		}
	}
	return mask
}

// nextAny finds the first address from a on, around the end, with a free port.
func (p *ports) nextAny(k kind, a int) (int, bool) {
	n := (len(p.addrs) + 63) / 64
	w := p.any[k][a>>6].Load() &^ (1<<(a&63) - 1)
	for i := 0; ; i++ {
		if w != 0 {
			return (a>>6+i)%n*64 + bits.TrailingZeros64(w), true
		}
		if i == n {
			return 0, false
		}
		w = p.any[k][(a>>6+i+1)%n].Load()
	}
}
