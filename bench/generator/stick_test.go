package generator

import (
	"errors"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// TestOneInterfaceForBothSides: both ends on one interface, whose peer sends
// everything back.
func TestOneInterfaceForBothSides(t *testing.T) {
	newWire(t, 1)
	mirror := packetSocket(t, "far")
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for !stop.Load() {
			n, from, err := unix.Recvfrom(mirror, buf, 0)
			if err != nil || from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			for errors.Is(unix.Send(mirror, buf[:n], 0), unix.ENOBUFS) {
			}
		}
	}()
	defer func() {
		stop.Store(true)
		<-done
	}()
	c := wireConfig(traffic.UDP, false)
	c.Responder, c.Flows.Count = c.Initiator, 500
	tester := openTester(t, c)
	if missing, err := tester.Learn(t.Context(), 5000); err != nil || missing != 0 {
		t.Fatalf("%d missing, %v", missing, err)
	}
	r, err := tester.Run(t.Context(), Run{Direction: trial.Both, Rate: 5000, Packets: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for d, w := range r.Ways {
		checkClean(t, trial.Direction(d), w)
	}
	if len(r.Endpoints) != 1 || r.Astray+r.Foreign+r.Damaged != 0 || r.OwnLoss() != 0 {
		t.Errorf("%+v", r)
	}
}
