package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/pprof"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/ring/memport"
)

// slices of a paired benchmark are this many packets long.
const slicePackets = 1 << 20

// BenchmarkWatched compares a worker that is watched with one that is not: the
// profile endpoint is open and a processor profile is being taken, and the
// counters of worker and table are read and shown ten times a second, each by a
// client of its own. Counting itself cannot be switched off; what publishing the
// counters costs is in the last column of BenchmarkSteps. Slices take turns; "watched/alone" is the ratio of the
// worker's processor time.
func BenchmarkWatched(b *testing.B) {
	for _, flows := range []int{1000, 65536} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			r := newRig(b, false)
			defer r.close()
			load := r.establish(fixture.UDP, dataplane.V6ToV4, flows)
			var alone, watched stopwatch
			b.ResetTimer()
			paired(b, func() {
				r.slice(b, &alone, load)
			}, func() {
				stop := watch(b, r)
				r.slice(b, &watched, load)
				stop()
			})
			b.ReportMetric(float64(watched.total)/float64(alone.total), "watched/alone")
		})
	}
}

// BenchmarkNotifications compares handoff on with handoff off, at a hundred
// thousand new sessions a second among packets of established ones, as fast as
// they go. The handoff worker's place takes somebody who sleeps and is woken as
// it does, and takes the notifications, on another processor: what is measured
// is the packet worker.
func BenchmarkNotifications(b *testing.B) {
	const flows, perSecond = 65536, 100_000
	off := newRigWith(b, false, func(c *conntrack.Config) { c.Entries = maxFlows }) // tables as large as with handoff
	on := newRig(b, true)
	defer off.close()
	defer on.close()
	stop := listen(on.handoff)
	defer stop()
	old := off.establish(fixture.UDP, dataplane.V6ToV4, flows)
	var calibration stopwatch
	off.slice(b, &calibration, old)
	every := max(int(time.Second/time.Duration(perSecond)*slicePackets/calibration.total), 1) // packets for each new session
	on.establish(fixture.UDP, dataplane.V6ToV4, flows)
	loads := [2]memport.Source{mixed(flows, every), mixed(flows, every)}
	var times [2]stopwatch
	sessions := 0
	b.ResetTimer()
	paired(b, func() {
		off.slice(b, &times[0], loads[0])
	}, func() {
		on.slice(b, &times[1], loads[1])
		if sessions += slicePackets / every; sessions > maxFlows/2 { // before the table is full
			sessions = 0
			for _, r := range []*rig{off, on} {
				r.table.Flush()
				for r.table.Stats().Used > 0 {
					r.worker.Poll(r.clock())
				}
			}
		}
	})
	if lost := on.worker.Counters().NotifyLost; lost != 0 {
		b.Fatalf("%d notifications were lost", lost)
	}
	b.ReportMetric(float64(every), "packets/session")
	b.ReportMetric(float64(times[1].total)/float64(times[0].total), "on/off")
}

// paired calls two functions in turn, for slices of b.N packets in all.
func paired(b *testing.B, first, second func()) {
	for done := 0; done == 0 || done < b.N; done += slicePackets {
		first()
		second()
	}
}

// slice takes its packets through the worker, timed.
func (r *rig) slice(b *testing.B, watch *stopwatch, load memport.Source) {
	pin(b, 0)
	r.in6.SetSource(load)
	watch.start(b)
	for got := 0; got < slicePackets; {
		got += r.worker.Poll(r.clock())
	}
	watch.stop(b)
	r.in6.SetSource(nil)
}

func pin(b *testing.B, cpu int) {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		b.Fatalf("pin to CPU %d: %v", cpu, err)
	}
}

// mixed is packets of established flows in turn with the first packet of a new
// one after each so many.
func mixed(flows, every int) memport.Source {
	old := memport.Cycle(clientPackets(fixture.UDP, 0, flows)...)
	fresh := memport.Cycle(clientPackets(fixture.UDP, 0, maxFlows)[flows:]...)
	n := 0
	return func(room []byte) int {
		if n++; n >= every {
			n = 0
			return fresh(room)
		}
		return old(room)
	}
}

// watch serves what watchers of a daemon ask for and asks for it.
func watch(b *testing.B, r *rig) (stop func()) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%+v\n%+v\n", dataplane.Totals([]*dataplane.Worker{r.worker}), r.table.Stats())
	})
	server := httptest.NewServer(mux)
	ctx, cancel := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for path, pause := range map[string]time.Duration{"/debug/pprof/profile?seconds=1": 0, "/metrics": 100 * time.Millisecond} {
		clients.Go(func() {
			for ctx.Err() == nil {
				fetch(ctx, b, server.URL+path)
				time.Sleep(pause)
			}
		})
	}
	time.Sleep(50 * time.Millisecond) // the profile is being taken
	return func() {
		cancel()
		clients.Wait()
		server.Close()
	}
}

func fetch(ctx context.Context, b *testing.B, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		b.Error(err)
		return
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() == nil {
			b.Error(err)
		}
		return
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil && ctx.Err() == nil {
		b.Error(err)
	}
}

// listen takes notifications as the handoff worker does: it sleeps until it is
// woken, and looks once more before it sleeps.
func listen(h *dataplane.Handoff) (stop func()) {
	wake := make(chan struct{}, 1)
	var asleep atomic.Bool
	h.Wake = func() {
		if asleep.Load() && asleep.CompareAndSwap(true, false) {
			wake <- struct{}{}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		round := make([]conntrack.ToServer, 64)
		for {
			for h.Out.PopBatch(round) > 0 {
			}
			asleep.Store(true)
			if h.Out.Len() > 0 && asleep.CompareAndSwap(true, false) {
				continue
			}
			select {
			case <-wake:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); done.Wait() }
}
