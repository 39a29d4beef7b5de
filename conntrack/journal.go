package conntrack

import "fmt"

// What happens to sessions and port blocks is noted in a shard's journal, which
// its worker empties once per round (RFC 8158 §4.3 has the same events). Plain
// values that travel through SPSC rings.

// EventKind says what an Event is of.
type EventKind uint8

const (
	SessionCreated EventKind = iota + 1
	SessionEnded
	BlockAssigned
	BlockReturned
)

// Event is one line of the log.
type Event struct {
	Kind       EventKind
	Proto      Proto  // sessions
	Pool6      uint8  // sessions
	Origin     Origin // sessions
	MappedPort uint16 // of blocks the first
	MappedLast uint16 // blocks
	ClientPort uint16 // sessions
	ServerPort uint16 // sessions
	Mapped     uint32
	Server     uint32 // sessions
	Client     Addr6
	Lasted     Tick  // SessionEnded, BlockReturned: how long; 0 when that is not known
	At         int64 // milliseconds since 1970, which the worker sets
}

// journalSize is more than what one round of a worker can make: its bursts, and
// what expires.
const journalSize = 4096

// journal collects the events of a round. Owned by the shard's worker.
type journal struct {
	events []Event  // its capacity is journalSize
	born   []uint64 // by slot: generation of the session plus one 32 | tick of its beginning 32
	mem    region
}

// newJournal has room for the beginnings of the sessions in n slots.
func newJournal(n int) (j journal, err error) {
	j.events = make([]Event, 0, journalSize)
	if j.mem, err = mapSparse(sizeOf[uint64](n), true); err != nil {
		return j, fmt.Errorf("beginnings of %d sessions: %w", n, err)
	}
	j.born = overlay[uint64](j.mem, 0, n)
	return j, nil
}

// LogSessions says whether sessions are noted; port blocks always are. A
// session that was made while they were not has no known beginning. Any
// goroutine.
func (t *Table) LogSessions(on bool) { t.logSessions.Store(on) }

// Events are what happened since the last call. The slice is valid until the
// shard is used again.
func (s *Shard) Events() []Event {
	e := s.journal.events
	s.journal.events = e[:0]
	return e
}

// note adds to the journal, which has room unless its worker forgot about it.
func (s *Shard) note(e *Event) {
	if len(s.journal.events) == journalSize {
		s.stats.add(statEventsLost, 1)
		return
	}
	s.journal.events = append(s.journal.events, *e)
}

func (s *Shard) noteBlock(kind EventKind, client Addr6, block uint32, lasted Tick) {
	e := Event{Kind: kind, Client: client, Mapped: s.t.ports.addrs[int(block)/s.t.blocks.perAddr], Lasted: lasted}
	e.MappedPort, e.MappedLast = s.t.blockRange(block)
	s.note(&e)
}

// noteSession takes down that the session in a slot was made or ended. state
// tells the session from others that were in the slot.
func (s *Shard) noteSession(kind EventKind, se *Session, origin Origin, i, state uint32) {
	if !s.t.logSessions.Load() || se.Key.Proto == Entry {
		return
	}
	k := &se.Key
	e := Event{
		Kind: kind, Proto: k.Proto, Pool6: k.Pool6, Origin: origin, MappedPort: se.MappedPort, ClientPort: k.ClientPort,
		ServerPort: k.ServerPort, Mapped: se.Mapped, Server: k.Server, Client: k.Client,
	}
	generation := uint64(state>>8 + 1)
	if kind == SessionCreated {
		s.journal.born[i] = generation<<32 | uint64(s.now)
	} else if b := s.journal.born[i]; b>>32 == generation {
		e.Lasted = max(s.now-Tick(b), 1)
	}
	s.note(&e)
}
