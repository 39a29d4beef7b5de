package conntrack

import "math/bits"

// BlockInfo is an assigned block.
type BlockInfo struct {
	Client      Addr6
	Addr        uint32
	First, Last uint16 // the lowest and highest number that a mapping can have
	Since       Tick
	Mappings    uint32
}

// Blocks calls f with each assigned block until it says false. Any goroutine,
// as Sessions.
func (t *Table) Blocks(f func(BlockInfo) bool) {
	b := &t.blocks
	for i := range b.blocks {
		e := &b.blocks[i]
		meta := e.meta.Load()
		if meta&blockAssigned == 0 {
			continue
		}
		info := BlockInfo{Client: Addr6{e.hi.Load(), e.lo.Load()}, Addr: t.ports.addrs[i/b.perAddr], Since: Tick(e.since.Load()), Mappings: uint32(meta)}
		info.First, info.Last = t.blockRange(uint32(i))
		if again := e.meta.Load(); again>>55 == meta>>55 && !f(info) {
			return
		}
	}
}

// blockRange is a block without what lies outside pool4's ranges at its ends.
func (t *Table) blockRange(i uint32) (first, last uint16) {
	b := &t.blocks
	addr, n := int(i)/b.perAddr, int(i)%b.perAddr
	ports := b.wordsOf(t.ports.usable, t.ports.set(kindPorts, addr), n)
	icmp := b.wordsOf(t.ports.usable, t.ports.set(kindICMP, addr), n)
	lo, hi := -1, 0
	for w := range ports {
		u := ports[w] | icmp[w]
		if u == 0 {
			continue
		}
		if lo < 0 {
			lo = w<<blockShift + bits.TrailingZeros64(u)
		}
		hi = w<<blockShift + 63 - bits.LeadingZeros64(u)
	}
	base := n << b.shift
	return uint16(base + max(lo, 0)), uint16(base + hi)
}
