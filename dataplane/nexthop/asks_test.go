package nexthop

import (
	"sync"
	"testing"
)

func TestAskTable(t *testing.T) {
	var table askTable
	for range 3 {
		for i := range uint64(100) {
			for _, q := range []Question{{IPv4, 0, i}, {IPv6, 0, i}, {IPv6, i + 1, i}} {
				if !table.put(q) {
					t.Fatalf("no room for %v", q)
				}
			}
		}
	}
	got := make(map[Question]int)
	table.take(func(q Question) { got[q]++ })
	if len(got) != 300 {
		t.Errorf("%d questions, want 300", len(got))
	}
	for q, n := range got {
		if n != 1 {
			t.Errorf("%v taken %d times", q, n)
		}
	}
	table.take(func(q Question) { t.Errorf("%v taken again", q) })
}

func TestAskTableIsBounded(t *testing.T) {
	var table askTable
	const offered = 100_000
	accepted := 0
	for i := range uint64(offered) {
		if table.put(Question{IPv6, 1, i}) {
			accepted++
		}
	}
	taken := 0
	table.take(func(Question) { taken++ })
	if taken != accepted || accepted > askSlots || accepted < askSlots*9/10 {
		t.Errorf("%d accepted, %d taken, room for %d", accepted, taken, askSlots)
	}
	if !table.put(Question{IPv6, 1, 1}) {
		t.Error("no room after all were taken")
	}
}

// TestAskTableConcurrent: what is accepted from many workers arrives, and
// nothing else does.
func TestAskTableConcurrent(t *testing.T) {
	const workers, perWorker = 4, 100_000
	var table askTable
	var running sync.WaitGroup
	accepted := make([]map[Question]bool, workers)
	for w := range workers {
		accepted[w] = make(map[Question]bool)
		running.Go(func() {
			for i := range uint64(perWorker) {
				own := Question{IPv6, uint64(w), i}
				if table.put(own) {
					accepted[w][own] = true
				}
				table.put(Question{IPv4, 0, i % 7}) // one that all ask
			}
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	taken := make(map[Question]int)
	for last := false; !last; {
		select {
		case <-done:
			last = true
		default:
		}
		table.take(func(q Question) { taken[q]++ })
	}
	own := 0
	for q, n := range taken {
		switch {
		case q.Side == IPv4 && q.Hi == 0 && q.Lo < 7:
		case n != 1 || !accepted[q.Hi][q]:
			t.Fatalf("%v: taken %d times, accepted: %v", q, n, accepted[q.Hi][q])
		default:
			own++
		}
	}
	want := 0
	for _, a := range accepted {
		want += len(a)
	}
	if own != want || own == 0 {
		t.Errorf("%d questions arrived, %d were accepted", own, want)
	}
}
