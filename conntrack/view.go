package conntrack

// View64 is what a lookup found for an IPv6 packet. It is a value that its
// worker owns; it may be used until the end of the burst it was looked up in.
// Should the session vanish meanwhile, its methods do nothing.
type View64 struct {
	slot       *slot
	seq        uint32
	state      uint32
	self       uint32
	peer       uint32
	Mapped     uint32 // IPv4 source after translation
	MappedPort uint16 // source port (or identifier) after translation
	Delta      uint16 // what the translation adds to the L4 checksum, as given to Insert
	Hop        uint32 // cached next hop, 0 when none
	Owner      uint8  // shard that holds the session
	Origin     Origin
}

// View46 is what a lookup found for an IPv4 packet, under View64's rules.
type View46 struct {
	slot       *slot
	seq        uint32
	state      uint32
	self       uint32
	peer       uint32
	Client     Addr6  // IPv6 destination after translation
	ClientPort uint16 // destination port (or identifier) after translation
	Delta      uint16 // what the translation adds to the L4 checksum, as given to Insert
	Hop        uint32 // cached next hop, 0 when none
	Pool6      uint8  // prefix that the server's address is put into
	Owner      uint8  // shard that holds the session
	Origin     Origin
}

// State is the TCP state at the time of the lookup.
func (v *View64) State() TCPState { return stateOf(v.state) }

// State is the TCP state at the time of the lookup.
func (v *View46) State() TCPState { return stateOf(v.state) }

// Touch notes a packet of this direction, which keeps the session alive.
func (v *View64) Touch(now Tick) { v.slot.touch(now) }

// Touch notes a packet of this direction, which keeps the session alive.
func (v *View46) Touch(now Tick) { v.slot.touch(now) }

// SetHop caches the next hop of this direction.
func (v *View64) SetHop(hop uint32) { v.slot.setHop(v.seq, v.Hop, hop); v.Hop = hop }

// SetHop caches the next hop of this direction.
func (v *View46) SetHop(hop uint32) { v.slot.setHop(v.seq, v.Hop, hop); v.Hop = hop }

// Touch64 brings the bucket of a hash towards the cache. A worker calls it for
// a whole burst before the lookups, so that their misses overlap.
func (t *Table) Touch64(h uint64) uint64 { return t.shards[h>>56].index64.touch(h) }

// Touch46 is Touch64 for the other direction.
func (t *Table) Touch46(h uint64) uint64 { return t.shards[h>>56].index46.touch(h) }

// TouchSlot64 brings the slot that Touch64's bucket names towards the cache: the
// second pass over a burst, worth its while when the table is bigger than the
// cache.
func (t *Table) TouchSlot64(h uint64) uint32 { return t.shards[h>>56].index64.touchSlot(h) }

// TouchSlot46 is TouchSlot64 for the other direction.
func (t *Table) TouchSlot46(h uint64) uint32 { return t.shards[h>>56].index46.touchSlot(h) }

// Lookup64 finds the session of an IPv6 packet; h is Hash64(k). Any goroutine
// may call it at any time; it takes no lock and waits for nobody.
func (t *Table) Lookup64(k *Key64, h uint64, v *View64) bool {
	var w words
	x := &t.shards[h>>56].index64
	q := query{k.Client.Hi, k.Client.Lo, pack(k.Server, k.ClientPort, k.ServerPort),
		uint64(k.Pool6)<<8 | k.Proto.code()}
	i, seq, ok := x.find64(h, &q, &w)
	if !ok {
		return false
	}
	s := &x.slots[i]
	v.slot, v.seq, v.state, v.self, v.peer = s, seq, s.state.Load(), i, w.peer()
	if v.State() == stateRevoked {
		return false
	}
	v.Mapped, v.MappedPort, v.Delta = w.mapped(), uint16(w[3]>>16), uint16(w[3])
	v.Hop, v.Owner, v.Origin = s.hop.Load(), uint8(h>>56), w.origin()
	return s.seq.Load() == seq
}

// Lookup46 finds the session of an IPv4 packet; h is Hash46(k). It looks into
// the shard that the mapped port belongs to first, then into the others.
func (t *Table) Lookup46(k *Key46, h uint64, v *View46) bool {
	first := h >> 56
	if t.lookup46(first, k, h, v) {
		return true
	}
	for i := range uint64(len(t.shards)) {
		if i != first && t.lookup46(i, k, h, v) {
			return true
		}
	}
	return false
}

func (t *Table) lookup46(shard uint64, k *Key46, h uint64, v *View46) bool {
	var w words
	x := &t.shards[shard].index46
	q := query{0, uint64(k.Mapped), pack(k.Server, k.MappedPort, k.ServerPort), k.Proto.code()}
	i, seq, ok := x.find46(h, &q, &w)
	if !ok {
		return false
	}
	s := &x.slots[i]
	v.slot, v.seq, v.state, v.self, v.peer = s, seq, s.state.Load(), i, w.peer()
	if v.State() == stateRevoked {
		return false
	}
	v.Client, v.ClientPort, v.Delta = Addr6{w[0], w[1]}, uint16(w[3]>>16), uint16(w[3])
	v.Hop, v.Pool6, v.Owner, v.Origin = s.hop.Load(), w.pool6(), uint8(shard), w.origin()
	return s.seq.Load() == seq
}
