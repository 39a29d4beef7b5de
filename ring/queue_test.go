package ring_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"handoff64/ring"
)

// record is larger than a word and carries a redundancy, so that a slot read
// before it was written completely shows.
type record struct{ seq, notSeq, producer uint64 }

func newRecord(producer, seq uint64) record { return record{seq, ^seq, producer} }

// stressItems is how many elements cross each ring; the race detector makes
// every one of them some ten times dearer.
const stressItems = 2_000_000

func TestSPSCKeepsOrderUnderStress(t *testing.T) {
	for _, capacity := range []int{1, 2, 64, 1000} {
		q := ring.NewSPSC[record](capacity)
		done := make(chan struct{})
		go func() {
			defer close(done)
			produceSPSC(q, stressItems/2)
		}()
		consumeSPSC(t, q, stressItems/2)
		<-done
		if n := q.Len(); n != 0 {
			t.Errorf("capacity %d: %d elements left over", capacity, n)
		}
	}
}

// produceSPSC mixes single pushes with batches of random length.
func produceSPSC(q *ring.SPSC[record], count uint64) {
	rng := rand.New(rand.NewPCG(1, 2))
	batch := make([]record, 100)
	for seq := uint64(0); seq < count; {
		n := min(uint64(rng.IntN(len(batch))), count-seq)
		for i := range n {
			batch[i] = newRecord(0, seq+i)
		}
		taken := uint64(q.PushBatch(batch[:n]))
		seq += taken
		if seq < count && q.Push(newRecord(0, seq)) {
			seq++
		} else if taken == 0 {
			runtime.Gosched()
		}
	}
}

func consumeSPSC(t *testing.T, q *ring.SPSC[record], count uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	batch := make([]record, 100)
	for seq := uint64(0); seq < count; {
		n := q.PopBatch(batch[:rng.IntN(len(batch))])
		if v, ok := q.Pop(); ok {
			batch = append(batch[:n], v)
			n++
		}
		for _, v := range batch[:n] {
			if v != newRecord(0, seq) {
				t.Fatalf("element %d came as %+v", seq, v)
			}
			seq++
		}
		batch = batch[:100]
		if n == 0 {
			runtime.Gosched()
		}
	}
}

func TestSPSCRefusesWhenFullAndEmpty(t *testing.T) {
	q := ring.NewSPSC[int](3)
	if q.Cap() != 4 {
		t.Fatalf("capacity 3 became %d, want the next power of two", q.Cap())
	}
	if n := q.PushBatch([]int{1, 2, 3, 4, 5}); n != 4 {
		t.Fatalf("an empty ring of 4 took %d of 5", n)
	}
	if q.Push(6) {
		t.Fatal("a full ring took another element")
	}
	got := make([]int, 8)
	if n := q.PopBatch(got); n != 4 || got[0] != 1 || got[3] != 4 {
		t.Fatalf("popped %d: %v", n, got)
	}
	if v, ok := q.Pop(); ok {
		t.Fatalf("an empty ring gave %d", v)
	}
}

func TestSPSCLetsGoOfWhatItHeld(t *testing.T) {
	q := ring.NewSPSC[*[1 << 20]byte](2)
	freed := make(chan struct{})
	v := new([1 << 20]byte)
	runtime.AddCleanup(v, func(c chan struct{}) { close(c) }, freed)
	q.Push(v)
	v = nil
	q.Pop()
	runtime.GC()
	<-freed // the test's own time limit reports a ring that keeps it alive
	runtime.KeepAlive(q)
}

func TestMPSCUnderStress(t *testing.T) {
	const producers = 4
	for _, capacity := range []int{1, 8, 256} {
		q := ring.NewMPSC[record](capacity)
		var wg sync.WaitGroup
		for p := range uint64(producers) {
			wg.Go(func() {
				for seq := uint64(0); seq < stressItems/8; {
					if q.Push(newRecord(p, seq)) {
						seq++
					} else {
						runtime.Gosched()
					}
				}
			})
		}
		var next [producers]uint64
		for range producers * stressItems / 8 {
			v, ok := q.Pop()
			for !ok {
				runtime.Gosched()
				v, ok = q.Pop()
			}
			// Each producer's elements stay in its order, none twice, none lost.
			if v != newRecord(v.producer, next[v.producer]) {
				t.Fatalf("producer %d: want element %d, got %+v", v.producer, next[v.producer], v)
			}
			next[v.producer]++
		}
		wg.Wait()
		if v, ok := q.Pop(); ok {
			t.Fatalf("an element too many: %+v", v)
		}
	}
}

func TestMPSCRefusesWhenFull(t *testing.T) {
	q := ring.NewMPSC[int](4)
	for round := range 3 {
		for i := range 4 {
			if !q.Push(i) {
				t.Fatalf("round %d: push %d of 4 refused", round, i)
			}
		}
		if q.Push(9) {
			t.Fatalf("round %d: a full ring took another element", round)
		}
		for i := range 4 {
			if v, ok := q.Pop(); !ok || v != i {
				t.Fatalf("round %d: got %d, %v; want %d", round, v, ok, i)
			}
		}
	}
}

func TestQueuesDoNotAllocate(t *testing.T) {
	s, m := ring.NewSPSC[record](64), ring.NewMPSC[record](64)
	batch := make([]record, 32)
	n := testing.AllocsPerRun(1000, func() {
		s.Push(record{})
		s.PushBatch(batch)
		s.PopBatch(batch)
		s.Pop()
		m.Push(record{})
		m.Pop()
	})
	if n != 0 {
		t.Errorf("%v allocations per round, want none", n)
	}
}

func BenchmarkSPSC(b *testing.B) {
	q := ring.NewSPSC[record](1024)
	done := make(chan struct{})
	go func() {
		defer close(done)
		batch := make([]record, 32)
		for left := b.N; left > 0; {
			n := q.PushBatch(batch[:min(left, len(batch))])
			left -= n
			if n == 0 {
				runtime.Gosched()
			}
		}
	}()
	batch := make([]record, 32)
	for left := b.N; left > 0; {
		n := q.PopBatch(batch)
		left -= n
		if n == 0 {
			runtime.Gosched()
		}
	}
	<-done
}
