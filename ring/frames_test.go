package ring_test

import (
	"strings"
	"testing"

	"handoff64/ring"
)

func TestUMEM(t *testing.T) {
	u, err := ring.NewUMEM(100, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if u.Frames() != 100 || len(u.Mem) != 100*2048 {
		t.Fatalf("%d frames in %d octets", u.Frames(), len(u.Mem))
	}
	d := ring.Desc{Addr: 3*2048 + ring.Headroom, Len: 60}
	p := u.Packet(d)
	if len(p) != 60 || cap(p) != 2048-ring.Headroom {
		t.Errorf("packet has length %d and capacity %d", len(p), cap(p))
	}
	p[0] = 7
	if f := u.Frame(d.Addr); len(f) != 2048 || cap(f) != 2048 || f[ring.Headroom] != 7 {
		t.Errorf("frame of %d octets does not hold the packet", len(f))
	}
	if pages := u.Pages(); pages != ring.PagesHuge && pages != ring.PagesTransparent && pages != ring.PagesPlain {
		t.Errorf("pages are %q", pages)
	}
	for range 2 {
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUMEMRefusesBadFrameSizes(t *testing.T) {
	for _, size := range []int{0, -2048, 256, 3000} {
		if u, err := ring.NewUMEM(16, size); err == nil {
			t.Errorf("frames of %d octets were accepted", size)
			u.Close()
		}
	}
	if _, err := ring.NewUMEM(0, 2048); err == nil {
		t.Error("a UMEM without frames was accepted")
	}
}

func TestFrameStack(t *testing.T) {
	s := ring.NewFrameStack(2, 2048)
	s.Push(2048 + 300)
	s.Push(10)
	if a, ok := s.Pop(); !ok || a != 0 {
		t.Errorf("got %d, %v; want the start of the frame pushed last", a, ok)
	}
	if a, ok := s.Pop(); !ok || a != 2048 {
		t.Errorf("got %d, %v; want 2048", a, ok)
	}
	if _, ok := s.Pop(); ok {
		t.Error("an empty stack gave a frame")
	}
	defer func() {
		if recover() == nil {
			t.Error("a stack with more frames than the UMEM did not panic")
		}
	}()
	for range 3 {
		s.Push(0)
	}
}

func TestCensus(t *testing.T) {
	u := &ring.UMEM{Mem: make([]byte, 4*2048), FrameSize: 2048}
	tests := []struct {
		name   string
		places []ring.Place
		want   string // part of the error, or "" for none
	}{
		{"all there", []ring.Place{{"free", []uint64{0, 2048 + 256}}, {"tx", []uint64{6144, 4096}}}, ""},
		{"lost", []ring.Place{{"free", []uint64{0, 2048}}, {"tx", []uint64{6144}}}, "1 of 4 frames are nowhere, the first is frame 2"},
		{"in two places", []ring.Place{{"free", []uint64{0, 2048, 4096, 6144}}, {"tx", []uint64{4096 + 256}}}, "frame 2 is in free and in tx"},
		{"twice in one", []ring.Place{{"free", []uint64{0, 2048, 4096, 6144, 1}}}, "frame 0 is in free and in free"},
		{"outside", []ring.Place{{"free", []uint64{8192}}}, "outside the UMEM"},
	}
	for _, tt := range tests {
		err := ring.Census(u, tt.places...)
		switch {
		case err == nil && tt.want != "":
			t.Errorf("%s: no error, want %q", tt.name, tt.want)
		case err != nil && (tt.want == "" || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
