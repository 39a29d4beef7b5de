package conntrack

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func newTestClients(t *testing.T, sessions int) *clients {
	c, err := newClients(sessions)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return &c
}

// counted is what one goroutine has counted, by client.
type counted map[int][2]int

// Goroutines count and uncount for the same few clients, which come and go all
// the time: nobody gets beyond the limit at any moment, nothing is lost, and in
// the end every place is free.
func TestClientsUnderContention(t *testing.T) {
	const workers, keys, limit = 4, 60, 3
	ops := 300_000
	if testing.Short() {
		ops = 30_000
	}
	c, h := newTestClients(t, 0), newHasher(testSecret, 1)
	var shadow [keys][2]atomic.Int64
	var born, died atomic.Int64
	held := make([]counted, workers)
	var wg sync.WaitGroup
	for w := range workers {
		held[w] = counted{}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range ops {
				key, what := r.IntN(keys), r.IntN(2)
				a, one := Addr6{1, uint64(key)}, [2]uint64{oneSession, onePort}[what]
				n := held[w][key]
				if n[what] > 0 && r.IntN(2) == 0 {
					shadow[key][what].Add(-1)
					if c.give(h.address(a), one) {
						died.Add(1)
					}
					n[what]--
				} else if got, first := c.take(h.address(a), one, limit); got == tallied {
					if first {
						born.Add(1)
					}
					if shadow[key][what].Add(1) > limit {
						t.Errorf("client %d has more than %d", key, limit)
						return
					}
					n[what]++
				} else if got == noPlace {
					t.Errorf("no place for client %d", key)
					return
				}
				held[w][key] = n
			}
		})
	}
	wg.Wait()
	var sum [keys][2]int
	for w := range held {
		for key, n := range held[w] {
			sum[key][0] += n[0]
			sum[key][1] += n[1]
		}
	}
	for key := range keys {
		a := Addr6{1, uint64(key)}
		if s, p := c.has(h.address(a)); s != sum[key][0] || p != sum[key][1] {
			t.Errorf("client %d counts %d and %d, has %v", key, s, p, sum[key])
		}
		for what, one := range [2]uint64{oneSession, onePort} {
			for range sum[key][what] {
				if c.give(h.address(a), one) {
					died.Add(1)
				}
			}
		}
	}
	if born.Load() != died.Load() {
		t.Errorf("%d clients came, %d went", born.Load(), died.Load())
	}
	allFree(t, c)
}

func allFree(t *testing.T, c *clients) {
	t.Helper()
	for i := range c.words {
		if tags := c.words[i].Load() << 16; tags != 0 {
			t.Errorf("bucket %d still has tags %x", i, tags>>16)
		}
	}
	for i := range c.slots {
		if n := c.slots[i].count.Load(); n&(oneLife-1) != clientFree {
			t.Errorf("place %d is still in use: %x", i, n)
		}
	}
}

// A full bucket refuses clients by name, and those that are in it go on.
func TestFullClientsTable(t *testing.T) {
	c, h := newTestClients(t, 0), newHasher(testSecret, 1)
	var in, out []Addr6
	for i := range uint64(1000) {
		a := Addr6{2, i}
		switch got, _ := c.take(h.address(a), oneSession, 5); got {
		case tallied:
			in = append(in, a)
		case noPlace:
			out = append(out, a)
		default:
			t.Fatalf("client %d: %d", i, got)
		}
	}
	if len(in) != len(c.slots) || len(out) == 0 {
		t.Fatalf("%d clients in %d places, %d refused", len(in), len(c.slots), len(out))
	}
	for _, a := range in {
		if got, _ := c.take(h.address(a), onePort, 1); got != tallied {
			t.Fatalf("%v is in the table and was refused: %d", a, got)
		}
		if got, _ := c.take(h.address(a), onePort, 1); got != overLimit {
			t.Fatalf("%v got a second port: %d", a, got)
		}
		c.give(h.address(a), onePort)
		c.give(h.address(a), oneSession)
	}
	allFree(t, c)
	if got, born := c.take(h.address(out[0]), oneSession, 1); got != tallied || !born {
		t.Errorf("no place once all are free: %d", got)
	}
}
