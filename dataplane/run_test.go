package dataplane

import (
	"testing"

	"handoff64/conntrack"
	"handoff64/ring/memport"
)

// TestSleepsShortlyWhilePacketsWait: nothing wakes a worker when a device that
// took no packets can take them again.
func TestSleepsShortlyWhilePacketsWait(t *testing.T) {
	r := newRig(t, setup{})
	w := r.workers[0]
	if got := w.sleepTime(); got != idleSleep {
		t.Fatalf("with nothing to do it sleeps %v, want %v", got, idleSleep)
	}
	r.in4[0].SetTransmit(0)
	r.in6[0].Inject(udp6(t, clientA, 4000, serverA, 53, nil))
	w.Poll(r.now)
	if got := w.sleepTime(); got != laggingSleep {
		t.Errorf("with a packet in the TX ring it sleeps %v, want %v", got, laggingSleep)
	}
	r.in4[0].SetTransmit(memport.Unlimited)
	w.Poll(r.now)
	if sent := len(r.in4[0].Drain()); sent != 1 || w.sleepTime() != idleSleep {
		t.Errorf("%d packets left, and now it sleeps %v", sent, w.sleepTime())
	}
}

// TestRoundIsBounded: a round takes several bursts from a port, and leaves the
// rest for the next one, after the other port's.
func TestRoundIsBounded(t *testing.T) {
	r := newRig(t, setup{frames: 4096})
	w := r.workers[0]
	const most = burstsPerPort * BurstSize
	port := memport.New("long", r.umem, r.frames[0], 2*most)
	w.rx[0].Port = port
	for range most + 10 {
		if !port.Inject(udp6(t, clientA, 4000, serverA, 53, nil)) {
			t.Fatal("no room for the packets")
		}
	}
	for _, want := range []int{most, 10, 0} {
		if got := w.Poll(r.now); got != want {
			t.Fatalf("a round took %d packets, want %d", got, want)
		}
	}
	if sent := len(r.in4[0].Drain()); sent != most+10 {
		t.Errorf("%d packets left, want %d", sent, most+10)
	}
}

// TestRingSmallerThanARound: what a round makes goes out in several parts.
func TestRingSmallerThanARound(t *testing.T) {
	r := newRig(t, setup{frames: 4096})
	w := r.workers[0]
	const count = burstsPerPort * BurstSize
	port := memport.New("long", r.umem, r.frames[0], count)
	w.rx[0].Port = port
	short := memport.New("short", r.umem, r.frames[0], 16)
	w.out[IPv4].port = short
	for range count {
		if !port.Inject(udp6(t, clientA, 4000, serverA, 53, nil)) {
			t.Fatal("no room for the packets")
		}
	}
	w.Poll(r.now)
	short.Flush() // nobody receives from it
	if n := w.Counters(); n.Translated[V6ToV4] != count || n.Drops[DropTXFull] != 0 {
		t.Errorf("%d packets left and %d were dropped, want %d and 0", n.Translated[V6ToV4], n.Drops[DropTXFull], count)
	}
}

// flushPort looks at the session table whenever it is flushed with a packet.
type flushPort struct {
	*memport.Port
	used func() uint64
	seen *[]uint64
}

func (p flushPort) Flush() {
	if p.TXPending() {
		*p.seen = append(*p.seen, p.used())
	}
	p.Port.Flush()
}

// TestPacketsDoNotWaitForTimers: what a round received has left when the timers
// run, and what the timers send leaves in the same round.
func TestPacketsDoNotWaitForTimers(t *testing.T) {
	r := newRig(t, setup{})
	w := r.workers[0]
	var seen []uint64
	port := flushPort{r.in4[0], func() uint64 { return r.table.Stats().Used }, &seen}
	w.out[IPv4].port = port
	for i := range w.rx {
		if w.rx[i].family == IPv4 {
			w.rx[i].Port = port
		}
	}
	for p := range 10 {
		r.from6(udp6(t, clientA, 4000+p, serverA, 53, nil))
	}
	before := r.table.Stats().Used
	seen = nil
	r.now += 2 * 5 * 60 * conntrack.TicksPerSecond // twice the lifetime of UDP sessions
	r.from6(udp6(t, clientB, 4000, serverA, 53, nil))
	// What is published counts a new session once the timers have run.
	if len(seen) != 1 || seen[0] != before {
		t.Errorf("sessions when the packet left: %v, want %d", seen, before)
	}
	if after := r.table.Stats().Used; after >= before {
		t.Errorf("%d sessions after the round, %d before: no timer ran", after, before)
	}
}
