package bench

import (
	"testing"

	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
)

// BenchmarkIdleRound is what a round of a worker takes that finds nothing, with
// handoff on and sessions in the table: under light load, a packet waits for
// half of one before it is seen.
func BenchmarkIdleRound(b *testing.B) {
	r := newRig(b, true)
	defer r.close()
	r.establish(fixture.UDP, dataplane.V6ToV4, 10000)
	b.ReportAllocs()
	for b.Loop() {
		r.worker.Poll(r.clock())
	}
}
