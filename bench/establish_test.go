package bench

import (
	"testing"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/ring/memport"
)

// BenchmarkEstablish is one new session per packet: both slots, a mapping with
// a port of its own, timers. The table fills up to a million sessions; when it
// is full it is emptied, which is not timed.
func BenchmarkEstablish(b *testing.B) {
	plain := func(*conntrack.Config) {}
	b.Run("udp", func(b *testing.B) { establish(b, fixture.UDP, false, maxFlows, plain) })
	// With ten thousand sessions at most the tables stay within the cache.
	b.Run("udp-few", func(b *testing.B) { establish(b, fixture.UDP, false, 10240, plain) })
	b.Run("tcp", func(b *testing.B) { establish(b, fixture.TCP, false, maxFlows, plain) })
	// A notification for each session goes into the ring to the handoff worker.
	b.Run("udp-handoff", func(b *testing.B) { establish(b, fixture.UDP, true, maxFlows, plain) })
	// Events about sessions go through the ring to the log.
	b.Run("udp-log", func(b *testing.B) {
		establish(b, fixture.UDP, false, maxFlows, func(c *conntrack.Config) { c.LogSessions = true })
	})
	// Sessions and ports are counted against limits of their clients.
	b.Run("udp-limits", func(b *testing.B) {
		establish(b, fixture.UDP, false, maxFlows, func(c *conntrack.Config) {
			c.PerClient = conntrack.ClientLimits{Sessions: maxFlows, Ports: conntrack.MaxPortsPerClient}
		})
	})
}

func establish(b *testing.B, proto uint8, handoff bool, flows int, change func(*conntrack.Config)) {
	r := newRigWith(b, handoff, change)
	defer r.close()
	packets := make([][]byte, flows)
	for f := range packets {
		packets[f] = fixture.Flow(f).Packet6(proto, conntrack.FlagSYN)
	}
	load := memport.Cycle(packets...)
	generation := r.generation(load) // ends where it began: whole turns for any power of two
	// The clock jumps when the table is emptied, and never goes back.
	now := r.clock()
	r.in6.SetSource(load)
	r.pollMany(flows, now) // the first use of a page is the kernel's work
	now = r.empty(load, now)
	before := r.worker.Counters()
	var cpu stopwatch
	b.ReportAllocs()
	b.ResetTimer()
	cpu.start(b)
	for i, inTable := 0, 0; i < b.N; {
		if inTable == flows {
			cpu.stop(b)
			now = r.empty(load, now)
			inTable = 0
			cpu.start(b)
		}
		n := r.worker.Poll(now)
		r.hear()
		i, inTable = i+n, inTable+n
	}
	cpu.stop(b)
	r.in6.SetSource(nil)
	r.translated(before, dataplane.V6ToV4)
	if s := r.table.Stats(); s.Created < uint64(b.N) {
		b.Fatalf("%d sessions created by %d packets", s.Created, b.N)
	}
	report(b, &cpu, generation)
	b.ReportMetric(float64(b.N)*1e3/float64(b.Elapsed().Nanoseconds()), "Msessions/s")
}

func (r *rig) pollMany(n int, now conntrack.Tick) {
	for got := 0; got < n; {
		got += r.worker.Poll(now)
		r.hear()
	}
}

// empty lets every session expire, and returns the time it is then.
func (r *rig) empty(load memport.Source, now conntrack.Tick) conntrack.Tick {
	r.in6.SetSource(nil)
	for r.table.Stats().Used > 0 {
		now++
		r.worker.Poll(now)
	}
	r.in6.SetSource(load)
	return now
}
