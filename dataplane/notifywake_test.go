package dataplane

import (
	"testing"

	"handoff64/conntrack"
)

// The handoff worker is woken at once for a packet, and for a notification when
// there is nothing else to do, or some rounds later.
func TestWhenTheHandoffWorkerIsWoken(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	w, woken := r.workers[0], 0
	r.handoff[0].Wake = func() { woken++ }
	poll := func(port int) {
		if port != 0 {
			r.in6[0].Inject(udp6(t, clientA, port, serverA, 7, nil))
		}
		w.Poll(r.now)
		for _, rec := range drain(r.handoff[0].Out) {
			if rec.Kind != conntrack.Notify {
				r.handoff[0].Back.Push(rec.Addr)
			}
		}
	}
	poll(5000)
	if woken != 0 {
		t.Errorf("woken %d times while packets come", woken)
	}
	poll(0)
	poll(0)
	if woken != 1 {
		t.Errorf("woken %d times after a round without packets, want once", woken)
	}
	for port := range 3 * notifyRounds {
		poll(6000 + port)
	}
	if woken < 3 || woken > 5 {
		t.Errorf("woken %d times in %d busy rounds", woken, 3*notifyRounds)
	}
	poll(0)
	before := woken
	r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
	poll(5001)
	if woken != before+1 {
		t.Errorf("woken %d times for a packet, want once", woken-before)
	}
	poll(0) // takes the frame back
}
