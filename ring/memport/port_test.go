package memport_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"handoff64/ring"
	"handoff64/ring/memport"
)

var (
	_ ring.Port = (*memport.Port)(nil)
	_ ring.Port = (*memport.Loop)(nil)
)

func newUMEM(t testing.TB, frames int) (*ring.UMEM, *ring.FrameStack) {
	t.Helper()
	u, s, err := memport.NewUMEM(frames, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Close(); err != nil {
			t.Error(err)
		}
	})
	return u, s
}

func numbered(n int) []byte {
	p := make([]byte, 60)
	binary.BigEndian.PutUint32(p, uint32(n))
	return p
}

func TestForwardBetweenTwoPorts(t *testing.T) {
	u, free := newUMEM(t, 64)
	a, b := memport.New("a", u, free, 16), memport.New("b", u, free, 16)
	var got [][]byte
	for round := range 10 {
		for i := range 16 {
			if !a.Inject(numbered(round*16 + i)) {
				t.Fatalf("round %d: packet %d not taken", round, i)
			}
		}
		descs := make([]ring.Desc, 5)
		for n := a.Recv(descs); n > 0; n = a.Recv(descs) {
			for i := range descs[:n] {
				if at := descs[i].Addr % 2048; at != ring.Headroom {
					t.Fatalf("packet at offset %d of its frame", at)
				}
				descs[i].Addr -= 14 // the packet grows into the headroom
				descs[i].Len += 14
			}
			if sent := b.Send(descs[:n]); sent != n {
				t.Fatalf("sent %d of %d", sent, n)
			}
		}
		b.Flush()
		got = append(got, b.Drain()...)
	}
	if len(got) != 160 {
		t.Fatalf("%d packets came out, want 160", len(got))
	}
	for i, p := range got {
		if !bytes.Equal(p[14:], numbered(i)) {
			t.Fatalf("packet %d is %x", i, p)
		}
	}
	if err := census(u, free, a.Places(), b.Places()); err != nil {
		t.Error(err)
	}
	if free.Len() != 64 {
		t.Errorf("%d frames are free, want all 64", free.Len())
	}
}

func TestStalledDeviceFillsItsRing(t *testing.T) {
	u, free := newUMEM(t, 32)
	p := memport.New("p", u, free, 8)
	p.SetTransmit(0)
	descs := make([]ring.Desc, 8)
	for i := range 8 {
		p.Inject(numbered(i))
	}
	if p.Inject(numbered(8)) || p.Dropped() != 1 {
		t.Errorf("a full RX ring took a packet, or %d dropped is not 1", p.Dropped())
	}
	n := p.Recv(descs)
	if sent := p.Send(descs[:n]); sent != 8 {
		t.Fatalf("an empty TX ring of 8 took %d", sent)
	}
	p.Flush()
	p.Inject(numbered(9))
	n = p.Recv(descs)
	if sent := p.Send(descs[:n]); sent != 0 {
		t.Errorf("a full TX ring took %d", sent)
	}
	hands := ring.Place{Name: "hands", Frames: []uint64{descs[0].Addr}}
	if err := census(u, free, p.Places(), []ring.Place{hands}); err != nil {
		t.Error(err)
	}
	p.SetTransmit(3)
	for _, want := range []int{3, 3, 2, 0} {
		p.Flush()
		if out := p.Drain(); len(out) != want {
			t.Errorf("%d packets left, want %d", len(out), want)
		}
	}
}

func TestInjectWithoutFrames(t *testing.T) {
	u, free := newUMEM(t, 2)
	p := memport.New("p", u, free, 8)
	for i, want := range []bool{true, true, false} {
		if got := p.Inject(numbered(i)); got != want {
			t.Errorf("packet %d taken: %v, want %v", i, got, want)
		}
	}
	if p.Inject(make([]byte, 2048)) {
		t.Error("a packet larger than a frame was taken")
	}
}

func TestLoop(t *testing.T) {
	u, free := newUMEM(t, 64)
	in := memport.NewLoop("in", u, free, memport.Cycle(numbered(0), numbered(1)[:40], numbered(2)), 32)
	out := memport.NewLoop("out", u, free, nil, 32)
	descs := make([]ring.Desc, 32)
	want := uint64(0)
	poll := func() {
		n := in.Recv(descs)
		for _, d := range descs[:n] {
			p := u.Packet(d)
			if uint64(binary.BigEndian.Uint32(p)) != want%3 || (want%3 == 1) != (len(p) == 40) {
				t.Fatalf("packet %d is %x", want, p)
			}
			clear(p) // what the translation does to a frame must not reach the next round
			want++
		}
		out.Send(descs[:n])
		out.Flush()
		if out.Recv(descs) != 0 {
			t.Fatal("a loop without a source received something")
		}
	}
	if n := testing.AllocsPerRun(100, poll); n != 0 {
		t.Errorf("%v allocations per poll", n)
	}
	packets, octets := out.Sent()
	if packets != want || in.Received() != want || octets < 40*packets || octets > 60*packets {
		t.Errorf("received %d, sent %d of %d octets; want %d", in.Received(), packets, octets, want)
	}
	if err := census(u, free, in.Places(), out.Places()); err != nil {
		t.Error(err)
	}
}

func census(u *ring.UMEM, free *ring.FrameStack, ports ...[]ring.Place) error {
	places := []ring.Place{{Name: "free stack", Frames: free.Frames()}}
	for _, p := range ports {
		places = append(places, p...)
	}
	return ring.Census(u, places...)
}
