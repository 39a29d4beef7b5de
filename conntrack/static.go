package conntrack

import (
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
)

// ErrConflict is wrapped by AddStatic when something else has the mapping's
// port or client; ErrNoStatic by RemoveStatic when there is no such mapping.
var (
	ErrConflict = errors.New("conflicting mapping")
	ErrNoStatic = errors.New("no such static mapping")
)

// staticEntry is a static mapping and the number of sessions that use it,
// which the shard that owns the client changes and anyone reads. Once the
// mapping is removed and no session is left, the count is closed: a worker that
// still sees the mapping in an old snapshot then cannot count on it any more.
type staticEntry struct {
	Static
	sessions atomic.Uint32
}

const staticClosed = 1 << 31

// acquire counts a session, unless the mapping is closed.
func (e *staticEntry) acquire() bool {
	for {
		n := e.sessions.Load()
		if n == staticClosed {
			return false
		}
		if e.sessions.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (e *staticEntry) release() { e.sessions.Add(^uint32(0)) }

type mappedKey struct {
	addr  uint32
	port  uint16
	proto Proto
}

type clientKey struct {
	addr  Addr6
	port  uint16
	proto Proto
}

// staticSet is an immutable snapshot: whoever changes the static mappings
// makes a new one. Workers read it when they create or remove a session.
type staticSet struct {
	byMapped map[mappedKey]*staticEntry
	byClient map[clientKey]*staticEntry
	retired  map[mappedKey]*staticEntry // removed, but not yet all of their sessions
	paired   map[Addr6]uint16           // index of a pool4 address that a client is mapped to; see away.go
}

func (st *Static) mappedKey() mappedKey { return mappedKey{st.Mapped, st.MappedPort, st.Proto} }
func (st *Static) clientKey() clientKey { return clientKey{st.Client, st.ClientPort, st.Proto} }

// Excludes says whether two mappings cannot be there at one time.
func (st Static) Excludes(other Static) bool {
	return st.mappedKey() == other.mappedKey() || st.clientKey() == other.clientKey()
}

// String describes a mapping for messages: tcp [2001:db8::5]:80 ↔ 192.0.2.1:8080.
func (st Static) String() string {
	return fmt.Sprintf("%s [%s]:%d ↔ %s:%d", st.Proto, ipv6(st.Client), st.ClientPort, ipv4(st.Mapped), st.MappedPort)
}

func newStaticSet() *staticSet {
	return &staticSet{map[mappedKey]*staticEntry{}, map[clientKey]*staticEntry{}, map[mappedKey]*staticEntry{}, nil}
}

func (s *staticSet) clone() *staticSet {
	return &staticSet{maps.Clone(s.byMapped), maps.Clone(s.byClient), maps.Clone(s.retired), s.paired}
}

// Statics are the static mappings that are in force, in no order. Any goroutine.
func (t *Table) Statics() []Static {
	set := t.statics.Load()
	all := make([]Static, 0, len(set.byMapped))
	for _, e := range set.byMapped {
		all = append(all, e.Static)
	}
	return all
}

// holder finds a static mapping of any protocol that keeps a port claimed.
func (s *staticSet) holder(k kind, addr uint32, port uint16) *staticEntry {
	for _, p := range [...]Proto{TCP, UDP, ICMP} {
		key := mappedKey{addr, port, p}
		if kindOf(p) != k {
			continue
		}
		if e := s.byMapped[key]; e != nil {
			return e
		}
		if e := s.retired[key]; e != nil {
			return e
		}
	}
	return nil
}

// serving finds the mapping that a session of origin static counts on.
func (s *staticSet) serving(key mappedKey) *staticEntry {
	if e := s.byMapped[key]; e != nil {
		return e
	}
	return s.retired[key]
}

// AddStatic adds a static mapping, from any goroutine. It claims the port; a
// dynamic mapping of the same client to the same port is taken over. What
// stands in the way otherwise is named in the error, which wraps ErrConflict.
// Sessions that the client has through a dynamic mapping keep it.
func (t *Table) AddStatic(st Static) error {
	t.staticMu.Lock()
	defer t.staticMu.Unlock()
	set := t.reap().clone()
	if err := t.addStatic(set, st); err != nil {
		return fmt.Errorf("add static mapping %s: %w", st, err)
	}
	set.pair(t.ports)
	t.statics.Store(set)
	return nil
}

func (t *Table) addStatic(set *staticSet, st Static) error {
	if st.Proto.code() == 0 {
		return fmt.Errorf("protocol %d is neither TCP, UDP nor ICMP", st.Proto)
	}
	if old := set.byMapped[st.mappedKey()]; old != nil {
		return fmt.Errorf("%w: the mapped port belongs to static mapping %s", ErrConflict, old.Static)
	}
	if old := set.byClient[st.clientKey()]; old != nil {
		return fmt.Errorf("%w: the client has static mapping %s", ErrConflict, old.Static)
	}
	e := &staticEntry{Static: st}
	if old := set.retired[st.mappedKey()]; old != nil {
		if old.Static != st {
			return fmt.Errorf("%w: %d sessions of %s, just removed, are still being closed", ErrConflict, old.sessions.Load(), old.Static)
		}
		e = old
		delete(set.retired, st.mappedKey())
	} else if set.holder(kindOf(st.Proto), st.Mapped, st.MappedPort) == nil {
		if err := t.holdPort(st); err != nil {
			return err
		}
	}
	set.byMapped[st.mappedKey()], set.byClient[st.clientKey()] = e, e
	return nil
}

// holdPort keeps a port from dynamic mappings. Ports outside the ranges need
// nothing: no dynamic mapping ever gets them.
func (t *Table) holdPort(st Static) error {
	set, ok := t.poolSet(kindOf(st.Proto), st.Mapped)
	if !ok || !t.ports.inRange(set, st.MappedPort) {
		return nil
	}
	e := &t.bib.entries[bibIndex(set, st.MappedPort)]
	for !t.ports.claim(set, st.MappedPort) {
		m := e.meta.Load()
		client, port, sessions, live := e.read()
		switch {
		case !live && t.ports.isFree(set, st.MappedPort):
			continue // it was given back between the two looks
		case !live:
			return fmt.Errorf("%w: the mapped port is being assigned right now", ErrConflict)
		case client != st.Client || port != st.ClientPort:
			return fmt.Errorf("%w: the mapped port belongs to [%s]:%d, with %d sessions", ErrConflict, ipv6(client), port, sessions)
		case e.meta.CompareAndSwap(m, m|bibHeld):
			return nil
		}
	}
	return nil
}

// poolSet gives the port set of a pool4 address.
func (t *Table) poolSet(k kind, addr uint32) (int, bool) {
	a, ok := t.ports.indexOf(addr)
	if !ok {
		return 0, false
	}
	return t.ports.set(k, a), true
}

// RemoveStatic removes a static mapping, from any goroutine. Its sessions are
// closed by their shard's next calls of Expire; until then the port stays
// claimed.
func (t *Table) RemoveStatic(proto Proto, mapped uint32, port uint16) error {
	t.staticMu.Lock()
	defer t.staticMu.Unlock()
	set := t.reap().clone()
	key := mappedKey{mapped, port, proto}
	e := set.byMapped[key]
	if e == nil {
		return fmt.Errorf("remove static mapping %s %s:%d: %w", proto, ipv4(mapped), port, ErrNoStatic)
	}
	delete(set.byMapped, key)
	delete(set.byClient, e.clientKey())
	set.retired[key] = e
	set.pair(t.ports)
	t.statics.Store(set)
	t.sweepStatics.Add(1)
	t.reap()
	return nil
}

// reap forgets retired mappings that no session uses any more, frees their
// ports, and gives the set that is in force then. Under staticMu.
func (t *Table) reap() *staticSet {
	set := t.statics.Load()
	if len(set.retired) == 0 {
		return set
	}
	set = set.clone()
	var free []Static
	for key, e := range set.retired {
		if !e.sessions.CompareAndSwap(0, staticClosed) {
			continue
		}
		delete(set.retired, key)
		if set.holder(kindOf(e.Proto), e.Mapped, e.MappedPort) == nil {
			free = append(free, e.Static)
		}
	}
	t.statics.Store(set)
	for _, st := range free {
		t.letPort(st)
	}
	return set
}

// letPort undoes holdPort. A dynamic mapping that shares the port keeps it,
// and frees it when its last session ends.
func (t *Table) letPort(st Static) {
	set, ok := t.poolSet(kindOf(st.Proto), st.Mapped)
	if !ok || !t.ports.inRange(set, st.MappedPort) {
		return
	}
	e := &t.bib.entries[bibIndex(set, st.MappedPort)]
	for {
		m := e.meta.Load()
		if m&bibLive == 0 || m&bibHeld == 0 {
			t.ports.release(set, st.MappedPort)
			return
		}
		if e.meta.CompareAndSwap(m, m&^bibHeld) {
			return
		}
	}
}
