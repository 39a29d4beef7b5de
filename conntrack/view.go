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
func (v *View64) SetHop(hop uint32) {
	if v.slot != nil {
		v.slot.setHop(v.seq, v.Hop, hop)
	}
	v.Hop = hop
}

// SetHop caches the next hop of this direction.
func (v *View46) SetHop(hop uint32) {
	if v.slot != nil {
		v.slot.setHop(v.seq, v.Hop, hop)
	}
	v.Hop = hop
}

// View64 is the view of a session that no table has: for a packet that is
// translated without one. Nothing but SetHop may be called on it.
func (se *Session) View64() View64 {
	return View64{Mapped: se.Mapped, MappedPort: se.MappedPort, Delta: se.Delta64, Origin: se.Origin}
}

// View46 is View64 for the other direction.
func (se *Session) View46() View46 {
	return View46{Client: se.Key.Client, ClientPort: se.Key.ClientPort, Delta: se.Delta46, Pool6: se.Key.Pool6, Origin: se.Origin}
}

// Lookup64 finds the session of an IPv6 packet; h is Hash64(k). Any goroutine
// may call it at any time; it takes no lock and waits for nobody.
func (t *Table) Lookup64(k *Key64, h uint64, v *View64) bool {
	s, i, seq := t.shards[h>>56].index64.find64(h, k.query())
	return s != nil && v.fill(s, i, seq, h)
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
	s, i, seq := t.shards[shard].index46.find46(h, k.query())
	return s != nil && v.fill(s, i, seq, shard)
}

func (k *Key64) query() query {
	return query{k.Client.Hi, k.Client.Lo, pack(k.Server, k.ClientPort, k.ServerPort), uint64(k.Pool6)<<8 | k.Proto.code()}
}

func (k *Key46) query() query {
	return query{0, uint64(k.Mapped), pack(k.Server, k.MappedPort, k.ServerPort), k.Proto.code()}
}

// fill copies what a packet needs out of a slot that matched, unless the
// session went meanwhile. h carries the shard in its top octet.
func (v *View64) fill(s *slot, i, seq uint32, h uint64) bool {
	v.slot, v.seq, v.self = s, seq, i
	w3, w4 := s.w[3].Load(), s.w[4].Load()
	v.Mapped, v.MappedPort, v.Delta = uint32(w3>>32), uint16(w3>>16), uint16(w3)
	v.peer, v.Origin, v.Owner = uint32(w4>>32), Origin(w4>>4&0xf), uint8(h>>56)
	v.Hop, v.state = s.hop.Load(), s.state.Load()
	return s.seq.Load() == seq && v.State() != stateRevoked
}

func (v *View46) fill(s *slot, i, seq uint32, shard uint64) bool {
	v.slot, v.seq, v.self = s, seq, i
	v.Client.Hi, v.Client.Lo = s.w[0].Load(), s.w[1].Load()
	w3, w4 := s.w[3].Load(), s.w[4].Load()
	v.ClientPort, v.Delta = uint16(w3>>16), uint16(w3)
	v.peer, v.Pool6, v.Origin, v.Owner = uint32(w4>>32), uint8(w4>>8), Origin(w4>>4&0xf), uint8(shard)
	v.Hop, v.state = s.hop.Load(), s.state.Load()
	return s.seq.Load() == seq && v.State() != stateRevoked
}
