package conntrack

import (
	"strings"
	"testing"
)

// The limit is the configured one, wherever the flows fall; what it refuses
// leaves nothing behind and hurts no session that exists.
func TestFullTable(t *testing.T) {
	for _, c := range []struct{ shards, sessions, slack int }{{1, 100, 0}, {4, 1000, 0}, {3, 20000, 3 * 64}, {1, 30000, 0}} {
		f := newFixture(t, Config{Shards: c.shards, Sessions: c.sessions, AddressDependent: true})
		opened, refused := 0, 0
		for i := 0; refused < 500; i++ {
			switch _, v := f.tryOpen(flow(i), StateNone, 1); v {
			case OK:
				opened++
			case TableFull:
				refused++
			default:
				t.Fatalf("flow %d: %v", i, v)
			}
		}
		if opened > c.sessions || opened < c.sessions-c.slack {
			t.Errorf("%d shards: %d sessions, limit %d", c.shards, opened, c.sessions)
		}
		if st := f.Stats(); int(st.Refused) != refused || st.BIB != uint64(opened) {
			t.Errorf("stats %+v, refused %d", st, refused)
		}
		f.check()
		for i := range c.sessions - c.slack - 500 {
			if _, ok := f.get64(flow(i)); !ok {
				t.Fatalf("session %d was lost", i)
			}
		}
		f.expireAll(1 << 20)
		f.check()
		f.open(flow(0), StateNone, 1<<20)
	}
}

// One shard may take the whole limit's worth of an uneven load up to what its
// slots hold; beyond that it refuses, and goes on working.
func TestProbeBound(t *testing.T) {
	f := newFixture(t, Config{Shards: 8, Sessions: 16000, Pool4: []Pool4Range{{poolAddr, 1024, 65535}}})
	slots := len(f.Shard(3).index64.slots)
	opened, refused := 0, 0
	for i := 0; refused == 0; i++ {
		k := f.client(3, i%60000)
		k.ServerPort = uint16(i)
		switch _, v := f.tryOpen(k, StateNone, 1); v {
		case OK:
			opened++
		case TableFull:
			refused++
		default:
			t.Fatalf("flow %d: %v", i, v)
		}
	}
	if opened < slots*85/100 || opened > slots {
		t.Errorf("the first refusal came after %d sessions in %d slots", opened, slots)
	}
	f.check()
	f.expireAll(1 << 20)
	f.check()
}

func TestVerdicts(t *testing.T) {
	f := newFixture(t, Config{Shards: 2})
	k := f.client(0, 7)
	if _, v := f.Shard(1).Map(k.Client, k.ClientPort, UDP); v != NotOwner {
		t.Errorf("Map at the wrong shard: %v", v)
	}
	m, v := f.Shard(0).Map(k.Client, k.ClientPort, UDP)
	if v != OK {
		t.Fatal(v)
	}
	se := Session{Key: k, Mapped: m.Addr, MappedPort: m.Port}
	if v := f.Shard(1).Insert(&se, 1); v != NotOwner {
		t.Errorf("Insert at the wrong shard: %v", v)
	}
	f.Shard(1).Unmap(k.Client, k.ClientPort, UDP)
	if _, ok := f.FindBIB(TCP, m.Addr, m.Port); !ok {
		t.Error("another shard's Unmap dropped the mapping")
	}
	f.Shard(0).Unmap(k.Client, k.ClientPort, UDP)
	f.check()
	for _, wrong := range []Session{
		{Key: k, Mapped: m.Addr, MappedPort: m.Port},
		{Key: k, Mapped: 0x01010101, MappedPort: m.Port},
	} {
		if v := f.Shard(0).Insert(&wrong, 1); v != NoMapping {
			t.Errorf("Insert without a mapping: %v", v)
		}
	}
	other := f.open(f.client(0, 8), StateNone, 1)
	stolen := Session{Key: k, Mapped: other.Mapped, MappedPort: other.MappedPort}
	if v := f.Shard(0).Insert(&stolen, 1); v != NoMapping {
		t.Errorf("Insert over another client's mapping: %v", v)
	}
	f.check()
}

// Inserting a session twice changes nothing, as when two packets of a new flow
// come in one burst.
func TestInsertTwice(t *testing.T) {
	f := newFixture(t, Config{AddressDependent: true})
	se := f.open(flow(1), StateNone, 1)
	if v := f.Shard(0).Insert(&se, 2); v != OK {
		t.Fatal(v)
	}
	if f.Stats().Created != 1 || f.lastUsed(se.Key) != 2 {
		t.Errorf("stats %+v, last used %d", f.Stats(), f.lastUsed(se.Key))
	}
	f.check()
}

// The same flow through another pool6 prefix has the same IPv4 side: the newer
// session takes it over.
func TestNewerPrefixWins(t *testing.T) {
	f := newFixture(t, Config{AddressDependent: true})
	old := f.open(flow(1), StateNone, 1)
	k := flow(1)
	k.Pool6 = 1
	se := f.open(k, StateNone, 1)
	if se.MappedPort != old.MappedPort {
		t.Errorf("mapped to %d and %d", old.MappedPort, se.MappedPort)
	}
	if v, ok := f.get46(se.key46()); !ok || v.Pool6 != 1 {
		t.Errorf("the way back leads to prefix %d", v.Pool6)
	}
	if _, ok := f.get64(flow(1)); ok {
		t.Error("the older session is still there")
	}
	f.check()
}

func TestHasSessionWith(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, AddressDependent: true, Timeouts: secondsEach()})
	for i := range 600 {
		k := flow(i % 300)
		k.ServerPort = uint16(i)
		f.open(k, StateNone, Tick(i/300*5))
	}
	ask := func(i int, server uint32, p Proto) bool {
		k := flow(i)
		return f.ownerOf(&k).HasSessionWith(k.Client, k.ClientPort, server, p)
	}
	for i := range 300 {
		k := flow(i)
		if !ask(i, k.Server, UDP) || ask(i, k.Server+1, UDP) || ask(i, k.Server, TCP) || ask(i+300, k.Server, UDP) {
			t.Fatalf("flow %d: wrong answer", i)
		}
	}
	f.expireAll(10) // the first half of each pair
	f.check()
	if k := flow(7); f.Stats().Used != 300 || !ask(7, k.Server, UDP) {
		t.Error("the second session does not count any more")
	}
	f.expireAll(15)
	f.check()
	if k := flow(7); ask(7, k.Server, UDP) {
		t.Error("a session that is gone still counts")
	}
	off := newFixture(t, Config{})
	off.open(flow(1), StateNone, 1)
	if k := flow(1); off.Shard(0).HasSessionWith(k.Client, k.ClientPort, k.Server, UDP) {
		t.Error("without AddressDependent the answer is no")
	}
}

func TestNextHopIsCachedPerDirection(t *testing.T) {
	f := newFixture(t, Config{})
	se := f.open(flow(1), StateNone, 1)
	v64, _ := f.get64(se.Key)
	v64.SetHop(77)
	v46, _ := f.get46(se.key46())
	if v46.Hop != 0 {
		t.Errorf("the other direction has hop %d", v46.Hop)
	}
	v46.SetHop(88)
	v46.SetHop(89)
	v64, _ = f.get64(se.Key)
	v46, _ = f.get46(se.key46())
	if v64.Hop != 77 || v46.Hop != 89 {
		t.Errorf("hops %d and %d, want 77 and 89", v64.Hop, v46.Hop)
	}
	f.Shard(0).Remove(&v64)
	f.open(flow(1), StateNone, 1)
	if v, _ := f.get64(flow(1)); v.Hop != 0 {
		t.Errorf("a new session starts with hop %d", v.Hop)
	}
}

func TestConfigProblemsAreAllReported(t *testing.T) {
	_, _, err := New(Config{Shards: 300, Sessions: -1, Pool4: []Pool4Range{{poolAddr, 9, 8}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"shards: 300", "sessions: -1", "range 192.0.2.1:9-8 is empty"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not mention %q", err, want)
		}
	}
	if _, _, err := New(Config{Shards: 1, Sessions: 1}); err == nil || !strings.Contains(err.Error(), "pool4") {
		t.Errorf("without pool4: %v", err)
	}
	if _, _, err := New(defaults(Config{Static: []Static{web, web}})); err == nil {
		t.Error("the same static mapping twice is accepted")
	}
}

// A session through another pool6 prefix takes the place of the one with the same
// IPv4 side, also at the client's limit: it has no more than before. Refused, it
// takes nobody's place.
func TestLimitAndTheSameIPv4Side(t *testing.T) {
	f := newFixture(t, Config{PerClient: ClientLimits{Sessions: 1}})
	k := flow(0)
	f.open(k, StateNone, 1)
	other := k
	other.Pool6 = 1
	f.open(other, StateNone, 1)
	if _, ok := f.get64(k); ok {
		t.Error("both sessions are there")
	}
	if n, _ := f.ClientHas(k.Client); n != 1 {
		t.Errorf("the client has %d sessions, want 1", n)
	}
	f.check()

	f = newFixture(t, Config{})
	f.open(k, StateNone, 1) // does not count
	f.SetClientLimits(ClientLimits{Sessions: 1})
	second := k
	second.ServerPort++
	f.open(second, StateNone, 1)
	if _, v := f.tryOpen(other, StateNone, 1); v != ClientSessions {
		t.Errorf("verdict %v, want %v", v, ClientSessions)
	}
	if _, ok := f.get64(k); !ok {
		t.Error("a session that was refused has ended another")
	}
	f.expireAll(1)
	f.check()
}
