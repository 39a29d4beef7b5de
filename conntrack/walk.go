package conntrack

import "math/bits"

// SessionInfo is a session as control commands show it.
type SessionInfo struct {
	Session
	LastUsed Tick // by a packet of either direction
	Lifetime Tick // it expires when idle for so long
}

// Sessions calls f with each session until it says false. Any goroutine, while
// workers work: every session that lives during the whole walk is seen once,
// one that comes or goes may be.
func (t *Table) Sessions(f func(SessionInfo) bool) {
	for _, s := range t.shards {
		for b := range s.index64.tags {
			tags := s.index64.tags[b].Load()
			for lane := range uint32(lanes) {
				if tags>>(lane*8)&0xff == 0 {
					continue
				}
				if info, ok := s.info(uint32(b)*lanes + lane); ok && !f(info) {
					return
				}
			}
		}
	}
}

// info reads one slot's session.
func (s *Shard) info(i uint32) (info SessionInfo, ok bool) {
	var w words
	a := &s.index64.slots[i]
	seq, ok := a.load(&w)
	if !ok {
		return info, false
	}
	info.Session = w.session()
	info.State = stateOf(a.state.Load())
	info.LastUsed = Tick(a.stamp.Load())
	if other := Tick(s.index46.slots[w.peer()].stamp.Load()); before(info.LastUsed, other) {
		info.LastUsed = other
	}
	info.Lifetime = s.t.lifetime(info.Key.Proto, info.State)
	return info, a.seq.Load() == seq
}

// BIBInfo is a mapping as control commands show it. A dynamic mapping of ports
// serves TCP and UDP: its Proto is 0, unless it is of ICMP identifiers.
type BIBInfo struct {
	Static
	IsStatic bool
	Sessions uint32
}

// BIB calls f with each mapping until it says false: the static ones, then the
// dynamic ones by address and port. Any goroutine, as Sessions.
func (t *Table) BIB(f func(BIBInfo) bool) {
	for _, e := range t.statics.Load().byMapped {
		if !f(BIBInfo{e.Static, true, e.sessions.Load()}) {
			return
		}
	}
	for i := range t.ports.usable {
		set, block := i/blocks, i%blocks
		taken := t.ports.usable[i] &^ t.ports.sets[set].free[block].Load()
		for ; taken != 0; taken &= taken - 1 {
			port := uint16(block<<blockShift | bits.TrailingZeros64(taken))
			if info, ok := t.bibInfo(set, port); ok && !f(info) {
				return
			}
		}
	}
}

func (t *Table) bibInfo(set int, port uint16) (info BIBInfo, ok bool) {
	client, cport, sessions, ok := t.bib.entries[bibIndex(set, port)].read()
	if !ok {
		return info, false
	}
	n := len(t.ports.addrs)
	info = BIBInfo{Static: Static{Client: client, ClientPort: cport, Mapped: t.ports.addrs[set%n], MappedPort: port}, Sessions: sessions}
	if kind(set/n) == kindICMP {
		info.Proto = ICMP
	}
	return info, true
}
