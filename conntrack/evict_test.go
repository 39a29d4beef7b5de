package conntrack

import "testing"

// A cache of a few entries in a table of a great many slots: what is to give
// way is hard to come by, and yet every entry finds a place at once.
func TestSmallCacheInALargeTable(t *testing.T) {
	f := newFixture(t, Config{Sessions: 1 << 17, Entries: 8})
	const kept = 5
	for i := range 5000 {
		f.cacheEntry(entryClient(i), 5000, uint16(2000+i), Tick(10+i))
		if i < kept {
			continue
		}
		// This one is in use, so others go before it.
		k := EntryKey64(&Key64{Client: entryClient(kept), ClientPort: 5000, Server: serverAddr})
		var v View64
		if !f.Lookup64(&k, f.Hash64(&k), &v) {
			t.Fatalf("entry %d took the place of the one in use", i)
		}
		v.Touch(Tick(10 + i))
	}
	f.check()
	if st := f.Stats(); st.Entries != 8 || st.Cached != 5000 || st.Purged != 4992 {
		t.Errorf("%+v, want 8 entries of 5000", st)
	}
}

// The same for sessions over entries, in a table that has room for few
// sessions and many entries; also when the newcomer is no such session.
func TestFewSessionsOverManyEntries(t *testing.T) {
	f := newFixture(t, Config{Sessions: 64, Entries: 1 << 17})
	for i := range 3000 {
		f.cacheEntry(entryClient(i), 5000, uint16(2000+i), Tick(10+i))
		if _, v := f.over(entryClient(i), 5000, UDP, 53, Tick(10+i)); v != OK {
			t.Fatalf("session over entry %d: %v", i, v)
		}
	}
	for i := range 64 {
		k := flow(i)
		s := f.ownerOf(&k)
		m, v := s.Map(k.Client, k.ClientPort, k.Proto)
		if v != OK {
			t.Fatal(v)
		}
		if v := s.Insert(&Session{Key: k, Mapped: m.Addr, MappedPort: m.Port}, 4000); v != OK {
			t.Fatalf("session %d of our own while sessions over entries could go: %v", i, v)
		}
	}
	f.check()
	if st := f.Stats(); st.Used != 64 || st.Entries != 3000 {
		t.Errorf("%+v, want 64 sessions and 3000 entries", st)
	}
}

func TestEvictionAllocatesNothing(t *testing.T) {
	for _, c := range []Config{{Sessions: 1 << 15, Entries: 8}, {Sessions: 64, Entries: 1 << 15}} {
		f := newFixture(t, c)
		n := 0
		one := func() {
			f.cacheEntry(entryClient(n), 5000, uint16(2000+n), Tick(10+n))
			if _, v := f.over(entryClient(n), 5000, UDP, 53, Tick(10+n)); v != OK {
				t.Fatal(v)
			}
			n++
		}
		if allocs := testing.AllocsPerRun(1000, one); allocs != 0 {
			t.Errorf("%d sessions, %d entries: %v allocations for an entry and a session", c.Sessions, c.Entries, allocs)
		}
	}
}
