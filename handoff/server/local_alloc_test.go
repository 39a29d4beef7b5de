package server

import "testing"

// sink is a TUN device that takes everything.
type sink struct{ *memoryDevice }

func (sink) Write([][]byte, int) (int, error) { return 0, nil }

// TestTranslatingAllocatesNothing: a client's packets, once its entry or lease is
// there.
func TestTranslatingAllocatesNothing(t *testing.T) {
	for _, mode := range []Mode{LocalNAT, Mixed} {
		x := known(t, mode)
		x.h.nat.device = sink{x.device}
		p := from6(ip6(clientAddr, embed(wellKnown, ownAddr), 17, udp(53186, 53, "hello")))
		d := datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: p.bytes()}
		pass := func() {
			x.out.reset()
			x.h.receive(&d)
			x.h.nat.now.write(x.h.nat.device, x.h.nat.counts)
		}
		pass()
		x.commit()
		for range 10 { // buffers find their size
			pass()
		}
		if n := testing.AllocsPerRun(1000, pass); n > 0 {
			t.Errorf("%v: %v allocations for a packet to a local program", mode, n)
		}
	}
}

// TestAnsweringAllocatesNothing: packets of local programs on their way to the
// socket, which this test empties in the kernel's place.
func TestAnsweringAllocatesNothing(t *testing.T) {
	x := known(t, LocalNAT)
	there := x.delivered(from6(ip6(clientAddr, embed(wellKnown, ownAddr), 17, udp(53186, 53, "hello"))))
	back := encode(ownAddr[:], there[12:16], 17, 64, udp(53, 53186, "hello yourself"), 6)
	a := newAnswers(x.h.nat, newSender(nil))
	pass := func() {
		copy(a.bufs[0][answerRoom:], back)
		if l := a.answer(a.bufs[0], answerRoom+len(back)); l != notLost || a.out.n != 1 {
			t.Fatalf("lost: %v; %d messages wait", l, a.out.n)
		}
		a.out.n = 0
	}
	pass()
	if n := testing.AllocsPerRun(1000, pass); n > 0 {
		t.Errorf("%v allocations for an answer", n)
	}
}
