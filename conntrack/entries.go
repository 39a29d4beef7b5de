package conntrack

import "math/bits"

// Entries of handoff servers (handoff draft §8) lie in the session table as
// sessions of the protocol Entry: a packet that finds no session looks for the
// entry with its server and makes a session over it, without asking the
// server. Entries and such sessions are a cache: they may go at any moment.

// EntryKey64 is where the entry of a session lies.
func EntryKey64(k *Key64) Key64 {
	e := *k
	e.Proto, e.ServerPort = Entry, 0
	return e
}

// EntryKey46 is EntryKey64 for the other direction.
func EntryKey46(k *Key46) Key46 {
	e := *k
	e.Proto, e.ServerPort = Entry, 0
	return e
}

// InsertEntry caches an entry that a server gave. The server is right: what
// contradicts it goes, an older entry of this client as well as another
// client's with the same mapped port, in whichever shard it lies. The client
// must be this shard's (else NotOwner).
func (s *Shard) InsertEntry(client Addr6, clientPort uint16, server uint32, pool6 uint8, mapped uint32, port uint16, now Tick) Verdict {
	se := Session{
		Key:    Key64{Client: client, Server: server, ClientPort: clientPort, Proto: Entry, Pool6: pool6},
		Mapped: mapped, MappedPort: port, Origin: OriginHandoff,
	}
	if s.t.Owner(client, clientPort) != s.id {
		return NotOwner
	}
	var v View64
	if s.t.Lookup64(&se.Key, s.t.Hash64(&se.Key), &v) && (v.Mapped != mapped || v.MappedPort != port) {
		s.Remove(&v)
	}
	s.revokeElsewhere(&se)
	return s.Insert(&se, now)
}

// InsertOver creates a session over an entry. It is InsertEntry's counterpart:
// sessions of an earlier owner of the mapped port are outdated.
func (s *Shard) InsertOver(se *Session, now Tick) Verdict {
	se.Origin = OriginHandoff
	s.revokeElsewhere(se)
	return s.Insert(se, now)
}

// revokeElsewhere marks what other shards have under the same IPv4 side. Only
// their workers may remove it, so the mark is what any worker may write: the
// state word. Insert itself removes what this shard has.
func (s *Shard) revokeElsewhere(se *Session) {
	if len(s.t.shards) == 1 {
		return
	}
	k := se.key46()
	h := s.t.hash.key46(&k)
	var v View46
	for i := range uint64(len(s.t.shards)) {
		if i != uint64(s.id) && s.t.lookup46(i, &k, h, &v) && v.Origin == OriginHandoff {
			s.t.revoke(&v)
		}
	}
}

// revoke makes lookups miss both directions of what v saw, unless its slot has
// another occupant already.
func (t *Table) revoke(v *View46) {
	canon := &t.shards[v.Owner].index64.slots[v.peer]
	for _, a := range [2]*slot{canon, v.slot} {
		for {
			was := a.state.Load()
			if !sameOccupant(was, v.state) || stateOf(was) == stateRevoked {
				break
			}
			if a.state.CompareAndSwap(was, was|uint32(stateRevoked)) {
				break
			}
		}
	}
}

// capacityForEntries says whether the table was made for handoff.
func (t *Table) capacityForEntries() bool { return t.entries > 0 }

// UsedWith tells whether a client's transport address has a TCP or UDP session
// with a server's address: the mapping "has been used with" the server
// (handoff draft §8).
func (s *Shard) UsedWith(client Addr6, port uint16, server uint32) bool {
	c := s.t.hash.client(client, port)
	return s.peers.has(s.t.hash.peer(c, server, TCP)) || s.peers.has(s.t.hash.peer(c, server, UDP))
}

// UsedWithForeseen is UsedWith for a key of TCP or UDP that Foresee was given.
func (s *Shard) UsedWithForeseen(f *Foresight) bool {
	return s.peers.has(f.peer) || s.peers.has(f.peer^(TCP.code()^UDP.code())<<peerShift)
}

// Hint suggests a mapped port of a pool4 address for a client's port: that
// port itself where the address has it, else the next one that it has. 0 when
// it has none of 1024 and above. What a server chooses outside the ranges would
// not reach us. Any goroutine.
func (t *Table) Hint(addr uint32, port uint16) uint16 {
	set, ok := t.poolSet(kindPorts, addr)
	if !ok {
		return 0
	}
	words := t.ports.usable[set*blocks:][:blocks]
	const first = 1024 >> blockShift
	at := max(int(port>>blockShift), first)
	word := words[at]
	if int(port>>blockShift) == at {
		word &= ^uint64(0) << (port & 63)
	}
	for range blocks - first + 1 {
		if word != 0 {
			return uint16(at<<blockShift | bits.TrailingZeros64(word))
		}
		if at++; at == blocks {
			at = first
		}
		word = words[at]
	}
	return 0
}

// PairedAddress is the pool4 address that a client's mappings are taken from
// while it has free ports: the channel over which its servers are asked.
func (t *Table) PairedAddress(client Addr6) uint32 {
	return t.ports.addrs[scale(pairing(client), uint64(len(t.ports.addrs)))]
}
