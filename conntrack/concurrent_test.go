package conntrack

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// history is what is known of one flow from outside: its owner notes each step
// before and after it takes it. A reader that sees the same note before and
// after a lookup knows what the lookup must have found.
type history struct {
	key  Key64
	note atomic.Uint64 // step<<2 | phase; see below
	side atomic.Uint64 // mapped address<<16 | port, while present
}

const (
	absent = iota
	changing
	present
)

func note(step uint64, phase int) uint64 { return step<<2 | uint64(phase) }

// stress is a table with workers that change flows of their own and look up
// everybody's.
type stress struct {
	*fixture
	flows [][]history // by owner
	ops   int
}

func newStress(t *testing.T, c Config, perShard int) *stress {
	st := &stress{fixture: newFixture(t, c), ops: 400_000}
	if testing.Short() {
		st.ops = 20_000
	}
	st.flows = make([][]history, c.Shards)
	for i := range st.flows {
		st.flows[i] = make([]history, perShard)
		for j := range st.flows[i] {
			h := &st.flows[i][j]
			h.key = st.client(i, j/2)
			h.key.ServerPort, h.key.Proto = uint16(j), [2]Proto{UDP, TCP}[j/2%2]
		}
	}
	return st
}

// delta ties a session's words together: half of one session and half of another
// would not fit.
func delta(k *Key64, m uint64) uint16 {
	return uint16(fold(k.Client.Lo^m^0x9e3779b97f4a7c15, k.Client.Hi+uint64(k.ServerPort)<<20+uint64(k.ClientPort)+1))
}

// step changes one of the worker's own flows.
func (st *stress) step(shard int, r *rand.Rand, now Tick) bool {
	h := &st.flows[shard][r.IntN(len(st.flows[shard]))]
	s, n := st.Shard(shard), h.note.Load()>>2
	h.note.Store(note(n+1, changing))
	var v View64
	if st.Lookup64(&h.key, st.Hash64(&h.key), &v) {
		s.Remove(&v)
		h.note.Store(note(n+1, absent))
		return true
	}
	m, verdict := s.Map(h.key.Client, h.key.ClientPort, h.key.Proto)
	if verdict == OK {
		side := uint64(m.Addr)<<16 | uint64(m.Port)
		d := delta(&h.key, side)
		se := Session{Key: h.key, Mapped: m.Addr, MappedPort: m.Port, Delta64: d, Delta46: ^d, State: StateNone}
		if h.key.Proto == TCP {
			se.State = StateV6Init
		}
		h.side.Store(side)
		verdict = s.Insert(&se, now)
	}
	phase := present
	if verdict != OK {
		phase = absent
	}
	h.note.Store(note(n+1, phase))
	return verdict == OK
}

// look checks one flow of any shard from both sides.
func (st *stress) look(r *rand.Rand, now Tick) bool {
	of := st.flows[r.IntN(len(st.flows))]
	h := &of[r.IntN(len(of))]
	before, side := h.note.Load(), h.side.Load()
	var v View64
	found := st.Lookup64(&h.key, st.Hash64(&h.key), &v)
	if found {
		got := uint64(v.Mapped)<<16 | uint64(v.MappedPort)
		if v.Delta != delta(&h.key, got) {
			st.tb.Errorf("half a session: %+v", v)
			return false
		}
		st.use(&v, r, now)
	}
	k := Key46{Server: h.key.Server, Mapped: uint32(side >> 16), ServerPort: h.key.ServerPort, MappedPort: uint16(side), Proto: h.key.Proto}
	var w View46
	back := st.Lookup46(&k, st.Hash46(&k), &w)
	if back && w.Delta != ^delta(&Key64{Client: w.Client, ClientPort: w.ClientPort, ServerPort: k.ServerPort}, side) {
		st.tb.Errorf("half a session: %+v", w)
		return false
	}
	if back {
		st.use46(&w, r, now)
	}
	if h.note.Load() != before || before&3 == changing {
		return true
	}
	if want := before&3 == present; found != want || want && (!back || w.Client != h.key.Client || w.ClientPort != h.key.ClientPort) {
		st.tb.Errorf("flow %+v: found %v and %v, note %d all the while", h.key, found, back, before&3)
		return false
	}
	return true
}

func (st *stress) use(v *View64, r *rand.Rand, now Tick) {
	switch r.IntN(4) {
	case 0:
		st.PacketTCP64(v, uint8(r.IntN(32)), now)
	case 1:
		v.SetHop(uint32(r.IntN(8)))
	default:
		v.Touch(now)
	}
}

func (st *stress) use46(v *View46, r *rand.Rand, now Tick) {
	if r.IntN(2) == 0 {
		st.PacketTCP46(v, uint8(r.IntN(32)), now)
		return
	}
	v.Touch(now)
}

// TestLookupsAgreeWithHistory runs workers that insert, remove and look up as
// fast as they can. Every lookup that no change overlaps must have the one
// answer that its key's history allows; no lookup ever sees half a session.
func TestLookupsAgreeWithHistory(t *testing.T) {
	for _, shards := range []int{2, 4} {
		st := newStress(t, Config{Shards: shards, Sessions: 20_000, Pool4: []Pool4Range{{poolAddr, 1024, 3071}}}, 900)
		var wg sync.WaitGroup
		var changes atomic.Int64
		for shard := range shards {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(shard), 1))
				for range st.ops / shards {
					if st.step(shard, r, 1) {
						changes.Add(1)
					}
					for range 2 {
						if !st.look(r, 1) {
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if changes.Load() < int64(st.ops)*8/10 {
			t.Errorf("only %d of %d changes went through", changes.Load(), st.ops)
		}
		st.check()
	}
}

// TestEverythingAtOnce adds what other goroutines do: timers, walks, static
// mappings, lifetimes, flushes. The table is consistent afterwards, and empty
// when its time has come.
func TestEverythingAtOnce(t *testing.T) {
	const shards = 3
	st := newStress(t, Config{
		Shards: shards, Sessions: 1500, Dir: t.TempDir(), AddressDependent: true, Timeouts: secondsEach(),
		Pool4: []Pool4Range{{poolAddr, 1024, 1700}, {poolAddr + 1, 1024, 1100}},
	}, 900)
	var workers, others sync.WaitGroup
	var stop atomic.Bool
	for shard := range shards {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(shard), 2))
			for i := range st.ops / shards {
				now := Tick(i / 64)
				st.step(shard, r, now)
				h := &st.flows[r.IntN(shards)][r.IntN(900)]
				var v View64
				if st.Lookup64(&h.key, st.Hash64(&h.key), &v) {
					st.use(&v, r, now)
				}
				st.visitor(shard, uint16(1024+r.IntN(677)), r.Uint32N(100), now)
				if i%64 == 0 {
					st.Shard(shard).Expire(now, 32)
				}
			}
		})
	}
	others.Go(func() {
		for !stop.Load() {
			st.Sessions(func(i SessionInfo) bool { return i.Key.Proto.code() != 0 })
			st.BIB(func(b BIBInfo) bool { return b.MappedPort != 0 })
			if s := st.Stats(); s.Used > 2*1500 { // shards are read one after the other; a wrapped counter is far off
				t.Errorf("%d sessions, limit 1500", s.Used)
			}
		}
	})
	others.Go(func() { st.meddle(&stop) })
	workers.Wait()
	stop.Store(true)
	others.Wait()
	st.check()
	st.SetTimeouts(secondsEach())
	st.expireAll(1 << 24)
	st.addStatic(Static{ICMP, Addr6{1, 1}, 1, poolAddr + 7, 1})
	st.check()
	if s := st.Stats(); s.Used != 0 || s.BIB != 0 {
		t.Errorf("stats %+v at the end", s)
	}
}

// visitor is a packet from an IPv4 host to a mapped port, at the worker that owns
// the client.
func (st *stress) visitor(shard int, port uint16, server uint32, now Tick) {
	b, ok := st.FindBIB(TCP, poolAddr, port)
	if !ok || b.Owner != shard {
		return
	}
	k := Key64{Client: b.Client, ClientPort: b.ClientPort, Server: server, ServerPort: 7, Proto: TCP}
	se := Session{Key: k, Mapped: poolAddr, MappedPort: port, State: StateV4Init}
	if v := st.Shard(shard).Insert(&se, now); v != OK && v != NoMapping && v != TableFull && v != ClientSessions {
		st.tb.Errorf("visitor: %v", v)
	}
}

// meddle is an operator who cannot keep still.
func (st *stress) meddle(stop *atomic.Bool) {
	r := rand.New(rand.NewPCG(7, 7))
	for !stop.Load() {
		h := &st.flows[r.IntN(len(st.flows))][r.IntN(900)]
		side := h.side.Load()
		s := Static{h.key.Proto, h.key.Client, h.key.ClientPort, uint32(side >> 16), uint16(side)}
		if r.IntN(2) == 0 {
			s.Mapped, s.MappedPort = poolAddr, uint16(1000+r.IntN(800))
		}
		if st.AddStatic(s) == nil && r.IntN(4) != 0 {
			if err := st.RemoveStatic(s.Proto, s.Mapped, s.MappedPort); err != nil {
				st.tb.Error(err)
			}
		}
		to := secondsEach()
		to.UDP += Tick(r.IntN(100))
		st.SetTimeouts(to)
		if r.IntN(64) == 0 {
			st.Flush()
		}
		st.SetClientLimits(ClientLimits{Sessions: r.IntN(3) * 4, Ports: r.IntN(3) * 3})
	}
}
