package conntrack

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// oneClient is a flow of the numbered client: n tells its port and server.
func oneClient(client, n int) Key64 {
	return Key64{Client: Addr6{0x20010db8_00000001, uint64(client)}, ClientPort: uint16(1000 + n/4), Server: 0xcb007101, ServerPort: uint16(1 + n%4), Proto: UDP}
}

// Shards open and end sessions of the same clients at the same time. A client
// never has more than its limit, and has all of it when it asks often enough.
func TestClientLimitsAcrossShards(t *testing.T) {
	const shards, clientCount, sessions, ports = 4, 5, 40, 13
	f := newFixture(t, Config{Shards: shards, PerClient: ClientLimits{Sessions: sessions, Ports: ports}})
	var now [clientCount]atomic.Int64
	rounds := 40_000
	if testing.Short() {
		rounds = 8_000
	}
	var wg sync.WaitGroup
	for shard := range shards {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(shard), 9))
			for range rounds {
				client := r.IntN(clientCount)
				k := oneClient(client, r.IntN(400))
				if f.Owner(k.Client, k.ClientPort) != shard {
					continue
				}
				var v View64
				if f.Lookup64(&k, f.Hash64(&k), &v) {
					now[client].Add(-1) // before it goes, so that the count is never above the truth
					f.Shard(shard).Remove(&v)
					continue
				}
				switch _, v := f.tryOpen(k, StateNone, 1); v {
				case OK:
					if n := now[client].Add(1); n > sessions {
						t.Errorf("client %d has %d sessions", client, n)
					}
				case ClientSessions, ClientPorts:
				default:
					t.Errorf("open: %v", v)
				}
			}
		})
	}
	wg.Wait()
	f.check()
	mapped := map[Addr6]int{}
	f.BIB(func(b BIBInfo) bool { mapped[b.Client]++; return true })
	for client := range clientCount {
		s, p := f.ClientHas(oneClient(client, 0).Client)
		if int64(s) != now[client].Load() || s > sessions || p > ports || p != mapped[oneClient(client, 0).Client] {
			t.Errorf("client %d counts %d sessions and %d ports, has %d and %d", client, s, p, now[client].Load(), mapped[oneClient(client, 0).Client])
		}
		for n := range 400 {
			f.tryOpen(oneClient(client, n), StateNone, 1)
		}
		if s, _ := f.ClientHas(oneClient(client, 0).Client); s != sessions {
			t.Errorf("client %d got %d sessions of %d that it may have", client, s, sessions)
		}
	}
	f.Flush()
	f.expireAll(2)
	f.check()
	if st := f.Stats(); st.Clients != 0 || st.Used != 0 {
		t.Errorf("after a flush: %+v", st)
	}
}

// Sessions over a server's entries count for nothing; those over static
// mappings count as sessions, and take no port.
func TestWhatCounts(t *testing.T) {
	f := newFixture(t, Config{Entries: 16, PerClient: ClientLimits{Sessions: 3, Ports: 1}})
	a := Addr6{5, 5}
	f.addStatic(Static{TCP, a, 80, poolAddr, 8080})
	f.cacheEntry(a, 4000, 5000, 1)
	for port := range uint16(5) {
		if _, v := f.over(a, 4000, UDP, 100+port, 1); v != OK {
			t.Fatalf("session %d over an entry: %v", port, v)
		}
	}
	if s, p := f.ClientHas(a); s != 0 || p != 0 {
		t.Fatalf("sessions over an entry count: %d, %d", s, p)
	}
	for server := range uint32(3) {
		if _, v := f.fromV4(TCP, poolAddr, 8080, server+1, 1); v != OK {
			t.Fatalf("visit %d: %v", server, v)
		}
	}
	if s, p := f.ClientHas(a); s != 3 || p != 0 {
		t.Fatalf("three sessions over a static mapping count %d, %d", s, p)
	}
	if _, v := f.fromV4(TCP, poolAddr, 8080, 9, 1); v != ClientSessions {
		t.Errorf("one visitor more than the limit: %v", v)
	}
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	f.expireAll(2)
	f.check()
	f.open(Key64{Client: a, ClientPort: 7, Server: 1, Proto: ICMP}, StateNone, 2)
	if _, v := f.tryOpen(Key64{Client: a, ClientPort: 8, Server: 1, ServerPort: 1, Proto: UDP}, StateNone, 2); v != ClientPorts {
		t.Errorf("an identifier is a port of the client's, too: %v", v)
	}
	f.check()
	f.FlushHandoff()
	f.Flush()
	f.expireAll(3)
	f.check()
	if f.Stats().Clients != 0 {
		t.Errorf("at the end: %+v", f.Stats())
	}
}

// Limits may be set while sessions live: what was there before counts, stays,
// and keeps the client from more.
func TestLimitsSetLater(t *testing.T) {
	f := newFixture(t, Config{Shards: 2})
	for n := range 40 {
		f.open(oneClient(1, n), StateNone, 1)
	}
	f.SetClientLimits(ClientLimits{Sessions: 20, Ports: 5})
	if f.Swept() {
		t.Error("swept before anybody began")
	}
	f.expireAll(1)
	if s, p := f.ClientHas(oneClient(1, 0).Client); s != 40 || p != 10 || !f.Swept() {
		t.Fatalf("counted %d sessions and %d ports, want 40 and 10", s, p)
	}
	f.check()
	extra := oneClient(1, 0)
	extra.ServerPort = 99
	if _, v := f.tryOpen(extra, StateNone, 1); v != ClientSessions {
		t.Errorf("a session beyond the limit: %v", v)
	}
	if _, v := f.tryOpen(oneClient(1, 41), StateNone, 1); v != ClientPorts {
		t.Errorf("a port beyond the limit: %v", v)
	}
	if _, ok := f.get64(oneClient(1, 39)); !ok {
		t.Error("an established session was lost")
	}
	f.SetClientLimits(ClientLimits{})
	f.open(extra, StateNone, 1) // is not counted
	f.SetClientLimits(ClientLimits{Ports: 10})
	f.expireAll(1)
	if s, p := f.ClientHas(extra.Client); s != 41 || p != 10 {
		t.Errorf("after turning limits off and on: %d sessions and %d ports, want 41 and 10", s, p)
	}
	f.check()
	f.expireAll(1 << 20)
	f.check()
	if f.Stats().Clients != 0 {
		t.Errorf("at the end: %+v", f.Stats())
	}
}

// A restart counts what it takes up, also what is beyond a limit that is lower
// now.
func TestRestartKeepsCounts(t *testing.T) {
	dir := t.TempDir()
	c := Config{Dir: dir, Shards: 3, Now: 10, PerClient: ClientLimits{Sessions: 30, Ports: 30}}
	f, _ := reopen(t, nil, c)
	for n := range 30 {
		f.open(oneClient(2, n), StateNone, 10)
	}
	c.Shards, c.PerClient = 2, ClientLimits{Sessions: 10, Ports: 4}
	f, r := reopen(t, f, c)
	if r.Restored != 30 || r.Dropped != 0 {
		t.Fatalf("recovery %+v", r)
	}
	if s, p := f.ClientHas(oneClient(2, 0).Client); s != 30 || p != 8 || !f.Swept() {
		t.Errorf("counted %d sessions and %d ports, want 30 and 8", s, p)
	}
	f.check()
	if _, v := f.tryOpen(oneClient(2, 31), StateNone, 10); v != ClientSessions {
		t.Errorf("a session beyond the limit: %v", v)
	}
	c.PerClient = ClientLimits{}
	f, _ = reopen(t, f, c)
	if f.Stats().Clients != 0 {
		t.Errorf("without limits: %+v", f.Stats())
	}
	f.check()
}

// A client for whom there is no place is refused by name; limits that come later
// leave it alone.
func TestNoPlaceToCount(t *testing.T) {
	f := newFixture(t, Config{Sessions: 48, PerClient: ClientLimits{Sessions: 9}})
	h := func(a Addr6) uint64 { return f.hash.address(a) }
	victim := Addr6{9, 9}
	bucket := f.clients.bucketOf(h(victim))
	var others []Addr6
	for n := uint64(0); len(others) < clientLanes; n++ {
		if a := (Addr6{8, n}); f.clients.bucketOf(h(a)) == bucket {
			f.clients.take(h(a), oneSession, 1)
			others = append(others, a)
		}
	}
	k := Key64{Client: victim, ClientPort: 1, Server: 1, ServerPort: 1, Proto: UDP}
	if _, v := f.tryOpen(k, StateNone, 1); v != ClientsFull {
		t.Fatalf("no place for the client: %v", v)
	}
	f.SetClientLimits(ClientLimits{})
	f.open(k, StateNone, 1)
	f.SetClientLimits(ClientLimits{Sessions: 9})
	f.expireAll(1)
	if _, ok := f.get64(k); !ok {
		t.Error("the session was there before the limit, and is gone")
	}
	if n := f.Stats().Uncounted; n != 3 {
		t.Errorf("%d things found no place, want 3: a mapping refused, a session and its mapping left", n)
	}
	for _, a := range others {
		f.clients.give(h(a), oneSession)
	}
	f.stats0()
	f.check()
}

// stats0 makes up for counting behind the shards' backs.
func (f *fixture) stats0() {
	f.Shard(0).stats.own[statClients] = 0
	f.Shard(0).stats.public[statClients].Store(0)
}
