package bench

import (
	"math/rand/v2"
	"testing"
)

// keep is what calibration results go to, so that the compiler must make them.
var keep uint64

// BenchmarkCalibration measures the machine, not the project: a load that has
// to wait for the one before, at random over 64 MiB, and the copy of 64 octets
// within the first cache. Results of different days and machines compare as
// multiples of these.
func BenchmarkCalibration(b *testing.B) {
	b.Run("load-64MiB", func(b *testing.B) {
		const n = 64 << 20 / 8
		next := make([]uint64, n)
		for i := range next {
			next[i] = uint64(i)
		}
		r := rand.New(rand.NewPCG(64, 46))
		for i := n - 1; i > 0; i-- { // Sattolo's shuffle: one cycle through all
			j := r.IntN(i)
			next[i], next[j] = next[j], next[i]
		}
		at := uint64(0)
		var cpu stopwatch
		b.ResetTimer()
		cpu.start(b)
		for range b.N {
			at = next[at]
		}
		cpu.stop(b)
		b.ReportMetric(cpu.perOp(b), "cpu-ns/op")
		keep += at
	})
	b.Run("copy-64", func(b *testing.B) {
		var from, to [64][64]byte
		var cpu stopwatch
		cpu.start(b)
		for i := range b.N {
			to[i&63] = from[(i+1)&63]
		}
		cpu.stop(b)
		b.ReportMetric(cpu.perOp(b), "cpu-ns/op")
		keep += uint64(to[1][1])
	})
}
