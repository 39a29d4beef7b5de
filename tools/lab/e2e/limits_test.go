package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"handoff64/tools/lab"
)

// crowd opens UDP sockets from consecutive ports of the client, so that both
// parities occur, and sends one datagram over each. It returns those that were
// answered and the number of the others.
func (w *world) crowd(n int, firstPort int) (served []net.Conn, refused int) {
	w.t.Helper()
	all := make([]net.Conn, n)
	for i := range all {
		all[i] = w.dial(w.client, "udp", firstPort+i, w.embedded(7))
	}
	answered := askAll(all)
	for i, c := range all {
		if answered[i] == nil {
			served = append(served, c)
		} else {
			refused++
		}
	}
	return served, refused
}

// askAll asks once over each socket, all at the same time, so that waiting for
// answers that do not come takes no longer than for one.
func askAll(all []net.Conn) []error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { _, errs[i] = askOnce(c) })
	}
	wg.Wait()
	return errs
}

// stillServed checks that the established ones did not suffer.
func (w *world) stillServed(served []net.Conn) {
	w.t.Helper()
	for i, err := range askAll(served) {
		if err != nil {
			w.t.Errorf("%s was served and is no longer: %v", served[i].LocalAddr(), err)
		}
	}
}

func TestExhaustedPortsRefuseNewClientsOnly(t *testing.T) {
	t.Parallel()
	w := plain(t, pool4("40000-40063"))
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	k := w.startTalk(7) // takes one port
	served, refused := w.crowd(71, 50_000)
	if len(served) != 63 || refused != 8 {
		t.Errorf("63 ports were free and 71 wanted: %d served, %d refused", len(served), refused)
	}
	ports := make(map[uint16]bool)
	for _, c := range served {
		a := w.observed(c)
		if a.Addr() != lab.Pool4 || a.Port() < 40_000 || a.Port() > 40_063 || ports[a.Port()] {
			t.Errorf("%s appears as %s: outside the pool or given twice", c.LocalAddr(), a)
		}
		ports[a.Port()] = true
	}
	if s := w.stats(); s.Dropped() < uint64(refused) {
		t.Errorf("%d refused, drops: %v", refused, reasons(s))
	}
	w.stillServed(served)
	w.goesOn(k, "while ports are exhausted")
	w.finishTalk(k)
}

func TestFullSessionTableRefusesNewSessionsOnly(t *testing.T) {
	t.Parallel()
	w := plain(t, func(config map[string]any) { config["limits"] = map[string]any{"sessions": 64} })
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	k := w.startTalk(7)
	status, err := w.d.Status(w.ctx)
	w.must(err)
	capacity := int(status.Sessions.Capacity)
	if capacity < 64 || capacity > 4096 {
		t.Fatalf("capacity is %d, 64 were configured", capacity)
	}
	served, refused := w.crowd(capacity+7, 50_000)
	if len(served) >= capacity || refused < 8 {
		t.Errorf("capacity %d, one taken: %d more served, %d refused", capacity, len(served), refused)
	}
	// Half of it is what a table of bounded probe length holds at least.
	if len(served) < capacity/2 {
		t.Errorf("only %d sessions fit into a table for %d", len(served)+1, capacity)
	}
	status, err = w.d.Status(w.ctx)
	w.must(err)
	if used := int(status.Sessions.Used); used < len(served)+1 || used > capacity {
		t.Errorf("%d sessions in use, %d were served, capacity %d", used, len(served)+1, capacity)
	}
	if s := w.stats(); s.Dropped() < uint64(refused) {
		t.Errorf("%d refused, drops: %v", refused, reasons(s))
	}
	w.stillServed(served)
	w.goesOn(k, "while the table is full")
	w.finishTalk(k)
}

// A worker needs a queue of its own on both interfaces, so there are never
// more workers than queues; fewer share them.
func TestQueuesAndWorkers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, tc := range []struct{ queues, workers int }{{1, 1}, {1, 2}, {2, 1}, {2, 2}, {4, 2}} {
		t.Run(fmt.Sprintf("%d queues, %d workers", tc.queues, tc.workers), func(t *testing.T) {
			w := build(t, lab.Options{Queues: tc.queues}, func(config map[string]any) {
				config["workers"] = map[string]any{"count": tc.workers}
			})
			status, err := w.d.Status(w.ctx)
			w.must(err)
			if want := min(tc.queues, tc.workers); len(status.Workers) != want {
				t.Errorf("%d workers run, want %d: %+v", len(status.Workers), want, status.Workers)
			}
			w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
			k := w.startTalk(7)
			// Flows are spread over queues by their ports, and come back by
			// whichever queue the server's kernel chooses.
			served, refused := w.crowd(200, 50_000)
			if refused != 0 {
				t.Errorf("%d of 200 flows were not answered; drops: %v", refused, reasons(w.stats()))
			}
			w.stillServed(served)
			w.goesOn(k, "beside 200 flows")
			w.finishTalk(k)
		})
	}
}
