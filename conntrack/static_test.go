package conntrack

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

var web = Static{TCP, Addr6{0x20010db8_00000000, 5}, 80, poolAddr, 8080}

func (f *fixture) addStatic(st Static) {
	f.tb.Helper()
	if err := f.AddStatic(st); err != nil {
		f.tb.Fatal(err)
	}
}

// fromV4 opens a session for a packet that comes from an IPv4 server, as a
// worker does.
func (f *fixture) fromV4(p Proto, mapped uint32, port uint16, server uint32, now Tick) (Session, Verdict) {
	b, ok := f.FindBIB(p, mapped, port)
	if !ok {
		return Session{}, NoMapping
	}
	se := Session{Key: Key64{Client: b.Client, ClientPort: b.ClientPort, Server: server, ServerPort: 7, Proto: p}, Mapped: mapped, MappedPort: port}
	if p == TCP {
		se.State = StateV4Init
	}
	return se, f.Shard(b.Owner).Insert(&se, now)
}

func TestStaticMappingServesBothDirections(t *testing.T) {
	for _, mappedPort := range []uint16{8080, 80} { // inside and outside the ranges
		f := newFixture(t, Config{Shards: 4, Static: []Static{{TCP, web.Client, 80, poolAddr, mappedPort}}})
		se, v := f.fromV4(TCP, poolAddr, mappedPort, 0x05060708, 1)
		if v != OK {
			t.Fatalf("from IPv4: %v", v)
		}
		got, ok := f.get46(se.key46())
		if !ok || got.Client != web.Client || got.ClientPort != 80 || got.Origin != OriginStatic {
			t.Errorf("from IPv4: %+v", got)
		}
		k := Key64{Client: web.Client, ClientPort: 80, Server: 0x01020304, ServerPort: 9, Proto: TCP}
		if out := f.open(k, StateV6Init, 1); out.Mapped != poolAddr || out.MappedPort != mappedPort {
			t.Errorf("from IPv6: mapped to %s:%d", ipv4(out.Mapped), out.MappedPort)
		}
		k.Proto = UDP
		if out := f.open(k, StateNone, 1); out.MappedPort == mappedPort {
			t.Error("UDP uses the mapping of TCP")
		}
		if _, v := f.fromV4(UDP, poolAddr, mappedPort, 0x05060708, 1); v != NoMapping {
			t.Errorf("UDP to the mapping of TCP: %v", v)
		}
		f.check()
		f.expireAll(1 << 20)
		if _, ok := f.FindBIB(TCP, poolAddr, mappedPort); !ok {
			t.Error("the static mapping went with its sessions")
		}
		f.check()
	}
}

func TestStaticsAndWhatTheyExclude(t *testing.T) {
	f := newFixture(t, Config{Static: []Static{web}})
	dns := Static{UDP, Addr6{0x20010db8_00000000, 6}, 53, poolAddr, 8080}
	f.addStatic(dns)
	if got := f.Statics(); len(got) != 2 || !slices.Contains(got, web) || !slices.Contains(got, dns) {
		t.Errorf("%v", got)
	}
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	if got := f.Statics(); !slices.Equal(got, []Static{dns}) {
		t.Errorf("after a removal: %v", got)
	}
	sameMapped, sameClient, other := web, web, web
	sameMapped.Client.Lo++
	sameClient.MappedPort++
	other.Proto = UDP
	for st, want := range map[Static]bool{web: true, sameMapped: true, sameClient: true, other: false} {
		if got := web.Excludes(st); got != want {
			t.Errorf("%v excludes %v: %v", web, st, got)
		}
	}
}

// TCP and UDP may share a mapped port and lead to different clients.
func TestStaticPerProtocol(t *testing.T) {
	f := newFixture(t, Config{})
	dns := Static{UDP, Addr6{0x20010db8_00000000, 6}, 53, poolAddr, 8080}
	f.addStatic(web)
	f.addStatic(dns)
	for _, st := range []Static{web, dns} {
		if b, ok := f.FindBIB(st.Proto, poolAddr, 8080); !ok || b.Client != st.Client || !b.Static {
			t.Errorf("%v: %+v", st, b)
		}
	}
	f.check()
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	f.check() // the port stays claimed for the other one
	if err := f.RemoveStatic(UDP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	f.check()
	if f.Stats().Statics != 0 {
		t.Error("static mappings left")
	}
}

func TestStaticConflictsSayWhoHasIt(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 8080, 8081}}, Static: []Static{web}})
	k := flow(1)
	dynamic := f.open(k, StateNone, 1) // must get 8081, the only port left
	for name, c := range map[string]struct {
		st   Static
		want string
	}{
		"same port":     {Static{TCP, Addr6{1, 1}, 1, poolAddr, 8080}, "the mapped port belongs to static mapping tcp [2001:db8::5]:80 ↔ 192.0.2.1:8080"},
		"same client":   {Static{TCP, web.Client, 80, poolAddr, 99}, "the client has static mapping tcp [2001:db8::5]:80 ↔ 192.0.2.1:8080"},
		"itself":        {web, "the mapped port belongs to static mapping"},
		"dynamic":       {Static{UDP, Addr6{1, 1}, 1, poolAddr, 8081}, "the mapped port belongs to [2001:db8::1]:40001, with 1 sessions"},
		"no protocol":   {Static{Proto(99), Addr6{1, 1}, 1, poolAddr, 1}, "protocol 99 is neither"},
		"names the one": {Static{TCP, Addr6{1, 1}, 1, poolAddr, 8080}, "add static mapping tcp [::1:0:0:0:1]:1 ↔ 192.0.2.1:8080"},
	} {
		err := f.AddStatic(c.st)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if name != "no protocol" && !errors.Is(err, ErrConflict) {
			t.Errorf("%s: not ErrConflict", name)
		}
	}
	if dynamic.MappedPort != 8081 {
		t.Errorf("dynamic port %d", dynamic.MappedPort)
	}
	if err := f.RemoveStatic(UDP, poolAddr, 8080); !errors.Is(err, ErrNoStatic) {
		t.Errorf("removing what is not there: %v", err)
	}
	f.check()
}

// A dynamic mapping becomes static when the operator names the same two ends;
// whichever goes first, the port is free only after both.
func TestStaticTakesOverDynamic(t *testing.T) {
	for _, staticFirst := range []bool{true, false} {
		f := newFixture(t, Config{Shards: 2})
		se := f.open(flow(1), StateNone, 1)
		f.addStatic(Static{UDP, se.Key.Client, se.Key.ClientPort, se.Mapped, se.MappedPort})
		f.check()
		k := se.Key
		k.ServerPort++
		if again := f.open(k, StateNone, 1); again.MappedPort != se.MappedPort {
			t.Fatalf("port %d, want %d", again.MappedPort, se.MappedPort)
		}
		f.check()
		for i := range 2 {
			if (i == 0) == staticFirst {
				if err := f.RemoveStatic(UDP, se.Mapped, se.MappedPort); err != nil {
					t.Fatal(err)
				}
			} else {
				f.expireAll(1 << 20)
			}
			f.check()
		}
		f.expireAll(1 << 21)
		f.addStatic(web) // makes the table look after retired mappings
		f.check()
		if st := f.Stats(); st.Used != 0 || st.BIB != 0 {
			t.Errorf("stats %+v", st)
		}
	}
}

// Removing a static mapping ends its sessions, and only those.
func TestRemoveStaticEndsItsSessions(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, Static: []Static{web}})
	for i := range uint32(50) {
		if _, v := f.fromV4(TCP, poolAddr, 8080, 0x05060700+i, 1); v != OK {
			t.Fatal(v)
		}
	}
	f.fill(100)
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	if _, v := f.fromV4(TCP, poolAddr, 8080, 0x01010101, 1); v != NoMapping {
		t.Errorf("a new session: %v", v)
	}
	f.check()
	other := web
	other.Client.Lo++
	if err := f.AddStatic(other); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "50 sessions") {
		t.Errorf("another client while sessions live: %v", err)
	}
	f.addStatic(web) // the same one again takes its sessions back
	f.check()
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	if n := f.expireAll(2); n != 50 {
		t.Errorf("%d sessions ended, want 50", n)
	}
	f.addStatic(other)
	f.check()
	if st := f.Stats(); st.Used != 100 {
		t.Errorf("stats %+v", st)
	}
}

func TestBIBWalk(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, Static: []Static{web}})
	want := map[Static]uint32{web: 1}
	f.fromV4(TCP, poolAddr, 8080, 0x05060708, 1)
	for i := range 40 {
		k := flow(i / 2)
		k.ServerPort = uint16(i)
		if i >= 30 {
			k.Proto, k.ServerPort, k.Server = ICMP, 0, uint32(i)
		}
		se := f.open(k, StateNone, 1)
		st := Static{Client: k.Client, ClientPort: k.ClientPort, Mapped: se.Mapped, MappedPort: se.MappedPort}
		if k.Proto == ICMP {
			st.Proto = ICMP
		}
		want[st]++
	}
	got := map[Static]uint32{}
	f.BIB(func(b BIBInfo) bool {
		got[b.Static] = b.Sessions
		if b.IsStatic != (b.Static == web) {
			t.Errorf("%v: static %v", b.Static, b.IsStatic)
		}
		return true
	})
	if len(got) != len(want) {
		t.Errorf("%d mappings, want %d", len(got), len(want))
	}
	for st, n := range want {
		if got[st] != n {
			t.Errorf("%v has %d sessions, want %d", st, got[st], n)
		}
	}
	calls := 0
	f.BIB(func(BIBInfo) bool { calls++; return calls < 5 })
	f.Sessions(func(SessionInfo) bool { calls++; return calls < 10 })
	if calls != 10 {
		t.Errorf("%d calls, want the walks to stop when told", calls)
	}
}

// A worker that still sees a mapping which has been forgotten cannot count on it.
func TestClosedStaticRefusesSessions(t *testing.T) {
	f := newFixture(t, Config{Static: []Static{web}})
	e := f.statics.Load().byMapped[web.mappedKey()]
	if !e.acquire() {
		t.Fatal("a live mapping refuses")
	}
	e.release()
	if err := f.RemoveStatic(TCP, poolAddr, 8080); err != nil {
		t.Fatal(err)
	}
	if e.acquire() {
		t.Error("a forgotten mapping takes a session")
	}
	f.check()
}
