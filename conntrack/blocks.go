package conntrack

import (
	"fmt"
	"math/bits"
	"sync/atomic"
)

// With port blocks a client's mappings come from blocks of consecutive numbers
// of one pool4 address that are its alone for as long as it has them: then one
// line in the log for each block says who was behind any port at any time
// (RFC 6888 REQ-14, RFC 7422 §1). A block holds for TCP, UDP and ICMP
// identifiers alike.
//
// A client gets another block when its own have nothing free, at the same pool4
// address as long as that has any (RFC 4787 REQ-2). A block goes back when it
// was without a mapping for a grace period. Which block it is, and which port
// of it, is random (RFC 6056, RFC 6888 REQ-15).
//
// Clients belong to shards by their address alone then, so a block has one
// writer, the shard of its client. Blocks that are nobody's are free bits, which
// every shard may claim, its own (as with ports) first.

// PortBlocks configures them; Size 0 is without.
type PortBlocks struct {
	Size  int  // a power of two from 64 to 4096
	Grace Tick // how long a block without mappings stays its client's
}

const (
	minBlockSize = 64
	maxBlockSize = 4096
	// blocksPerClient bounds how long one looks for a free port.
	blocksPerClient = 256
	// blockTries is how many free blocks are looked at for one that has a port of
	// the kind wanted: static mappings may have them all.
	blockTries = 4
	// returnsPerOp bounds the work of one call of Expire.
	returnsPerOp = 16
)

// portBlock is an assigned block.
//
//	meta         version 8 | assigned 1 | 0 23 | mappings 32
//	since, idle  when it was assigned, and when its last mapping ended
//	next         the next one on the list of those without a mapping
//
// Its owner writes it; others read hi, lo, meta and since.
type portBlock struct {
	hi, lo, meta atomic.Uint64
	since        atomic.Uint32
	idle         uint32
	next         uint32
	waiting      uint32 // 1 while on the list
	_            [3]uint64
}

const blockAssigned = 1 << 55

// portBlocks are the blocks of all addresses. free is for every shard.
type portBlocks struct {
	size, shift uint
	grace       Tick
	perAddr     int // blocks of an address
	words       int // of 64 blocks, of an address
	free        []tagWord
	left        *atomic.Int64 // how many are free: when none is, nobody looks
	blocks      []portBlock
	mem         [2]region
}

func (b PortBlocks) check() error {
	if b.Size != 0 && (b.Size < minBlockSize || b.Size > maxBlockSize || b.Size&(b.Size-1) != 0) {
		return fmt.Errorf("port blocks: %d is no power of two from %d to %d", b.Size, minBlockSize, maxBlockSize)
	}
	return nil
}

// newPortBlocks marks every block free that has a usable port or identifier.
func newPortBlocks(c PortBlocks, p *ports) (b portBlocks, err error) {
	if c.Size == 0 {
		return b, nil
	}
	b = portBlocks{size: uint(c.Size), shift: uint(bits.TrailingZeros(uint(c.Size))), grace: c.Grace, perAddr: 1 << 16 / c.Size, left: new(atomic.Int64)}
	b.words = (b.perAddr + 63) / 64
	if b.mem[0], err = mapAnonymous(sizeOf[tagWord](b.words * len(p.addrs))); err != nil {
		return b, fmt.Errorf("free port blocks: %w", err)
	}
	if b.mem[1], err = mapSparse(sizeOf[portBlock](b.perAddr*len(p.addrs)), false); err != nil {
		return b, fmt.Errorf("port blocks of %d pool4 addresses: %w", len(p.addrs), err)
	}
	b.free = overlay[tagWord](b.mem[0], 0, b.words*len(p.addrs))
	b.blocks = overlay[portBlock](b.mem[1], 0, b.perAddr*len(p.addrs))
	for i := range b.blocks {
		addr, n := i/b.perAddr, i%b.perAddr
		for _, k := range []kind{kindPorts, kindICMP} {
			for _, w := range b.wordsOf(p.usable, p.set(k, addr), n) {
				if bit := uint64(1) << (n % 64); w != 0 && b.free[addr*b.words+n/64].Or(bit)&bit == 0 {
					b.left.Add(1)
				}
			}
		}
	}
	return b, nil
}

func (b *portBlocks) close() error {
	if err := b.mem[0].unmap(); err != nil {
		return err
	}
	return b.mem[1].unmap()
}

func (b *portBlocks) on() bool { return b.size != 0 }

// wordsOf cuts the words of a block's ports out of those of all sets.
func (b *portBlocks) wordsOf(all []uint64, set, n int) []uint64 {
	per := int(b.size) >> blockShift
	return all[set*blocks+n*per:][:per]
}

// at numbers the block that a port of an address lies in.
func (b *portBlocks) at(addr int, port uint16) uint32 {
	return uint32(addr*b.perAddr + int(port)>>b.shift)
}

// claim takes a free block. Any shard.
func (b *portBlocks) claim(i uint32) bool {
	addr, n := int(i)/b.perAddr, int(i)%b.perAddr
	w, bit := &b.free[addr*b.words+n/64], uint64(1)<<(n%64)
	if w.And(^bit)&bit == 0 {
		return false
	}
	b.left.Add(-1)
	return true
}

// release gives a claimed block back.
func (b *portBlocks) release(i uint32) {
	addr, n := int(i)/b.perAddr, int(i)%b.perAddr
	b.free[addr*b.words+n/64].Or(1 << (n % 64))
	b.left.Add(1)
}

// is tells whether the block is this client's, to the client's owner.
func (b *portBlock) is(a Addr6) bool {
	return b.meta.Load()&blockAssigned != 0 && b.hi.Load() == a.Hi && b.lo.Load() == a.Lo
}

// ownBlocks is one shard's part: its clients' blocks, and those of them that
// are without a mapping, the longest first.
type ownBlocks struct {
	index       forward // of a client's address to its blocks, of which it may have several
	first, last uint32  // plus one; 0 is none
}

// pickFromBlocks claims a port for a client.
func (s *Shard) pickFromBlocks(k kind, client Addr6, parity uint16, r uint64) (addr int, port uint16, v Verdict) {
	b, o := &s.t.blocks, &s.blocks
	addr, _ = s.paired(client)
	hash, has := uint32(s.t.hash.address(client)), 0
	for at := o.index.home(hash); o.index.words[at] != 0; at = o.index.after(at) {
		i := uint32(o.index.words[at]) - 1
		if uint32(o.index.words[at]>>32) != hash || !b.blocks[i].is(client) {
			continue
		}
		addr = int(i) / b.perAddr
		if port, ok := s.pickInBlock(k, i, parity, r); ok {
			return addr, port, OK
		}
		has++
	}
	if has >= blocksPerClient {
		return 0, 0, ClientPorts
	}
	if o.index.full() {
		return 0, 0, TableFull
	}
	for range blockTries {
		i, ok := s.findBlock(addr, r)
		if !ok {
			break
		}
		s.assign(i, hash, client)
		s.noteBlock(BlockAssigned, client, i, 0)
		if port, ok := s.pickInBlock(k, i, parity, r); ok {
			return int(i) / b.perAddr, port, OK
		}
		s.wait(i) // goes back after the grace period
	}
	return 0, 0, PortsUsedUp
}

// pickInBlock claims a port of one block: of the parity wanted if there is one
// (RFC 4787 REQ-4).
func (s *Shard) pickInBlock(k kind, i uint32, parity uint16, r uint64) (uint16, bool) {
	b := &s.t.blocks
	set := s.t.ports.set(k, int(i)/b.perAddr)
	per := int(b.size) >> blockShift
	first := int(i) % b.perAddr * per
	for _, par := range [2]uint16{parity & 1, parity&1 ^ 1} {
		for n := range per {
			word := first + (int(r%uint64(per))+n)%per
			if port, ok := s.picker.claimIn(set, word, par, int(r>>32&63), true); ok {
				return port, true
			}
		}
	}
	return 0, false
}

// findBlock claims a free block at an address, or else at the next one that has
// any: the shard's own before those of others, ports from 1024 on before the
// well-known ones.
func (s *Shard) findBlock(addr int, r uint64) (uint32, bool) {
	if s.t.blocks.left.Load() <= 0 {
		return 0, false // however large the pool, a refusal costs nothing
	}
	n := len(s.t.ports.addrs)
	for range n {
		for _, low := range [2]bool{false, true} {
			for _, foreign := range [2]bool{false, true} {
				if i, ok := s.findBlockAt(addr, low, foreign, r); ok {
					return i, true
				}
			}
		}
		if addr++; addr == n {
			addr = 0
		}
	}
	return 0, false
}

func (s *Shard) findBlockAt(addr int, low, foreign bool, r uint64) (uint32, bool) {
	b := &s.t.blocks
	start := int(scale(r>>16, uint64(b.perAddr)))
	for n := range b.words {
		w := (start/64 + n) % b.words
		free := bits.RotateLeft64(b.free[addr*b.words+w].Load(), -(start % 64))
		for ; free != 0; free &= free - 1 {
			block := w*64 + (bits.TrailingZeros64(free)+start)%64
			if (block<<b.shift < 1024) != low || (blockOwner(uint64(block), s.t.hash.shards) != uint64(s.id)) != foreign {
				continue
			}
			if i := uint32(addr*b.perAddr + block); b.claim(i) {
				return i, true
			}
		}
	}
	return 0, false
}

// assign makes a claimed block the client's.
func (s *Shard) assign(i, hash uint32, client Addr6) {
	b := &s.t.blocks
	e := &b.blocks[i]
	e.hi.Store(client.Hi)
	e.lo.Store(client.Lo)
	e.since.Store(uint32(s.now))
	e.meta.Store((e.meta.Load()>>56+1)<<56 | blockAssigned)
	s.blocks.index.insert(hash, i)
	s.stats.add(statBlocks, 1)
}

// hold counts a mapping, whose place is given, on its block.
func (s *Shard) hold(mapping uint32) {
	if b := &s.t.blocks; b.on() {
		b.blocks[b.at(s.addrOf(mapping), uint16(mapping))].meta.Add(1)
	}
}

// letBlock uncounts a mapping.
func (s *Shard) letBlock(mapping uint32) {
	b := &s.t.blocks
	if !b.on() {
		return
	}
	i := b.at(s.addrOf(mapping), uint16(mapping))
	if uint32(b.blocks[i].meta.Add(^uint64(0))) == 0 {
		s.wait(i)
	}
}

// wait puts a block without mappings on the list of those that may go back.
func (s *Shard) wait(i uint32) {
	o, b := &s.blocks, s.t.blocks.blocks
	e := &b[i]
	e.idle = uint32(s.now)
	if e.waiting != 0 {
		return // its turn comes; idle tells that it was in use meanwhile
	}
	e.waiting, e.next = 1, 0
	if o.last != 0 {
		b[o.last-1].next = i + 1
	} else {
		o.first = i + 1
	}
	o.last = i + 1
}

// returnBlocks gives back blocks whose grace period is over. The list is in the
// order of time but for blocks that were used again while they waited: those go
// to its end.
func (s *Shard) returnBlocks(now Tick) {
	b, o := &s.t.blocks, &s.blocks
	for range returnsPerOp {
		if o.first == 0 {
			return
		}
		i := o.first - 1
		e := &b.blocks[i]
		unused := uint32(e.meta.Load()) == 0
		early := before(now, Tick(e.idle)+b.grace)
		if unused && early && e.next == 0 {
			return
		}
		if o.first = e.next; o.first == 0 {
			o.last = 0
		}
		e.waiting = 0
		switch {
		case unused && !early:
			s.giveBlock(i, now)
		case unused:
			idle := e.idle
			s.wait(i)
			e.idle = idle
			return
		}
	}
}

// giveBlock ends an assignment.
func (s *Shard) giveBlock(i uint32, now Tick) {
	b, o := &s.t.blocks, &s.blocks
	e := &b.blocks[i]
	client := Addr6{e.hi.Load(), e.lo.Load()}
	hash := uint32(s.t.hash.address(client))
	o.index.remove(o.index.place(hash, i))
	e.meta.Store(e.meta.Load() >> 56 << 56)
	s.stats.add(statBlocks, -1)
	s.noteBlock(BlockReturned, client, i, max(now-Tick(e.since.Load()), 1))
	b.release(i)
}

// adoptBlock makes the block of a mapping of an earlier process its client's,
// which is no event: that process has said so. false when it is another's.
func (s *Shard) adoptBlock(client Addr6, addr int, port uint16) bool {
	b := &s.t.blocks
	if !b.on() {
		return true
	}
	i := b.at(addr, port)
	if b.blocks[i].is(client) {
		return true
	}
	if s.blocks.index.full() || !b.claim(i) {
		return false
	}
	s.assign(i, uint32(s.t.hash.address(client)), client)
	return true
}
