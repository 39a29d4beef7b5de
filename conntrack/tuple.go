package conntrack

import "math/bits"

// Tuple is the key of a TCP or UDP session in the words that its slots have it
// in: what is read from a packet need not be taken apart and put together
// again. A plain value.
type Tuple struct{ q query }

// Tuple64 is the Key64 of an IPv6 packet, and its hash. ports are the source
// port, in the upper half, and the destination port.
func (t *Table) Tuple64(client Addr6, server, ports uint32, p Proto, pool6 uint8) (Tuple, uint64) {
	c := t.hash.client(client, uint16(ports>>16))
	h := t.hash.owner(c)<<56 | t.hash.rest64(c, uint64(server)<<32|uint64(ports&0xffff)<<16|uint64(p)<<8|uint64(pool6))
	return Tuple{query{client.Hi, client.Lo, uint64(server)<<32 | uint64(ports), uint64(pool6)<<8 | p.code()}}, h
}

// Tuple46 is Tuple64 for the Key46 of an IPv4 packet.
func (t *Table) Tuple46(server, mapped, ports uint32, p Proto) (Tuple, uint64) {
	swapped := bits.RotateLeft32(ports, 16) // in a slot the mapped port is first
	h := t.hash.words46(uint64(server)<<32|uint64(mapped), uint64(ports>>16)<<32|uint64(ports&0xffff)<<16|uint64(p))
	return Tuple{query{0, uint64(mapped), uint64(server)<<32 | uint64(swapped), p.code()}}, h
}

// Hit is as much of a View64 or View46 as a packet of an established session
// needs, under the same rules. It has four words, because the compiler keeps no
// larger structure in registers.
type Hit struct {
	slot     *slot
	w3, w4   uint64
	stateHop uint64
}

// At64 is LookupAt64 for a Tuple.
func (t *Table) At64(k *Tuple, h uint64, at uint32) (v Hit, ok bool) {
	x := &t.shards[h>>56].index64
	s := &x.slots[at]
	seq := s.seq.Load()
	if seq&1 != 0 || !s.is64(k.q) {
		if s, _, seq = x.find64(h, k.q); s == nil {
			return Hit{}, false
		}
	}
	v = s.hit()
	return v, s.seq.Load() == seq && v.state() != stateRevoked
}

// At46 is LookupAt46 for a Tuple, but looks into no shard other than the one that
// the hash names. client is the IPv6 destination after translation.
func (t *Table) At46(k *Tuple, h uint64, at uint32) (v Hit, client Addr6, ok bool) {
	x := &t.shards[h>>56].index46
	s := &x.slots[at]
	seq := s.seq.Load()
	if seq&1 != 0 || !s.is46(k.q) {
		if s, _, seq = x.find46(h, k.q); s == nil {
			return Hit{}, Addr6{}, false
		}
	}
	v, client = s.hit(), Addr6{s.w[0].Load(), s.w[1].Load()}
	return v, client, s.seq.Load() == seq && v.state() != stateRevoked
}

func (s *slot) hit() Hit {
	return Hit{s, s.w[3].Load(), s.w[4].Load(), uint64(s.state.Load())<<32 | uint64(s.hop.Load())}
}

func (v Hit) state() TCPState { return stateOf(uint32(v.stateHop >> 32)) }

// Mapped is the IPv4 source after translation, of an IPv6 packet.
func (v Hit) Mapped() uint32 { return uint32(v.w3 >> 32) }

// Port is the port after translation: the source of an IPv6 packet, the
// destination of an IPv4 packet.
func (v Hit) Port() uint16 { return uint16(v.w3 >> 16) }

// Delta is what the translation adds to the checksum of the upper layer.
func (v Hit) Delta() uint16 { return uint16(v.w3) }

// Pool6 is the prefix that the server's address is put into.
func (v Hit) Pool6() uint8 { return uint8(v.w4 >> 8) }

// Hop is the cached next hop, 0 when none.
func (v Hit) Hop() uint32 { return uint32(v.stateHop) }

// Touch notes a packet of this direction, which keeps the session alive.
func (v Hit) Touch(now Tick) { v.slot.touch(now) }

// PassTCP64 is PacketTCP64 for a connection that is established and not known
// to be cut off; h is the hash that found it. It returns false, and has done
// nothing, for any other: in their states a SYN, or any packet, changes much.
func (t *Table) PassTCP64(v Hit, h uint64, flags uint8, now Tick) bool {
	g := segment(flags) & segFlags
	switch {
	case g == 0 && v.state() == StateEstablished:
	case !v.open():
		return false
	case !track(v.slot, &t.shards[h>>56].index46.slots[v.peer()], uint32(v.stateHop>>32), g):
		return true
	}
	v.slot.touch(now)
	return true
}

// PassTCP46 is PassTCP64 for the other direction.
func (t *Table) PassTCP46(v Hit, h uint64, flags uint8, now Tick) bool {
	g := segment(flags) & segFlags
	switch {
	case g == 0 && v.state() == StateEstablished:
	case !v.open():
		return false
	case !track(&t.shards[h>>56].index64.slots[v.peer()], v.slot, uint32(v.stateHop>>32), g|segV4):
		return true
	}
	v.slot.touch(now)
	return true
}

// open says whether the state is ESTABLISHED or one that FINs lead to from there.
func (v Hit) open() bool {
	return v.state() >= StateEstablished && v.state() <= StateV4FinV6Fin
}

func (v Hit) peer() uint32 { return uint32(v.w4 >> 32) }

// TouchPeers64 asks for the other directions' slots of the sessions at some
// positions, whose own were asked for by Locate64: the end of a connection is
// written into both.
func (t *Table) TouchPeers64(hashes []uint64, at []uint32, which []uint8) {
	for _, i := range which {
		shard := t.shards[hashes[i]>>56]
		if peer := shard.index64.slots[at[i]].w[4].Load() >> 32; peer < uint64(len(shard.index46.slots)) {
			prefetchLine(&shard.index46.slots[peer])
		}
	}
}

// TouchPeers46 is TouchPeers64 for the other direction.
func (t *Table) TouchPeers46(hashes []uint64, at []uint32, which []uint8) {
	for _, i := range which {
		shard := t.shards[hashes[i]>>56]
		if peer := shard.index46.slots[at[i]].w[4].Load() >> 32; peer < uint64(len(shard.index64.slots)) {
			prefetchLine(&shard.index64.slots[peer])
		}
	}
}
