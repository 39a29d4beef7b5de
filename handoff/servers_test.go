package handoff

import (
	"math/rand/v2"
	"slices"
	"testing"

	"handoff64/conntrack"
)

func newTestServers(t *testing.T, capacity, shared int) (*servers, *conntrack.Servers, *counters) {
	table, err := conntrack.NewServers(shared, [32]byte{2})
	if err != nil {
		t.Fatal(err)
	}
	count := new(counters)
	return newServers(capacity, table, count), table, count
}

// Unknown hosts go first, then servers that are down, and the capable last; of
// each the one that was least recently met.
func TestEviction(t *testing.T) {
	s, table, count := newTestServers(t, 6, 6)
	for addr := uint32(1); addr <= 6; addr++ {
		s.touch(addr)
	}
	s.set(s.touch(1), conntrack.ServerHandoff)
	s.set(s.touch(2), conntrack.ServerHandoff)
	s.set(s.touch(3), conntrack.ServerDown)
	s.set(s.touch(4), conntrack.ServerDown)
	s.touch(5)
	s.touch(3)
	s.touch(1)
	for i, gone := range []uint32{6, 5} { // the unknown ones, then the ones that took their places
		s.touch(uint32(100 + i))
		if s.index.find(gone) != none {
			t.Errorf("host %d was not forgotten", gone)
		}
	}
	s.set(s.touch(100), conntrack.ServerHandoff)
	s.set(s.touch(101), conntrack.ServerHandoff)
	for i, gone := range []uint32{4, 3, 2, 1, 100, 101} {
		at := s.touch(uint32(200 + i))
		s.set(at, conntrack.ServerHandoff)
		if s.index.find(gone) != none || table.State(gone) != conntrack.ServerUnknown {
			t.Errorf("server %d was not forgotten", gone)
		}
	}
	if n := count.serversGone.Load(); n != 6 {
		t.Errorf("%d capable servers forgotten", n)
	}
	if n := table.Len(); n != 6 {
		t.Errorf("packet workers see %d servers", n)
	}
}

// A host stays unknown when packet workers could not be told.
func TestSharedTableFull(t *testing.T) {
	s, table, count := newTestServers(t, 4, 1)
	if !s.set(s.touch(1), conntrack.ServerHandoff) || s.set(s.touch(2), conntrack.ServerHandoff) {
		t.Error("want room for one")
	}
	if s.state(2) != conntrack.ServerUnknown || table.State(2) != conntrack.ServerUnknown || count.serversFull.Load() != 1 {
		t.Errorf("server 2 is %s", s.state(2))
	}
}

func TestRememberedClients(t *testing.T) {
	s, _, _ := newTestServers(t, 4, 4)
	s.remember(1, client1, client2)
	if got := s.remembered(1); got != nil {
		t.Errorf("of a host that was never met: %v", got)
	}
	s.touch(1)
	s.remember(1, client1, client2)
	s.remember(1, client2, client2)
	if got := s.remembered(1); !slices.Equal(got, []conntrack.Addr6{client1, client2}) {
		t.Errorf("%v", got)
	}
	for i := range uint64(300) { // more than a counter of eight bits
		s.remember(1, conntrack.Addr6{Hi: 1, Lo: i}, conntrack.Addr6{Hi: 1, Lo: i})
		if got := s.remembered(1); !slices.Contains(got, conntrack.Addr6{Hi: 1, Lo: i}) {
			t.Fatalf("client %d is not among %v", i, got)
		}
	}
}

// The index against a plain map.
func TestIndex(t *testing.T) {
	const capacity = 64
	x, model := newIndex[channelKey](capacity), map[channelKey]int32{}
	for range 100_000 {
		k := channelKey{rand.Uint32N(10), rand.Uint32N(12)}
		i, known := model[k]
		if got := x.find(k); known && got != i || !known && got != none {
			t.Fatalf("find(%v) = %d, want %d %v", k, got, i, known)
		}
		switch {
		case known && rand.N(2) == 0:
			x.remove(i)
			delete(model, k)
		case !known && !x.full():
			model[k] = x.add(k)
		}
		if x.used != len(model) || x.full() != (len(model) == capacity) {
			t.Fatalf("%d used, full %v, model %d", x.used, x.full(), len(model))
		}
	}
}

// The list against a slice.
func TestList(t *testing.T) {
	places, l, model := make([]place, 16), emptyList(), []int32{}
	for range 100_000 {
		i := rand.Int32N(16)
		if at := slices.Index(model, i); at >= 0 {
			l.remove(places, i)
			model = slices.Delete(model, at, at+1)
		} else {
			l.push(places, i)
			model = append(model, i)
		}
		var got []int32
		for i := l.head; i != none; i = places[i].next {
			got = append(got, i)
		}
		if !slices.Equal(got, model) && len(got)+len(model) > 0 {
			t.Fatalf("%v, want %v", got, model)
		}
		if len(model) > 0 && l.tail != model[len(model)-1] {
			t.Fatalf("tail %d of %v", l.tail, model)
		}
	}
}

func TestServersInfo(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.notify(serverAddr(2), client1, 1, 2000)
	r.pass(0)
	r.sessions = []conntrack.SessionInfo{
		r.session(s.addr, client1, 1, 2000, conntrack.OriginNAT64), r.session(s.addr, client1, 1, 2000, conntrack.OriginNAT64),
		r.session(s.addr, client2, 1, 2001, conntrack.OriginHandoff), r.session(serverAddr(2), client1, 1, 2000, conntrack.OriginNAT64),
	}
	var got []ServerInfo
	r.w.ServersInfo(func(i ServerInfo) bool { got = append(got, i); return true })
	if len(got) != 2 {
		t.Fatalf("%v", got)
	}
	slices.SortFunc(got, func(a, b ServerInfo) int { return a.Server.Compare(b.Server) })
	if i := got[0]; i.Server != ipv4Address(s.addr) || i.State != conntrack.ServerHandoff || i.Entries != 2 || !i.LastHeard.Equal(r.time) {
		t.Errorf("%+v", i)
	}
	if i := got[1]; i.State != conntrack.ServerUnknown || i.Entries != 1 || !i.LastHeard.IsZero() {
		t.Errorf("%+v", i)
	}
	n := 0
	r.w.ServersInfo(func(ServerInfo) bool { n++; return false })
	if n != 1 {
		t.Errorf("went on %d times after false", n)
	}
}
