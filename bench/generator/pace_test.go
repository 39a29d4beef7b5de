package generator

import (
	"math"
	"math/rand/v2"
	"testing"
)

// drive runs a pace by a clock that advances irregularly, and returns what was
// sent until its end, and the largest burst.
func drive(t *testing.T, p *pace, step func() int64) (sent uint64, burst int) {
	t.Helper()
	now := p.start
	for range 10_000_000 {
		n, more := p.due(now)
		if n < 0 || n > maxBurst {
			t.Fatalf("%d packets are due", n)
		}
		p.sent(n)
		sent += uint64(n)
		burst = max(burst, n)
		if n == 0 && !more {
			return sent, burst
		}
		now += step()
	}
	t.Fatal("no end")
	return
}

// TestPaceIsExact: over its duration a pace gives rate times duration, however
// the clock advances, as long as it is never held up for long.
func TestPaceIsExact(t *testing.T) {
	const second = 1_000_000_000
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		rate float64
		step int64
	}{{1, 1_900_000}, {1000, 500_000}, {123_456, 100_000}, {1e6, 20_000}, {14.88e6, 1_000}} {
		p := newPace(c.rate, 12345, second, 0)
		sent, burst := drive(t, &p, func() int64 { return r.Int64N(c.step) + 1 })
		if want := uint64(math.Floor(c.rate)); sent != want || p.missed != 0 {
			t.Errorf("%v packets/s: %d sent and %d missed in a second", c.rate, sent, p.missed)
		}
		if most := int(c.rate*float64(c.step)/second) + 1; burst > most {
			t.Errorf("%v packets/s, asked every %d ns at least: a burst of %d", c.rate, c.step, burst)
		}
	}
}

// TestPaceIsSmooth: at no time is more sent than the rate allows.
func TestPaceIsSmooth(t *testing.T) {
	p := newPace(1e6, 0, 0, 0)
	total := 0
	for now := int64(0); now < 10_000_000; now += 700 {
		n, _ := p.due(now)
		p.sent(n)
		if total += n; total != int(now/1000) {
			t.Fatalf("%d sent after %d ns", total, now)
		}
	}
}

// TestPaceAfterAPause: what is overdue for more than 2 ms is missed, not sent
// in a flood.
func TestPaceAfterAPause(t *testing.T) {
	p := newPace(1e6, 0, 0, 0)
	sent := 0
	for range 1000 {
		n, _ := p.due(50_000_000)
		p.sent(n)
		sent += n
	}
	if sent != 2000 || p.missed != 48_000 {
		t.Errorf("%d sent and %d missed after a pause of 50 ms", sent, p.missed)
	}
}

// TestPaceSendsANumber: after a pause the same number is sent, only later.
func TestPaceSendsANumber(t *testing.T) {
	p := newPace(1e6, 0, 0, 10_000)
	calls := 0
	sent, _ := drive(t, &p, func() int64 {
		if calls++; calls == 50 {
			return 100_000_000
		}
		return 5000
	})
	if sent != 10_000 || p.missed < 97_000 || p.missed > 98_000 {
		t.Errorf("%d sent, %d missed", sent, p.missed)
	}
}

// TestPaceWhatIsNotTaken: what the TX ring refused stays due.
func TestPaceWhatIsNotTaken(t *testing.T) {
	p := newPace(1e6, 0, 100_000, 0)
	for range 5 {
		if n, more := p.due(200_000); n != maxBurst || !more {
			t.Fatalf("%d are due, more: %v", n, more)
		}
	}
	p.sent(40)
	if n, more := p.due(200_000); n != 60 || more {
		t.Errorf("%d are due, more: %v", n, more)
	}
}

func TestPaceLimits(t *testing.T) {
	for _, rate := range []float64{0, 1e6} {
		p := newPace(rate, 0, 0, 1000)
		if sent, _ := drive(t, &p, func() int64 { return 5000 }); sent != 1000 {
			t.Errorf("rate %v: %d sent of 1000", rate, sent)
		}
	}
	p := newPace(0, 0, 1000, 0) // as many as possible, for a microsecond
	if sent, burst := drive(t, &p, func() int64 { return 100 }); sent != 10*maxBurst || burst != maxBurst {
		t.Errorf("%d sent, %d at once", sent, burst)
	}
}
