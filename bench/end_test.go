package bench

import (
	"testing"

	"handoff64/conntrack"
	"handoff64/dataplane/fixture"
	"handoff64/ring/memport"
)

// BenchmarkExpire is the end of sessions whose lifetime is over: a million are
// opened, which is not timed, then the clock jumps and the worker has nothing
// else to do.
func BenchmarkExpire(b *testing.B) {
	for _, c := range []struct {
		name  string
		flows int
	}{{"udp", maxFlows}, {"udp-few", 10240}} {
		b.Run(c.name, func(b *testing.B) {
			e := newEnding(b, fixture.UDP, c.flows)
			defer e.close()
			e.run(b, e.expire)
		})
	}
}

// BenchmarkTeardown is the end of sessions by what ends them sooner: a
// reset by the client and the transitory lifetime, a FIN of either end and that
// lifetime, or a flush. ns/op is for one session, packets included.
func BenchmarkTeardown(b *testing.B) {
	b.Run("rst", func(b *testing.B) {
		e := newEnding(b, fixture.TCP, maxFlows)
		defer e.close()
		e.run(b, func() {
			e.play(e.in6, e.packets6, e.flows, e.now)
			e.expire()
		})
	})
	b.Run("fin", func(b *testing.B) {
		e := newEnding(b, fixture.TCP, maxFlows)
		defer e.close()
		e.flags6 = conntrack.FlagFIN | conntrack.FlagACK
		e.answer = true
		e.run(b, func() {
			e.play(e.in6, e.packets6, e.flows, e.now)
			e.play(e.in4, e.packets4, e.flows, e.now)
			e.expire()
		})
	})
	b.Run("flush", func(b *testing.B) {
		e := newEnding(b, fixture.UDP, maxFlows)
		defer e.close()
		e.run(b, func() {
			e.table.Flush()
			e.drain()
		})
	})
}

// ending opens sessions over and over, for a benchmark to end them.
type ending struct {
	*rig
	proto    uint8
	flags6   uint8 // of what the client ends its connection with
	answer   bool  // the server says FIN, too
	flows    int
	now      conntrack.Tick
	opening  memport.Source
	packets6 memport.Source
	packets4 memport.Source
}

func newEnding(b *testing.B, proto uint8, flows int) *ending {
	r := newRig(b, false)
	return &ending{rig: r, proto: proto, flows: flows, flags6: conntrack.FlagRST, now: r.clock(), opening: memport.Cycle(clientPackets(proto, conntrack.FlagSYN, flows)...)}
}

// run times end for b.N sessions, in rounds of as many as there are flows.
func (e *ending) run(b *testing.B, end func()) {
	if e.proto == fixture.TCP {
		e.packets6 = memport.Cycle(clientPackets(e.proto, e.flags6, e.flows)...)
	}
	e.open()
	before := e.worker.Counters()
	var cpu stopwatch
	b.ReportAllocs()
	b.ResetTimer()
	rounds := 0
	for ; rounds == 0 || rounds*e.flows < b.N; rounds++ {
		if rounds > 0 {
			b.StopTimer()
			e.open()
		}
		cpu.start(b)
		end()
		cpu.stop(b)
		if used := e.table.Stats().Used; used != 0 {
			b.Fatalf("%d sessions are left", used)
		}
	}
	after := e.worker.Counters()
	if diff, ok := after.Balanced(); !ok || after.Drops != before.Drops {
		b.Fatalf("%d packets are not accounted for; drops: %v", diff, e.dropped())
	}
	sessions := float64(rounds * e.flows)
	b.ReportMetric(float64(cpu.total.Nanoseconds())/sessions, "cpu-ns/op")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/sessions, "ns/op")
	b.ReportMetric(sessions*1e3/float64(b.Elapsed().Nanoseconds()), "Msessions/s")
}

// open fills the table. TCP connections are established from both sides.
func (e *ending) open() {
	e.play(e.in6, e.opening, e.flows, e.now)
	if e.proto == fixture.TCP {
		e.play(e.in4, memport.Cycle(e.answers(e.proto, conntrack.FlagSYN|conntrack.FlagACK, e.flows)...), e.flows, e.now)
	}
	if e.answer {
		e.packets4 = memport.Cycle(e.answers(e.proto, conntrack.FlagFIN|conntrack.FlagACK, e.flows)...)
	}
	if used := e.table.Stats().Used; used != uint64(e.flows) {
		e.tb.Fatalf("%d sessions of %d flows; drops: %v", used, e.flows, e.dropped())
	}
}

// expire lets the longest of the lifetimes that are not an established
// connection's pass, and drains.
func (e *ending) expire() {
	e.now += e.longest()
	e.drain()
}

func (e *ending) longest() conntrack.Tick {
	to := conntrack.DefaultTimeouts()
	return max(to.UDP, to.TCPTransitory)
}

// drain polls until no session is left.
func (e *ending) drain() {
	for e.table.Stats().Used > 0 {
		e.worker.Poll(e.now)
	}
}

// play takes one packet of each flow through the worker.
func (e *ending) play(in *memport.Loop, s memport.Source, n int, now conntrack.Tick) {
	in.SetSource(s)
	e.pollMany(n, now)
	in.SetSource(nil)
}
