package forward

import (
	"bytes"
	"testing"

	"handoff64/ring"
	"handoff64/ring/memport"
)

// rig is a worker on two ports in memory.
type rig struct {
	w     *worker
	umem  *ring.UMEM
	ports [2]*memport.Port
}

func newRig(t *testing.T, ringSize int) *rig {
	t.Helper()
	umem, frames, err := memport.NewUMEM(1024, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { umem.Close() })
	r := &rig{umem: umem}
	for i, name := range []string{"a", "b"} {
		r.ports[i] = memport.New(name, umem, frames, ringSize)
	}
	r.w = newWorker(umem, frames, [2][]ring.Port{{r.ports[0]}, {r.ports[1]}})
	return r
}

// census checks that no frame is lost and none is in two places.
func (r *rig) census(t *testing.T) {
	t.Helper()
	places := []ring.Place{{Name: "stack", Frames: r.w.frames.Frames()}}
	places = append(places, r.ports[0].Places()...)
	places = append(places, r.ports[1].Places()...)
	if err := ring.Census(r.umem, places...); err != nil {
		t.Error(err)
	}
}

func frameFor(n byte) []byte {
	return append([]byte("DSTDSTSRCSRC"), 0x86, 0xdd, n, 2, 3, 4)
}

func TestForwardsBothWays(t *testing.T) {
	r := newRig(t, 128)
	r.w.setAddresses(1, [6]byte([]byte("server")), [6]byte([]byte("ourown")))
	for n := range 100 {
		for side := range r.ports {
			if !r.ports[side].Inject(frameFor(byte(n))) {
				t.Fatal("no room to inject")
			}
		}
	}
	for r.w.poll() > 0 {
	}
	for side, head := range []string{"SRCSRCDSTDST", "serverourown"} {
		got := r.ports[side].Drain()
		if len(got) != 100 {
			t.Fatalf("%d packets left on side %d, want 100", len(got), side)
		}
		for n, p := range got {
			if want := append([]byte(head), frameFor(byte(n))[12:]...); !bytes.Equal(p, want) {
				t.Fatalf("side %d, packet %d is %q, want %q", side, n, p, want)
			}
		}
	}
	if want := (Counters{Received: 200, Sent: 200}); r.w.count != want || r.w.shown.sent.Load() != 200 {
		t.Errorf("counted %+v, shown %d sent; want %+v", r.w.count, r.w.shown.sent.Load(), want)
	}
	r.census(t)
}

// TestFullTXRing: what the ring does not take is counted and its frames stay
// in use, and the first packet behind passes again.
func TestFullTXRing(t *testing.T) {
	r := newRig(t, 32)
	r.ports[1].SetTransmit(0)
	for range 2 {
		for n := range 32 {
			r.ports[0].Inject(frameFor(byte(n)))
		}
		r.w.poll()
	}
	if want := (Counters{Received: 64, Sent: 32, TXFull: 32}); r.w.count != want {
		t.Errorf("counted %+v, want %+v", r.w.count, want)
	}
	r.census(t)
	r.ports[1].SetTransmit(memport.Unlimited)
	r.ports[0].Inject(frameFor(77))
	r.w.poll()
	if got := r.ports[1].Drain(); len(got) != 33 || got[32][14] != 77 {
		t.Errorf("%d packets left after the stall", len(got))
	}
	r.census(t)
}

func TestPollDoesNotAllocate(t *testing.T) {
	umem, frames, err := memport.NewUMEM(1024, 2048)
	if err != nil {
		t.Fatal(err)
	}
	defer umem.Close()
	a := memport.NewLoop("a", umem, frames, memport.Cycle(frameFor(1)), 256)
	b := memport.NewLoop("b", umem, frames, nil, 256)
	w := newWorker(umem, frames, [2][]ring.Port{{a}, {b}})
	if n := testing.AllocsPerRun(100, func() { w.poll() }); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	if packets, _ := b.Sent(); packets == 0 {
		t.Error("nothing was sent")
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(Config{Interfaces: [2]string{"lo", "lo"}}); err == nil {
		t.Error("opened one interface twice")
	}
	if _, err := Open(Config{Interfaces: [2]string{"a", "b"}, Workers: 2, CPUs: []int{0}}); err == nil {
		t.Error("opened with fewer CPUs than workers")
	}
}
