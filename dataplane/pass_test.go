package dataplane

import (
	"bytes"
	"testing"
)

// passAll makes the worker take what waits on both ports for the host's, as a
// step does that recognises it.
func (r *rig) passAll() {
	w := r.workers[0]
	w.begin(r.now)
	for i := range w.rx {
		w.receive(&w.rx[i])
		w.main.describe(w.umem, 0)
		w.parse(&w.main)
		for j := range w.main.n {
			if m := &w.main.meta[j]; m.verdict == undecided {
				w.pass(m)
			}
		}
	}
	w.flush()
}

// What is the host's reaches its kernel as it came, Ethernet header and all.
func TestPass(t *testing.T) {
	r := newRig(t, setup{})
	six, four := udp6(t, clientA, 1, serverA, 2, []byte("six")), udp4(t, serverA, 3, mappedA, 4, []byte("four"))
	r.in6[0].Inject(six)
	r.in4[0].Inject(four)
	r.in4[0].Inject(four)
	r.passAll()
	got := r.kernel[0].Drain()
	if len(got) != 3 || !bytes.Equal(got[0], six) || !bytes.Equal(got[1], four) || !bytes.Equal(got[2], four) {
		t.Errorf("the kernel got %d packets: % x", len(got), got)
	}
	if p := r.workers[0].counters.Passed; p != [families]uint64{1, 2} {
		t.Errorf("passed %v", p)
	}
}

// A kernel that takes some packets only: the others are lost one by one, by
// name, and none is counted as passed that was not.
func TestPassToFullKernel(t *testing.T) {
	r := newRig(t, setup{frames: 1024})
	r.kernel[0].SetTransmit(0)
	const sent = kernelRing + 44
	for i := range sent {
		r.in4[0].Inject(udp4(t, serverA, i, mappedA, 4, nil))
		r.passAll()
	}
	if p, d := r.workers[0].counters.Passed[IPv4], r.drops(DropKernelPortFull); p != kernelRing || d != sent-kernelRing {
		t.Errorf("%d passed and %d dropped, want %d and %d", p, d, kernelRing, sent-kernelRing)
	}
}

// More packets of the host's in one round than the worker collects.
func TestPassManyInOneRound(t *testing.T) {
	r := newRig(t, setup{frames: 1024})
	w := r.workers[0]
	w.begin(r.now)
	const sent = 4 * BurstSize
	for range sent + BurstSize {
		r.in4[0].Inject(udp4(t, serverA, 1, mappedA, 4, nil))
		w.receive(&w.rx[1])
		w.main.describe(w.umem, 0)
		w.parse(&w.main)
		w.pass(&w.main.meta[0])
	}
	w.flush()
	if got := len(r.kernel[0].Drain()); got != sent+BurstSize {
		t.Errorf("the kernel got %d packets, want %d", got, sent+BurstSize)
	}
}
