package dataplane

import "testing"

// A reader sees a worker's counters as they stood at the end of one round,
// however busy the worker is.
func TestCountersAreReadWhole(t *testing.T) {
	var c counters
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20_000 {
			c.RxPackets[IPv4]++
			c.Generated++
			if i%3 == 0 {
				c.drop(DropTTL)
			} else {
				c.Translated[V4ToV6]++
			}
			c.Passed[IPv4]++
			c.publish()
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		got := c.load()
		if diff, ok := got.Balanced(); !ok {
			t.Fatalf("off by %d: %+v", diff, got)
		}
	}
}

// Packets on their way between workers are counted once, whichever worker was
// read before and whichever after they changed hands.
func TestHandoversAddUp(t *testing.T) {
	r := newRig(t, setup{workers: 2})
	before := [2]Counters{r.workers[0].Counters(), r.workers[1].Counters()}
	for port := range 20 {
		r.in6[0].Inject(udp6(t, clientA, 4000+port, serverA, 7000, nil))
	}
	balanced := func(when string, a, b Counters) {
		a.Add(&b)
		if diff, ok := a.Balanced(); !ok {
			t.Errorf("%s: off by %d: %+v", when, diff, a)
		}
	}
	r.workers[0].Poll(r.now)
	gave := r.workers[0].Counters()
	if gave.Parked == 0 {
		t.Fatal("nothing was handed over")
	}
	balanced("given", gave, before[1])
	r.workers[1].Poll(r.now)
	took := r.workers[1].Counters()
	balanced("taken", gave, took)
	balanced("taken, the giver read before", before[0], took)
	r.poll() // the frames given in exchange come home
	if sum := Totals(r.workers); sum.Parked != 0 || sum.Translated[V6ToV4] != 20 {
		t.Errorf("in the end %d are parked and %d translated, want 0 and 20", sum.Parked, sum.Translated[V6ToV4])
	}
}
