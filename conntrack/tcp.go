package conntrack

// TCPState is a session's state under RFC 6146 §3.5.2. UDP and ICMP sessions
// have StateNone.
type TCPState uint8

const (
	StateNone TCPState = iota // CLOSED, which is the absence of a session; and any UDP or ICMP session
	StateV4Init
	StateV6Init
	StateEstablished
	StateV4Fin
	StateV6Fin
	StateV4FinV6Fin
	StateTrans
	tcpStates = iota

	// stateRevoked is no TCP state: it marks an entry or a session of a handoff
	// server that another shard found to be outdated. Lookups miss it, and its
	// owner removes it.
	stateRevoked TCPState = 0xff
)

// String gives the name that `nat64ctl` prints, RFC 6146's own.
func (st TCPState) String() string {
	names := [tcpStates]string{"-", "V4_INIT", "V6_INIT", "ESTABLISHED", "V4_FIN_RCV", "V6_FIN_RCV", "V4_FIN_V6_FIN_RCV", "TRANS"}
	if int(st) < len(names) {
		return names[st]
	}
	return "?"
}

// Classes of lifetimes, in the order of Table.timeout.
const (
	timeoutUDP = iota
	timeoutICMP
	timeoutEstablished
	timeoutTransitory
	timeoutSYN
	timeoutEntry
	timeoutRevoked
	timeoutClasses
)

// timeoutOf says which lifetime a session has (RFC 6146 §3.5.2.2, §4). One in
// V4_INIT was translated and forwarded: SYNs that are stored have no session
// (dataplane/syns.go), and the lifetime timeoutSYN is theirs.
func timeoutOf(p Proto, st TCPState) int {
	if st == stateRevoked {
		return timeoutRevoked
	}
	switch p {
	case Entry:
		return timeoutEntry
	case UDP:
		return timeoutUDP
	case ICMP:
		return timeoutICMP
	}
	switch st {
	case StateEstablished, StateV4Fin, StateV6Fin:
		return timeoutEstablished
	}
	return timeoutTransitory
}

// segment is what the state machine sees of a packet: FIN, SYN and RST, and
// the side it came from.
type segment uint8

const (
	segV4    segment = 0x80
	segFlags segment = segment(FlagFIN | FlagSYN | FlagRST)
)

func (g segment) has(f uint8) bool   { return g&segment(f) != 0 }
func (g segment) v4() bool           { return g&segV4 != 0 }
func (g segment) v4Has(f uint8) bool { return g.v4() && g.has(f) }
func (g segment) v6Has(f uint8) bool { return !g.v4() && g.has(f) }

// InitialTCP is the CLOSED state (RFC 6146 §3.5.2.2): a SYN opens a session in
// the state given. ok is false for any other segment, which starts none.
func InitialTCP(flags uint8, fromV4 bool) (st TCPState, ok bool) {
	if flags&FlagSYN == 0 || flags&FlagRST != 0 {
		return StateNone, false
	}
	if fromV4 {
		return StateV4Init, true
	}
	return StateV6Init, true
}

// advance is the state machine of RFC 6146 §3.5.2.2 for a session that exists.
// refresh tells whether the packet restarts the session's lifetime.
func advance(st TCPState, g segment) (next TCPState, refresh bool) {
	switch st {
	case StateV4Init:
		return v4Init(g)
	case StateV6Init:
		return v6Init(g)
	case StateEstablished:
		return established(g)
	case StateV4Fin:
		return v4FinRcv(g)
	case StateV6Fin:
		return v6FinRcv(g)
	case StateV4FinV6Fin:
		return v4FinV6FinRcv(g)
	case StateTrans:
		return trans(g)
	}
	return st, true
}

// RFC 6146 §3.5.2.2, "V4 INIT": a SYN from the IPv6 side establishes.
func v4Init(g segment) (TCPState, bool) {
	if g.v6Has(FlagSYN) {
		return StateEstablished, true
	}
	return StateV4Init, false
}

// RFC 6146 §3.5.2.2, "V6 INIT": a SYN from the IPv4 side establishes, another
// one from the IPv6 side restarts the transitory lifetime.
func v6Init(g segment) (TCPState, bool) {
	if g.v4Has(FlagSYN) {
		return StateEstablished, true
	}
	return StateV6Init, g.v6Has(FlagSYN)
}

// RFC 6146 §3.5.2.2, "ESTABLISHED". RST is looked at before FIN: a segment
// that has both ends the connection.
func established(g segment) (TCPState, bool) {
	switch {
	case g.has(FlagRST):
		return StateTrans, true
	case g.v4Has(FlagFIN):
		return StateV4Fin, true
	case g.v6Has(FlagFIN):
		return StateV6Fin, true
	}
	return StateEstablished, true
}

// RFC 6146 §3.5.2.2, "V4 FIN RCV": the other FIN leaves the transitory
// lifetime; anything else, RST too, keeps the established one running anew.
func v4FinRcv(g segment) (TCPState, bool) {
	if g.v6Has(FlagFIN) {
		return StateV4FinV6Fin, true
	}
	return StateV4Fin, true
}

// RFC 6146 §3.5.2.2, "V6 FIN RCV".
func v6FinRcv(g segment) (TCPState, bool) {
	if g.v4Has(FlagFIN) {
		return StateV4FinV6Fin, true
	}
	return StateV6Fin, true
}

// RFC 6146 §3.5.2.2, "V4 FIN + V6 FIN RCV": packets pass, the lifetime runs
// out. A SYN is treated differently from the RFC, under which it would pass
// too and the new connection be cut off within four minutes: it starts over as
// from CLOSED, since an end in TIME-WAIT may accept it (RFC 1122 §4.2.2.13,
// RFC 6191).
func v4FinV6FinRcv(g segment) (TCPState, bool) {
	if st, ok := InitialTCP(uint8(g&segFlags), g.v4()); ok {
		return st, true
	}
	return StateV4FinV6Fin, false
}

// RFC 6146 §3.5.2.2, "TRANS": any packet but an RST shows that the connection
// lives on.
func trans(g segment) (TCPState, bool) {
	if g.has(FlagRST) {
		return StateTrans, false
	}
	return StateEstablished, true
}

// PacketTCP64 notes a TCP packet from the IPv6 side. In an established
// connection all but SYN, FIN and RST touch this direction's slot alone.
func (t *Table) PacketTCP64(v *View64, flags uint8, now Tick) {
	g := segment(flags) & segFlags
	if g == 0 && v.State() == StateEstablished {
		v.slot.touch(now)
		return
	}
	if track(v.slot, &t.shards[v.Owner].index46.slots[v.peer], v.state, g) {
		v.slot.touch(now)
	}
}

// PacketTCP46 notes a TCP packet from the IPv4 side.
func (t *Table) PacketTCP46(v *View46, flags uint8, now Tick) {
	g := segment(flags) & segFlags
	if g == 0 && v.State() == StateEstablished {
		v.slot.touch(now)
		return
	}
	if track(&t.shards[v.Owner].index64.slots[v.peer], v.slot, v.state, g|segV4) {
		v.slot.touch(now)
	}
}

// track applies a segment to the canonical state, which is the 64 slot's, and
// copies a change to the mirror in the 46 slot. seen is the state word of the
// lookup: both slots of a session carry its generation, and a slot that has
// gone to another session is left alone.
func track(canon, mirror *slot, seen uint32, g segment) (refresh bool) {
	for {
		old := canon.state.Load()
		if !sameOccupant(old, seen) {
			return false
		}
		next, refresh := advance(stateOf(old), g)
		if next == stateOf(old) {
			return refresh
		}
		if word := stateWord(old>>8, next); canon.state.CompareAndSwap(old, word) {
			mirrorState(canon, mirror, word)
			return refresh
		}
	}
}

// mirrorState makes the mirror equal to the canonical state. Two workers may be
// here at once: whoever stored the older word sees, on looking again, that the
// canonical one moved on, and repeats with that.
func mirrorState(canon, mirror *slot, word uint32) {
	for {
		m := mirror.state.Load()
		if !sameOccupant(m, word) {
			return
		}
		if m != word && !mirror.state.CompareAndSwap(m, word) {
			continue
		}
		now := canon.state.Load()
		if now == word || !sameOccupant(now, word) {
			return
		}
		word = now
	}
}
