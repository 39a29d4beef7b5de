package conntrack

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// recoverFrom takes the old file's sessions into this table and puts the new
// file in its place. The old one is only read, and stays until the new one is
// complete, so being killed at any instant loses nothing. Before any worker
// runs.
func (t *Table) recoverFrom(c *Config) (Recovery, error) {
	r := t.restore(c)
	if err := t.file.commit(); err != nil {
		return r, err
	}
	return r, nil
}

// restore inserts every whole, unexpired session of the old file whose
// addresses are still ours, as if new: the number of shards, the capacity and
// the secret may have changed.
func (t *Table) restore(c *Config) (r Recovery) {
	old, head, err := openOld(t.file)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.Problem = fmt.Errorf("discard old session file %s: %w", t.file.path, err)
		}
		return r
	}
	pool6 := renumber(head, c)
	slots := overlay[slot](old, headerSize, head.slots)
	for i := range slots {
		s := &slots[i]
		var w words
		if _, ok := s.load(&w); !ok {
			continue // empty, or its process died in the middle of writing it
		}
		if t.readmit(s, &w, pool6, c.Now) {
			r.Restored++
		} else {
			r.Dropped++
		}
	}
	if err := old.unmap(); err != nil {
		r.Problem = fmt.Errorf("old session file %s: %w", t.file.path, err)
	}
	return r
}

// openOld maps the old file and checks its header.
func openOld(f *sessionFile) (region, header, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return region{}, header{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return region{}, header{}, err
	}
	b := make([]byte, headerSize)
	if n, err := io.ReadFull(file, b); err != nil {
		return region{}, header{}, fmt.Errorf("%d octets, less than a header: %w", n, err)
	}
	h, err := decodeHeader(b, info.Size())
	if err != nil {
		return region{}, h, err
	}
	if h.boot != f.head.boot {
		return region{}, h, errors.New("it is of another boot of this machine: its clock does not count on")
	}
	mem, err := mapFile(int(file.Fd()), int(info.Size()), false)
	return mem, h, err
}

// renumber maps old pool6 indices to present ones, -1 for prefixes that are gone.
func renumber(old header, c *Config) (to [maxPool6]int) {
	for i := range to {
		to[i] = -1
		for j, p := range c.Pool6 {
			if i < len(old.pool6) && old.pool6[i] == p {
				to[i] = j
			}
		}
	}
	return to
}

// readmit checks one old session and inserts it.
func (t *Table) readmit(s *slot, w *words, pool6 [maxPool6]int, now Tick) bool {
	se, st, stamp := w.session(), stateOf(s.state.Load()), Tick(s.stamp.Load())
	se.State = st
	to := pool6[se.Key.Pool6]
	switch {
	case to < 0, se.Origin > OriginStatic, se.Key.Client == Addr6{}, st >= tcpStates:
		return false
	case (se.Key.Proto == TCP) != (st != StateNone):
		return false
	case before(now, stamp), !before(now, stamp+t.lifetime(se.Key.Proto, st)):
		return false
	}
	se.Key.Pool6 = uint8(to)
	owner := t.shards[t.Owner(se.Key.Client, se.Key.ClientPort)]
	owner.now = now
	return owner.readmit(&se, stamp, now)
}

// readmit gives a session its old mapping and inserts it.
func (s *Shard) readmit(se *Session, stamp, now Tick) bool {
	var v View64
	var v46 View46
	k46 := se.key46()
	h, h46 := s.t.hash.key64(&se.Key), s.t.hash.key46(&k46)
	if s.t.Lookup64(&se.Key, h, &v) || s.t.Lookup46(&k46, h46, &v46) {
		return false // the file has it twice
	}
	defer s.stats.publish()
	if !s.adopt(se) || s.insert(se, &Foresight{hash64: h, hash46: h46}, now, true, &v) != OK {
		return false
	}
	v.slot.stamp.Store(uint32(stamp))
	s.index46.slots[v.peer].stamp.Store(uint32(stamp))
	s.stats.add(statRestored, 1)
	return true
}

// adopt makes the dynamic mapping that a session had, unless a static one or
// an earlier session has made it. false when the port is another's now, or
// not in the ranges any more.
func (s *Shard) adopt(se *Session) bool {
	k := &se.Key
	if se.Origin == OriginHandoff {
		_, ok := s.t.poolSet(kindPorts, se.Mapped)
		return ok && s.t.capacityForEntries()
	}
	if b, ok := s.t.FindBIB(k.Proto, se.Mapped, se.MappedPort); ok {
		return b.Client == k.Client && b.ClientPort == k.ClientPort
	}
	c, kd := s.t.hash.client(k.Client, k.ClientPort), kindOf(k.Proto)
	hash := forwardHash(c, kd)
	if _, _, ok := s.forward.find(s.t.bib, hash, kd, k.Client, k.ClientPort); ok || s.forward.full() {
		return false // one client port has one dynamic mapping
	}
	set, ok := s.t.poolSet(kd, se.Mapped)
	if !ok || !s.t.ports.claim(set, se.MappedPort) {
		return false
	}
	if !s.adoptBlock(k.Client, set%len(s.t.ports.addrs), se.MappedPort) {
		s.t.ports.release(set, se.MappedPort)
		return false // its block is another client's, from before there were blocks
	}
	mark, _ := s.takePort(k.Client, true)
	s.openBIB(bibIndex(set, se.MappedPort), hash, k.Client, k.ClientPort, mark)
	return true
}
