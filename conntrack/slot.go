package conntrack

import "sync/atomic"

// slot is one direction of one session: a cache line that holds all that a
// packet of that direction needs.
//
//	 0  seq    uint32  odd: empty or being written; even: whole
//	 4  hop    uint32  next-hop cache; any worker stores it
//	 8  w[0]   client address, octets 0–7
//	16  w[1]   client address, octets 8–15
//	24  w[2]   server address 32 | this direction's port 16 | server port 16
//	32  w[3]   mapped address 32 | the other direction's port 16 | this direction's checksum delta 16
//	40  w[4]   peer slot 32 | the other direction's delta 16 | pool6 8 | origin 4 | counted 1 | protocol 3
//	48  stamp  uint32  Tick of the last packet of this direction; any worker stores it
//	52  state  uint32  generation 24 | TCP state 8; any worker, by compare-and-swap
//	56  prev, next uint32  timer wheel, slots of direction 64 only; owner only, never read by others
//
// "This direction's port" is the client port in a 64 slot and the mapped port
// in a 46 slot, so that w[2] is most of the key in both.
//
// The words w never change while seq keeps its value: a session is written
// once, and removed. A reader copies them and looks at seq again; if it moved,
// the session it saw is gone, which is a miss. Reading never waits.
type slot struct {
	seq        atomic.Uint32
	hop        atomic.Uint32
	w          [5]atomic.Uint64
	stamp      atomic.Uint32
	state      atomic.Uint32
	prev, next uint32
}

const slotSize = 64

// words is a private copy of a slot's session.
type words [5]uint64

// match masks of w[4]: a 64 key includes the pool6 prefix, a 46 key does not.
const (
	mask64 = 0xff07
	mask46 = 0x0007
)

// words64 lays a session out for its 64 slot.
func (se *Session) words64(peer uint32, origin Origin) words {
	k := &se.Key
	return words{k.Client.Hi, k.Client.Lo,
		pack(k.Server, k.ClientPort, k.ServerPort),
		pack(se.Mapped, se.MappedPort, se.Delta64),
		uint64(peer)<<32 | uint64(se.Delta46)<<16 | tail(k, origin)}
}

// words46 lays a session out for its 46 slot.
func (se *Session) words46(peer uint32, origin Origin) words {
	k := &se.Key
	return words{k.Client.Hi, k.Client.Lo,
		pack(k.Server, se.MappedPort, k.ServerPort),
		pack(se.Mapped, k.ClientPort, se.Delta46),
		uint64(peer)<<32 | uint64(se.Delta64)<<16 | tail(k, origin)}
}

func pack(a uint32, b, c uint16) uint64 { return uint64(a)<<32 | uint64(b)<<16 | uint64(c) }

func tail(k *Key64, o Origin) uint64 {
	return uint64(k.Pool6)<<8 | uint64(o)<<4 | k.Proto.code()
}

func (w *words) peer() uint32   { return uint32(w[4] >> 32) }
func (w *words) pool6() uint8   { return uint8(w[4] >> 8) }
func (w *words) origin() Origin { return Origin(w[4] >> 4 & 0xf) }
func (w *words) proto() Proto   { return protoOf(w[4]) }
func (w *words) mapped() uint32 { return uint32(w[3] >> 32) }
func (w *words) server() uint32 { return uint32(w[2] >> 32) }

// session reads the words of a 64 slot back.
func (w *words) session() Session {
	return Session{
		Key: Key64{Client: Addr6{w[0], w[1]}, Server: w.server(), ClientPort: uint16(w[2] >> 16),
			ServerPort: uint16(w[2]), Proto: w.proto(), Pool6: w.pool6()},
		Mapped: w.mapped(), MappedPort: uint16(w[3] >> 16),
		Delta64: uint16(w[3]), Delta46: uint16(w[4] >> 16), Origin: w.origin(),
	}
}

// key46 is the name of a session's other direction.
func (se *Session) key46() Key46 {
	return Key46{Server: se.Key.Server, Mapped: se.Mapped, ServerPort: se.Key.ServerPort,
		MappedPort: se.MappedPort, Proto: se.Key.Proto}
}

// load copies the session out, if there is a whole one.
func (s *slot) load(w *words) (seq uint32, ok bool) {
	seq = s.seq.Load()
	if seq&1 != 0 {
		return seq, false
	}
	for i := range w {
		w[i] = s.w[i].Load()
	}
	return seq, s.seq.Load() == seq && w[4]&mask46 != 0
}

// is64 compares a 64 slot with a query. The comparisons are taken together:
// one branch, which is nearly always right, instead of four.
func (s *slot) is64(q query) bool {
	return (s.w[0].Load()^q.hi)|(s.w[1].Load()^q.lo)|(s.w[2].Load()^q.w2)|(s.w[4].Load()&mask64^q.tail) == 0
}

// is46 compares a 46 slot with a query.
func (s *slot) is46(q query) bool {
	return (s.w[2].Load()^q.w2)|(s.w[3].Load()>>32^q.lo)|(s.w[4].Load()&mask46^q.tail) == 0
}

// store writes a session into an empty slot. Owner only. A process killed
// half-way leaves seq odd, so a restart does not take half a session up.
func (s *slot) store(w *words, state uint32, now Tick) {
	seq := s.seq.Load() | 1 // even only if it was never used: memory starts as zeros
	storeSlot(s, w, uint64(state)<<32|uint64(now), seq)
}

// clear empties a slot. Owner only, after its tag is gone.
func (s *slot) clear() { storeHalf(&s.seq, s.seq.Load()+1) }

// stateWord ties a TCP state to the session's generation, which both of its
// slots carry, so that a worker that looked up the previous occupant cannot
// change the state of its successor.
func stateWord(generation uint32, st TCPState) uint32 { return generation<<8 | uint32(st) }

func stateOf(word uint32) TCPState { return TCPState(word) }

// sameOccupant tells whether two state words are of one session.
func sameOccupant(a, b uint32) bool { return a>>8 == b>>8 }

// touch notes a packet. The store is skipped when it would change nothing: a
// busy session's line then stays shared between cores.
func (s *slot) touch(now Tick) {
	if s.stamp.Load() != uint32(now) {
		s.stamp.Store(uint32(now))
	}
}

// setHop caches a next hop for the occupant that a view saw. If the slot
// changed hands meanwhile, the store is taken back.
func (s *slot) setHop(seq, was, hop uint32) {
	if s.seq.Load() != seq || !s.hop.CompareAndSwap(was, hop) {
		return
	}
	if s.seq.Load() != seq {
		s.hop.CompareAndSwap(hop, 0)
	}
}
