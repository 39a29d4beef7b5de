package conntrack

// MapAt makes a mapping of a client's transport address at a certain pool4
// address and port: that which a stored SYN was sent to (RFC 6146 §3.5.2.2, "V4
// INIT"). It returns false when the client has a mapping already, or cannot have
// one there: the port is not free, or of no range, or reserved; the client's
// mappings lie at another address, or in other blocks; or the client is at its
// limit. As with Map, the mapping lasts only if a session follows.
//
// Which address a client's mappings lie at, it has none yet, is said by a hash
// of its own address, so that all shards agree; another is as if it had some
// elsewhere. Neither the class nor the parity of the client's port counts.
func (s *Shard) MapAt(client Addr6, port uint16, p Proto, at uint32, mapped uint16) (Mapping, bool) {
	defer s.stats.publish()
	c := s.t.hash.client(client, port)
	if s.t.hash.owner(c) != uint64(s.id) {
		return Mapping{}, false
	}
	if set := s.t.statics.Load(); len(set.byClient) > 0 && set.byClient[clientKey{client, port, p}] != nil {
		return Mapping{}, false
	}
	k := kindOf(p)
	hash := forwardHash(c, k)
	addr, ok := s.t.ports.indexOf(at)
	if !ok || s.forward.full() {
		return Mapping{}, false
	}
	if _, _, ok := s.forward.find(s.t.bib, hash, k, client, port); ok {
		return Mapping{}, false
	}
	mark, v := s.takePort(client, false)
	if v != OK {
		return Mapping{}, false
	}
	if !s.claimFor(k, client, addr, mapped) {
		s.giveBack(client, mark, onePort)
		return Mapping{}, false
	}
	i := bibIndex(s.t.ports.set(k, addr), mapped)
	s.openBIB(i, hash, client, port, mark)
	return s.mapping(i), true
}

// claimFor claims a certain port for a client, if one of its mappings may lie
// there.
func (s *Shard) claimFor(k kind, client Addr6, addr int, mapped uint16) bool {
	set, b := s.t.ports.set(k, addr), &s.t.blocks
	if b.on() && s.ownsBlocks(client) {
		return b.blocks[b.at(addr, mapped)].is(client) && s.t.ports.claim(set, mapped)
	}
	if first, _ := s.paired(client); first != addr {
		return false
	}
	if !b.on() {
		return s.t.ports.claim(set, mapped)
	}
	i := b.at(addr, mapped)
	if s.blocks.index.full() || !b.claim(i) {
		return false
	}
	if !s.t.ports.claim(set, mapped) { // of no range, reserved, or a static mapping's
		b.release(i)
		return false
	}
	s.assign(i, uint32(s.t.hash.address(client)), client)
	s.noteBlock(BlockAssigned, client, i, 0)
	return true
}

// ownsBlocks tells whether the client has a block.
func (s *Shard) ownsBlocks(client Addr6) bool {
	o, hash := &s.blocks.index, uint32(s.t.hash.address(client))
	for at := o.home(hash); o.words[at] != 0; at = o.after(at) {
		if uint32(o.words[at]>>32) == hash && s.t.blocks.blocks[uint32(o.words[at])-1].is(client) {
			return true
		}
	}
	return false
}

// PortFree tells whether a port of a pool4 address can be had for a mapping at
// this moment. Any goroutine.
func (t *Table) PortFree(addr uint32, port uint16) bool {
	set, ok := t.poolSet(kindPorts, addr)
	return ok && t.ports.isFree(set, port)
}
