package conntrack

import (
	"fmt"
	"testing"
)

// seconds are lifetimes of one second each, but for the class under test.
func secondsEach() Timeouts {
	const s = TicksPerSecond
	return Timeouts{UDP: s, ICMP: s, TCPEstablished: s, TCPTransitory: s, TCPIncomingSYN: s}
}

// A session lives through the tick before its lifetime ends and not through the
// one that ends it, in every state, at any place of the wheel and when the clock
// wraps.
func TestLifetimes(t *testing.T) {
	cases := []struct {
		proto Proto
		state TCPState
		set   func(*Timeouts) *Tick
	}{
		{UDP, StateNone, func(t *Timeouts) *Tick { return &t.UDP }},
		{ICMP, StateNone, func(t *Timeouts) *Tick { return &t.ICMP }},
		{TCP, StateV6Init, func(t *Timeouts) *Tick { return &t.TCPTransitory }},
		{TCP, StateV4Init, func(t *Timeouts) *Tick { return &t.TCPTransitory }},
		{TCP, StateEstablished, func(t *Timeouts) *Tick { return &t.TCPEstablished }},
		{TCP, StateV4Fin, func(t *Timeouts) *Tick { return &t.TCPEstablished }},
		{TCP, StateV6Fin, func(t *Timeouts) *Tick { return &t.TCPEstablished }},
		{TCP, StateV4FinV6Fin, func(t *Timeouts) *Tick { return &t.TCPTransitory }},
		{TCP, StateTrans, func(t *Timeouts) *Tick { return &t.TCPTransitory }},
	}
	for _, c := range cases {
		for _, life := range []Tick{10, 25, 8191, 100_000} {
			for _, start := range []Tick{1, 8190, 1 << 31, ^Tick(0) - 5} {
				t.Run(fmt.Sprintf("%v/%v/%d/%d", c.proto, c.state, life, start), func(t *testing.T) {
					to := secondsEach()
					*c.set(&to) = life
					f := newFixture(t, Config{Timeouts: to, Sessions: 8})
					k := flow(1)
					k.Proto = c.proto
					f.open(k, c.state, start)
					f.runTo(start, start+life-1)
					if _, ok := f.get64(k); !ok {
						t.Fatal("ended too early")
					}
					f.check()
					end := start + life
					if c.state == StateEstablished {
						end = f.lingers(k, end, to.TCPTransitory)
					}
					if n := f.Shard(0).Expire(end, 100); n != 1 {
						t.Fatalf("%d sessions expired, want 1", n)
					}
					if st := f.Stats(); st.Used != 0 || st.BIB != 0 || st.Expired != 1 {
						t.Fatalf("stats %+v", st)
					}
					f.check()
				})
			}
		}
	}
}

// lingers lets an established connection's lifetime end: it has the transitory
// one now, and its client is to be probed. It returns when that ends.
func (f *fixture) lingers(k Key64, at, transitory Tick) (end Tick) {
	f.tb.Helper()
	s := f.Shard(0)
	if n, probes := s.Expire(at, 100), s.Probes(); n != 0 || len(probes) != 1 || probes[0].Key != k {
		f.tb.Fatalf("%d expired, to be probed: %+v", n, probes)
	}
	v64, _ := f.get64(k)
	v46, ok := f.get46(Key46{Server: k.Server, ServerPort: k.ServerPort, Mapped: v64.Mapped, MappedPort: v64.MappedPort, Proto: TCP})
	if !ok || v64.State() != StateTrans || v46.State() != StateTrans {
		f.tb.Fatalf("states %v, %v, want TRANS", v64.State(), v46.State())
	}
	f.runTo(at, at+transitory-1)
	if _, ok := f.get64(k); !ok {
		f.tb.Fatal("TRANS ended too early")
	}
	if len(s.Probes()) != 0 {
		f.tb.Fatal("probed twice")
	}
	f.check()
	return at + transitory
}

// A packet in TRANS brings an idle connection back, for the whole established
// lifetime, at whose end it is probed again.
func TestAnswerToAProbe(t *testing.T) {
	f := newFixture(t, Config{Timeouts: Timeouts{UDP: 1, ICMP: 1, TCPEstablished: 500, TCPTransitory: 100, TCPIncomingSYN: 1}})
	k := flow(1)
	k.Proto = TCP
	f.open(k, StateEstablished, 0)
	f.lingers(k, 500, 90)
	v, _ := f.get64(k)
	f.PacketTCP64(&v, FlagACK, 590)
	f.runTo(590, 1089)
	if v, _ := f.get64(k); v.State() != StateEstablished {
		t.Fatalf("state %v after an answer", v.State())
	}
	f.lingers(k, 1090, 100)
}

// What one call of Expire lists is bounded; the next goes on. And a session
// over a server's entry is a cache's: it goes, and nobody is asked.
func TestProbesAreBounded(t *testing.T) {
	to := secondsEach()
	to.Entry = 1000
	f := newFixture(t, Config{Timeouts: to, Entries: 16})
	f.cacheEntry(entryClient(0), 5000, 6000, 0)
	se, v := f.over(entryClient(0), 5000, TCP, 80, 0)
	if v != OK {
		t.Fatal(v)
	}
	f.packet(se, true, FlagSYN|FlagACK, 0)
	if v, _ := f.get64(se.Key); v.State() != StateEstablished {
		t.Fatal(v.State())
	}
	for i := range 3 * maxProbes {
		k := flow(i)
		k.Proto = TCP
		f.open(k, StateEstablished, 0)
	}
	s, total, gone := f.Shard(0), 0, 0
	for {
		gone += s.Expire(10, 1<<20)
		if n := len(s.Probes()); n == 0 || n > maxProbes {
			break
		}
		total += len(s.Probes())
	}
	if total != 3*maxProbes {
		t.Errorf("%d to be probed, want %d", total, 3*maxProbes)
	}
	if st := f.Stats(); st.Used != 3*maxProbes || gone != 1 {
		t.Errorf("%d sessions are left and %d went, want %d and 1", st.Used, gone, 3*maxProbes)
	}
	f.check()
}

// runTo lets time pass tick by tick, or in leaps when there are many.
func (f *fixture) runTo(from, to Tick) {
	stride := (to-from)/2000 + 1
	for now := from; before(now, to); now += stride {
		for i := range f.Shards() {
			f.Shard(i).Expire(now, 100)
		}
	}
	for i := range f.Shards() {
		f.Shard(i).Expire(to, 100)
	}
}

// Packets of either direction keep a session alive.
func TestTrafficKeepsASessionAlive(t *testing.T) {
	f := newFixture(t, Config{Timeouts: secondsEach()})
	se := f.open(flow(1), StateNone, 0)
	now := Tick(0)
	for i := range 50 {
		f.runTo(now, now+9)
		now += 9
		if i%2 == 0 {
			v, ok := f.get64(se.Key)
			if !ok {
				t.Fatalf("gone at %d", now)
			}
			v.Touch(now)
			continue
		}
		v, ok := f.get46(se.key46())
		if !ok {
			t.Fatalf("gone at %d", now)
		}
		v.Touch(now)
	}
	if f.Shard(0).Expire(now+9, 100); f.Stats().Used != 1 {
		t.Error("ended before its lifetime")
	}
	if f.Shard(0).Expire(now+10, 100); f.Stats().Used != 0 {
		t.Error("still there after its lifetime")
	}
}

// A FIN or RST shortens the lifetime of a session that sits far out on the
// wheel; an eighth of the transitory lifetime later it is noticed.
func TestShortenedLifetimeIsNoticed(t *testing.T) {
	to := DefaultTimeouts()
	to.TCPTransitory = 16 * TicksPerSecond
	f := newFixture(t, Config{Timeouts: to})
	k := flow(1)
	k.Proto = TCP
	se := f.open(k, StateEstablished, 0)
	f.runTo(0, 40_000)
	f.packet(se, true, FlagRST, 40_000)
	end := 40_000 + to.TCPTransitory
	f.runTo(40_000, end-1)
	if f.Stats().Used != 1 {
		t.Fatal("ended before the transitory lifetime")
	}
	f.runTo(end, end+to.TCPTransitory/8)
	if f.Stats().Used != 0 {
		t.Error("still there an eighth after the transitory lifetime")
	}
	f.check()
}

// SetTimeouts reaches sessions that exist.
func TestSetTimeoutsIsLive(t *testing.T) {
	f := newFixture(t, Config{})
	f.open(flow(1), StateNone, 0)
	f.SetTimeouts(secondsEach())
	f.runTo(0, recheckTicks)
	if f.Stats().Used != 0 {
		t.Error("the old lifetime goes on")
	}
	f.open(flow(2), StateNone, 1000)
	f.SetTimeouts(DefaultTimeouts())
	f.runTo(1000, 1000+DefaultTimeouts().UDP-1)
	if f.Stats().Used != 1 {
		t.Error("the longer lifetime was not given")
	}
}

// Expire does what its budget allows and no more; what is left comes next.
func TestExpiryIsBounded(t *testing.T) {
	f := newFixture(t, Config{Timeouts: secondsEach()})
	const n = 1000
	f.fill(n)
	s := f.Shard(0)
	const budget = 10
	calls, most := 0, n/budget+wheelSize/(budget*bucketsPerOp)+2 // sessions, and empty ticks at a sixteenth
	for total := 0; total < n; calls++ {
		got := s.Expire(1_000_000, budget)
		if got > budget || calls > most {
			t.Fatalf("call %d: %d sessions with a budget of %d", calls, got, budget)
		}
		total += got
		if left := s.Stats().Used; left != uint64(n-total) {
			t.Fatalf("%d left after %d", left, total)
		}
	}
	if got := s.Expire(1_000_000, 10); got != 0 {
		t.Errorf("%d expired from an empty table", got)
	}
	f.check()
}

// However long nobody called, one turn of the wheel is enough to catch up, and
// spares a session that was used meanwhile.
func TestPauseCostsOneTurn(t *testing.T) {
	f := newFixture(t, Config{})
	f.fill(3)
	v, _ := f.get64(flow(2)) // the first that the wheel comes to
	v.Touch(1 << 30)
	s := f.Shard(0)
	if n := s.Expire(1<<30, 3+wheelSize/bucketsPerOp); n != 2 || s.wheel.tick != 1<<30+1 {
		t.Errorf("%d sessions expired, want 2; the wheel is at %d", n, s.wheel.tick)
	}
	if n := s.Expire(1<<30+DefaultTimeouts().UDP, wheelSize); n != 1 {
		t.Errorf("%d sessions expired, want the last", n)
	}
}

// A pause longer than the wheel ends everything that was due in one turn, and
// spares what was not.
func TestLongPause(t *testing.T) {
	to := secondsEach()
	to.UDP = 200_000
	f := newFixture(t, Config{Timeouts: to})
	for i := range 500 {
		k := flow(i)
		if i%2 == 0 {
			k.Proto = ICMP
			k.ServerPort = 0
		}
		f.open(k, StateNone, Tick(i))
	}
	if n := f.expireAll(150_000); n != 250 {
		t.Errorf("%d sessions expired, want the 250 of ICMP", n)
	}
	f.check()
	f.open(flow(1000), StateNone, 150_001)
	f.check()
	if n := f.expireAll(500_000); n != 251 {
		t.Errorf("%d sessions expired, want the other 251", n)
	}
	f.check()
}

func TestFlush(t *testing.T) {
	f := newFixture(t, Config{Shards: 3, AddressDependent: true})
	f.fill(900)
	f.Flush()
	if f.Stats().Used != 900 {
		t.Fatal("Flush itself removed sessions")
	}
	if n := f.Shard(0).Expire(2, 50); n > 50*lanes {
		t.Errorf("%d sessions went in one call", n)
	}
	f.check()
	f.expireAll(2)
	if st := f.Stats(); st.Used != 0 || st.BIB != 0 || st.Expired != 900 {
		t.Errorf("stats %+v after Flush", st)
	}
	f.check()
	f.fill(10)
	if f.expireAll(3); f.Stats().Used != 10 {
		t.Error("Flush goes on after its end")
	}
}
