package bench

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopwatch runs beside a benchmark's own timer and counts the processor time
// of its thread: on a machine that is not idle, what others take of the
// processor counts in ns/op but not here. What they leave of the caches does.
// Owned by the benchmark's goroutine; the zero value is stopped at zero.
type stopwatch struct {
	total, started time.Duration
}

// start resumes both timers. The goroutine keeps its thread from now on.
func (s *stopwatch) start(b *testing.B) {
	runtime.LockOSThread()
	b.StartTimer()
	s.started = threadTime(b)
}

func (s *stopwatch) stop(b *testing.B) {
	s.total += threadTime(b) - s.started
	b.StopTimer()
}

func threadTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatalf("processor time of the thread: %v", err)
	}
	return time.Duration(t.Nano())
}

// perOp is the processor time of one operation, in nanoseconds.
func (s *stopwatch) perOp(b *testing.B) float64 {
	return float64(s.total.Nanoseconds()) / float64(b.N)
}
