package conntrack

import (
	"fmt"
	"testing"
)

const serverAddr = 0xcb007101

func entryClient(n int) Addr6 { return Addr6{0x20010db8_00000001, uint64(n) + 1} }

// cacheEntry caches an entry in the shard of its client.
func (f *fixture) cacheEntry(client Addr6, cport uint16, port uint16, now Tick) {
	f.tb.Helper()
	s := f.Shard(f.Owner(client, cport))
	if v := s.InsertEntry(client, cport, serverAddr, 0, poolAddr, port, now); v != OK {
		f.tb.Fatalf("cache entry for port %d: %v", port, v)
	}
}

// over opens a session over a cached entry, as a worker does.
func (f *fixture) over(client Addr6, cport uint16, p Proto, sport uint16, now Tick) (Session, Verdict) {
	k := Key64{Client: client, ClientPort: cport, Server: serverAddr, ServerPort: sport, Proto: p}
	e, ok := f.get64(EntryKey64(&k))
	if !ok {
		return Session{}, NoMapping
	}
	st := StateNone
	if p == TCP {
		st = StateV6Init
	}
	se := Session{Key: k, Mapped: e.Mapped, MappedPort: e.MappedPort, State: st}
	return se, f.ownerOf(&k).InsertOver(&se, now)
}

func TestEntriesServeBothProtocolsAndAllPorts(t *testing.T) {
	for shards := 1; shards <= 3; shards++ {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			f := newFixture(t, Config{Shards: shards, Entries: 1024})
			for i := range 200 {
				f.cacheEntry(entryClient(i), 5000, uint16(2000+i), 10)
			}
			for i := range 200 {
				for _, p := range []Proto{TCP, UDP} {
					se, v := f.over(entryClient(i), 5000, p, uint16(80+i), 20)
					if v != OK {
						t.Fatalf("session over entry %d: %v", i, v)
					}
					back, ok := f.get46(se.key46())
					if !ok || back.Client != entryClient(i) || back.ClientPort != 5000 || back.Origin != OriginHandoff {
						t.Fatalf("the way back of entry %d: %v %+v", i, ok, back)
					}
				}
				other := Key46{Server: serverAddr, Mapped: poolAddr, MappedPort: uint16(2000 + i), ServerPort: 9999, Proto: UDP}
				if e, ok := f.get46(EntryKey46(&other)); !ok || e.Client != entryClient(i) {
					t.Fatalf("entry %d is not found from the IPv4 side", i)
				}
			}
			f.check()
			if st := f.Stats(); st.Entries != 200 || st.Used != 400 || st.BIB != 0 {
				t.Errorf("%+v, want 200 entries, 400 sessions, no mapping of our own", st)
			}
		})
	}
}

// The server is right: a mapped port that it gives to another client is that
// client's from then on, whichever shard had it before.
func TestEntryReplacesWhatContradictsIt(t *testing.T) {
	f := newFixture(t, Config{Shards: 3, Entries: 1024})
	const port = 3000
	var last Session
	for i := range 20 {
		client := entryClient(i)
		f.cacheEntry(client, 7000, port, Tick(10+i))
		se, v := f.over(client, 7000, UDP, 53, Tick(10+i))
		if v != OK {
			t.Fatal(v)
		}
		if got, ok := f.get46(se.key46()); !ok || got.Client != client {
			t.Fatalf("port %d leads to %v, want %v", port, got.Client, client)
		}
		k46 := EntryKey46(&Key46{Server: serverAddr, Mapped: poolAddr, MappedPort: port})
		if e, ok := f.get46(k46); !ok || e.Client != client {
			t.Fatalf("the entry of port %d is %v's, want %v's", port, e.Client, client)
		}
		if i > 0 {
			if _, ok := f.get64(last.Key); ok {
				t.Fatalf("the session of the port's former client is still found")
			}
		}
		last = se
	}
	f.cacheEntry(entryClient(19), 7000, port+1, 40) // the same client, another port
	if e, ok := f.get64(EntryKey64(&last.Key)); !ok || e.MappedPort != port+1 {
		t.Errorf("the client's entry has port %d, want %d", e.MappedPort, port+1)
	}
	f.expireAll(40 + 2*recheckTicks)
	f.check()
	if st := f.Stats(); st.Entries != 1 {
		t.Errorf("%d entries are left, want 1", st.Entries)
	}
}

// A client whose entry another shard found outdated gets a new one, and its
// sessions go on over that at once: what is outdated does not hide it.
func TestNewEntryAfterARevokedOne(t *testing.T) {
	f := newFixture(t, Config{Shards: 3, Entries: 1024})
	for i := range 20 {
		first, second, port := entryClient(2*i), entryClient(2*i+1), uint16(3000+10*i)
		f.cacheEntry(first, 7000, port, 10)
		if _, v := f.over(first, 7000, UDP, 53, 10); v != OK {
			t.Fatal(v)
		}
		f.cacheEntry(second, 7000, port, 11) // the port is another client's now
		if _, v := f.over(second, 7000, UDP, 53, 11); v != OK {
			t.Fatal(v)
		}
		f.cacheEntry(first, 7000, port+1, 12)
		se, v := f.over(first, 7000, UDP, 53, 12)
		if v != OK || se.MappedPort != port+1 {
			t.Fatalf("a session over the new entry: port %d, %v; want port %d", se.MappedPort, v, port+1)
		}
		if got, ok := f.get64(se.Key); !ok || got.MappedPort != port+1 {
			t.Fatalf("the session is found with port %d, want %d", got.MappedPort, port+1)
		}
	}
	f.check()
	if st := f.Stats(); st.Entries != 40 || st.Used != 40 {
		t.Errorf("%d entries and %d sessions, want 40 of each", st.Entries, st.Used)
	}
}

func TestFlushHandoffLeavesOwnSessionsAlone(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, Entries: 1024})
	for i := range 100 {
		f.cacheEntry(entryClient(i), 5000, uint16(2000+i), 10)
		f.over(entryClient(i), 5000, TCP, 443, 10)
		f.open(flow(i), StateNone, 10)
	}
	f.FlushHandoff()
	f.expireAll(11)
	f.check()
	if st := f.Stats(); st.Entries != 0 || st.Purged != 100 || st.Used != 100 {
		t.Errorf("%+v; want no entries, 100 purged, 100 sessions of our own", st)
	}
}

// A server's entry is no use of a mapping of our own: when the entry goes and a
// session over it stays, the server is asked again (handoff draft §8, rule 4).
func TestEntriesAreNoUseOfOwnMappings(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, Entries: 1024, AddressDependent: true})
	c := entryClient(1)
	s := f.Shard(f.Owner(c, 5000))
	f.cacheEntry(c, 5000, 2000, 10)
	if _, v := f.over(c, 5000, UDP, 53, 10); v != OK {
		t.Fatal(v)
	}
	if s.UsedWith(c, 5000, serverAddr) {
		t.Error("a session over an entry counts as use of a mapping of ours")
	}
	own := Key64{Client: c, ClientPort: 5000, Server: serverAddr, ServerPort: 54, Proto: TCP}
	f.open(own, StateV6Init, 11)
	if !s.UsedWith(c, 5000, serverAddr) {
		t.Error("a session of ours is no use")
	}
	f.FlushHandoff()
	f.expireAll(12)
	if !s.UsedWith(c, 5000, serverAddr) {
		t.Error("the use went with the entry")
	}
	f.check()
}

// A client is asked about under the same pool4 address by every process: its
// entries lie there (handoff draft §3).
func TestPairedAddressOutlivesTheSecret(t *testing.T) {
	var pool []Pool4Range
	for a := range uint32(16) {
		pool = append(pool, Pool4Range{poolAddr + a, 1024, 65535})
	}
	before, after := newFixture(t, Config{Pool4: pool}), newFixture(t, Config{Pool4: pool, Shards: 3, Secret: &[32]byte{9}})
	used := map[uint32]bool{}
	for i := range 200 {
		c := entryClient(i)
		addr := before.PairedAddress(c)
		used[addr] = true
		if got := after.PairedAddress(c); got != addr {
			t.Fatalf("client %d is paired with %s, and after a restart with %s", i, ipv4(addr), ipv4(got))
		}
		k := Key64{Client: c, ClientPort: 5000, Server: serverAddr, ServerPort: 54, Proto: UDP}
		if se := after.open(k, StateNone, 1); se.Mapped != addr {
			t.Fatalf("client %d is asked about under %s and mapped to %s", i, ipv4(addr), ipv4(se.Mapped))
		}
	}
	if len(used) != len(pool) {
		t.Errorf("200 clients are paired with %d of %d addresses", len(used), len(pool))
	}
}

// Under pressure the cache goes first: sessions of our own always find room as
// long as there is something that a server can give again.
func TestCacheGivesWay(t *testing.T) {
	f := newFixture(t, Config{Sessions: 64, Entries: 64})
	for i := range 200 {
		f.cacheEntry(entryClient(i), 5000, uint16(2000+i), Tick(i))
	}
	if st := f.Stats(); st.Entries != 64 {
		t.Fatalf("%d entries, want the limit of 64", st.Entries)
	}
	opened := 0
	for i := range 200 {
		if _, v := f.over(entryClient(i), 5000, UDP, 53, Tick(200+i)); v == OK {
			opened++
		}
	}
	if opened == 0 {
		t.Fatal("no session over an entry")
	}
	for i := range 64 {
		if _, v := f.tryOpen(flow(i), StateNone, 500); v != OK {
			t.Fatalf("session %d of our own: %v", i, v)
		}
	}
	if _, v := f.tryOpen(flow(64), StateNone, 500); v != TableFull {
		t.Errorf("a session beyond the limit: %v", v)
	}
	f.check()
}

func TestHint(t *testing.T) {
	f := newFixture(t, Config{
		Pool4:    []Pool4Range{{poolAddr, 80, 90}, {poolAddr, 2000, 2010}, {poolAddr, 40000, 40000}, {poolAddr + 1, 1, 1023}},
		Reserved: []uint16{2003},
	})
	for port, want := range map[uint16]uint16{
		80: 2000, 1024: 2000, 2000: 2000, 2003: 2004, 2010: 2010, 2011: 40000, 40000: 40000, 40001: 2000, 65535: 2000,
	} {
		if got := f.Hint(poolAddr, port); got != want {
			t.Errorf("the hint for port %d is %d, want %d", port, got, want)
		}
	}
	if got := f.Hint(poolAddr+1, 500); got != 0 {
		t.Errorf("the hint where there is no port is %d, want 0", got)
	}
}

func TestServers(t *testing.T) {
	const n = 500
	s, err := NewServers(n, testSecret)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		for i := range uint32(n) {
			if !s.Set(i*7+1, ServerState(1+i%2)) {
				t.Fatalf("round %d: server %d does not fit", round, i)
			}
		}
		if s.Set(0xffffffff, ServerHandoff) {
			t.Fatal("a server beyond the capacity was taken")
		}
		for i := range uint32(n) {
			s.SetTranslates(i*7+1, i%5 == 0)
		}
		s.SetTranslates(3, true) // not in the table
		for i := uint32(0); i < n; i += 3 {
			s.Forget(i*7 + 1)
		}
		for i := range uint32(n) {
			want := ServerState(1 + i%2)
			if i%3 == 0 {
				want = ServerUnknown
			}
			if got := s.State(i*7 + 1); got != want {
				t.Fatalf("round %d: server %d is %v, want %v", round, i, got, want)
			}
			if got := s.Translates(i*7 + 1); got != (i%5 == 0 && i%3 != 0) {
				t.Fatalf("round %d: server %d translates: %v", round, i, got)
			}
		}
		if s.State(3) != ServerUnknown || s.Translates(3) || s.Len() != n-(n+2)/3 {
			t.Fatalf("%d servers", s.Len())
		}
	}
}
