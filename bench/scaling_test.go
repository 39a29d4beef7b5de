package bench

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// BenchmarkScaling compares two workers on two processors with one. Half of
// the flows' packets from clients arrive on each worker's queue, and all that
// comes back arrives on the other worker's, so that each slot is written by one
// worker and every session by both. The two sizes take turns; "x" is the ratio
// of their packets per second, by wall clock. "machine-x" is the same for two
// translators of one worker each that have nothing in common: more than that
// the machine does not give.
func BenchmarkScaling(b *testing.B) {
	if runtime.NumCPU() < 2 {
		b.Fatal("two processors are needed")
	}
	for _, p := range protocols {
		for _, flows := range []int{1000, 65536} {
			b.Run(fmt.Sprintf("%s/flows=%d", p.name, flows), func(b *testing.B) { scaling(b, p.number, flows) })
		}
	}
}

func scaling(b *testing.B, proto uint8, flows int) {
	one, other, two := newTeam(b, 1, proto, flows), newTeam(b, 1, proto, flows), newTeam(b, 2, proto, flows)
	defer one.close()
	defer other.close()
	defer two.close()
	apart := append(slices.Clone(one.workers), other.workers...)
	const round = 1 << 19
	var alone, together, strangers time.Duration
	b.ResetTimer()
	rounds := 0
	for ; rounds == 0 || rounds*round < b.N; rounds++ {
		alone += run(b, one.workers, round)
		together += run(b, two.workers, round)
		strangers += run(b, apart, round)
	}
	b.StopTimer()
	one.check()
	other.check()
	two.check()
	packets := float64(rounds * round)
	b.ReportMetric(float64(alone.Nanoseconds())/packets, "one-ns/op")
	b.ReportMetric(float64(together.Nanoseconds())/packets, "two-ns/op")
	b.ReportMetric(float64(alone)/float64(together), "x")
	b.ReportMetric(float64(alone)/float64(strangers), "machine-x")
}

// team is some workers of one translator, each with a queue of both interfaces.
type team struct {
	tb      testing.TB
	table   *conntrack.Table
	umem    *ring.UMEM
	workers []*dataplane.Worker
	in6     []*memport.Loop
	in4     []*memport.Loop
	clock   func() conntrack.Tick
	opened  dataplane.Counters // when the flows were established
}

// newTeam establishes the flows.
func newTeam(tb testing.TB, n int, proto uint8, flows int) *team {
	tb.Helper()
	t := &team{tb: tb, clock: dataplane.NewClock()}
	const frames, frameSize = 4096, 2048
	var err error
	if t.umem, err = ring.NewUMEM(n*frames, frameSize); err != nil {
		tb.Fatal(err)
	}
	cfg := tableConfig(t.clock())
	cfg.Shards = n
	if t.table, _, err = conntrack.New(cfg); err != nil {
		tb.Fatal(err)
	}
	group := dataplane.NewGroup(n)
	for i := range n {
		free := ring.NewFrameStack(n*frames, frameSize)
		for f := range frames {
			free.Push(uint64((i*frames + f) * frameSize))
		}
		t.in6 = append(t.in6, memport.NewLoop("ipv6", t.umem, free, nil, 1024))
		t.in4 = append(t.in4, memport.NewLoop("ipv4", t.umem, free, nil, 1024))
		w, err := dataplane.NewWorker(dataplane.Config{
			ID: i, Table: t.table, Shard: t.table.Shard(i), Hops: hops(), UMEM: t.umem, Frames: free,
			Ports: [2][]ring.Port{{t.in6[i]}, {t.in4[i]}}, Group: group, Rules: rules(), Seed: 64,
		})
		if err != nil {
			tb.Fatal(err)
		}
		t.workers = append(t.workers, w)
	}
	t.establish(proto, flows)
	return t
}

// establish opens the flows and gives every port its part of their packets.
func (t *team) establish(proto uint8, flows int) {
	const syn, ack = conntrack.FlagSYN, conntrack.FlagACK
	n := len(t.workers)
	t.sources(t.in6, clientPackets(proto, syn, flows), 0)
	for t.table.Stats().Used < uint64(flows) {
		for _, w := range t.workers {
			w.Poll(t.clock())
		}
	}
	t.sources(t.in6, nil, 0)
	r := &rig{tb: t.tb, table: t.table}
	if proto == fixture.TCP {
		t.sources(t.in4, r.answers(proto, syn|ack, flows), 1)
		for got := 0; got < n*flows; { // every worker has its part at least once
			for _, w := range t.workers {
				got += w.Poll(t.clock())
			}
		}
	}
	t.sources(t.in6, clientPackets(proto, ack, flows), 0)
	t.sources(t.in4, r.answers(proto, ack, flows), 1)
	run(t.tb, t.workers, n*flows)
	t.opened = dataplane.Totals(t.workers)
}

// sources deals packets to ports in turn, the first one to the port of the
// number given.
func (t *team) sources(ports []*memport.Loop, packets [][]byte, first int) {
	n := len(ports)
	for i, p := range ports {
		var mine [][]byte
		for f := (i - first + n) % n; f < len(packets); f += n {
			mine = append(mine, packets[f])
		}
		p.SetSource(nil)
		if len(mine) > 0 {
			p.SetSource(memport.Cycle(mine...))
		}
	}
}

// run takes that many packets through workers together, an equal part each, on
// a processor of its own each, and tells how long it took.
func run(tb testing.TB, workers []*dataplane.Worker, packets int) time.Duration {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i, w := range workers {
		clock := dataplane.NewClock()
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			var set unix.CPUSet
			set.Set(i)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				tb.Errorf("pin to CPU %d: %v", i, err)
			}
			ready.Done()
			<-start
			for got := 0; got < packets/len(workers); {
				got += w.Poll(clock())
			}
		})
	}
	ready.Wait()
	began := time.Now()
	close(start)
	done.Wait()
	return time.Since(began)
}

// check fails the benchmark unless all packets since the flows were
// established were translated, in both directions alike.
func (t *team) check() {
	t.tb.Helper()
	sum := dataplane.Totals(t.workers)
	if diff, ok := sum.Balanced(); !ok || sum.Drops != t.opened.Drops {
		t.tb.Fatalf("%d packets are not accounted for, %d and %d translated", diff, sum.Translated[0], sum.Translated[1])
	}
	if up, down := sum.Translated[0]-t.opened.Translated[0], sum.Translated[1]-t.opened.Translated[1]; up == 0 || up != down {
		t.tb.Fatalf("%d packets translated to IPv4, %d to IPv6", up, down)
	}
}

func (t *team) close() {
	for _, w := range t.workers {
		if err := w.Close(); err != nil {
			t.tb.Error(err)
		}
	}
	if err := t.table.Close(); err != nil {
		t.tb.Error(err)
	}
	if err := t.umem.Close(); err != nil {
		t.tb.Error(err)
	}
}
