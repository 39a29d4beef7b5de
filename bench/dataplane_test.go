package bench

import (
	"fmt"
	"testing"

	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/ring/memport"
)

var flowCounts = []int{1, 1000, 65536, maxFlows}

var protocols = []struct {
	name   string
	number uint8
}{{"udp", fixture.UDP}, {"tcp", fixture.TCP}}

var directions = []struct {
	name string
	dir  dataplane.Direction
}{{"64", dataplane.V6ToV4}, {"46", dataplane.V4ToV6}}

// BenchmarkDataplane takes packets of established flows, in turn, through a
// whole worker, from the RX burst to the TX burst. ns/op is for one packet and
// includes gen-ns/op, which is what the ports and the load cost without one;
// cpu-ns/op is the same without the time that others had the processor.
func BenchmarkDataplane(b *testing.B) { dataplaneMatrix(b, false) }

// BenchmarkDataplaneHandoff is the same with handoff switched on: notifications
// went out when the flows began, and echoes and new flows would ask servers.
func BenchmarkDataplaneHandoff(b *testing.B) { dataplaneMatrix(b, true) }

func dataplaneMatrix(b *testing.B, handoff bool) {
	for _, p := range protocols {
		b.Run(p.name, func(b *testing.B) {
			for _, d := range directions {
				b.Run(d.name, func(b *testing.B) {
					for _, n := range flowCounts {
						established(b, handoff, p.number, d.dir, n)
					}
				})
			}
		})
	}
}

// established runs one benchmark. The flows are opened once, however often the
// testing package calls the function to find its b.N.
func established(b *testing.B, handoff bool, proto uint8, dir dataplane.Direction, flows int) {
	var r *rig
	var load memport.Source
	var generation float64
	b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
		if r == nil {
			r = newRig(b, handoff)
			load = r.establish(proto, dir, flows)
			generation = r.generation(load)
		}
		in := r.in6
		if dir == dataplane.V4ToV6 {
			in = r.in4
		}
		in.SetSource(load)
		before := r.worker.Counters()
		var cpu stopwatch
		b.ReportAllocs()
		b.ResetTimer()
		cpu.start(b)
		for i := 0; i < b.N; {
			i += r.worker.Poll(r.clock())
		}
		cpu.stop(b)
		in.SetSource(nil)
		r.translated(before, dir)
		report(b, &cpu, generation)
	})
	if r != nil {
		r.close()
	}
}

func report(b *testing.B, cpu *stopwatch, generation float64) {
	b.ReportMetric(float64(b.N)*1e3/float64(b.Elapsed().Nanoseconds()), "Mpps")
	b.ReportMetric(cpu.perOp(b), "cpu-ns/op")
	b.ReportMetric(generation, "gen-ns/op")
}
