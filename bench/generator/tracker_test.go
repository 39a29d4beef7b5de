package generator

import (
	"math/rand/v2"
	"testing"
)

// want is what a tracker is to have counted.
type want struct{ received, duplicated, reordered, ancient uint64 }

func (t *tracker) counts() want { return want{t.received, t.duplicated, t.reordered, t.ancient} }

func TestTracker(t *testing.T) {
	const far = windowBits + 1000
	for name, c := range map[string]struct {
		numbers []uint64
		want    want
	}{
		"in order":           {[]uint64{0, 1, 2, 3}, want{4, 0, 0, 0}},
		"one lost":           {[]uint64{0, 1, 3}, want{3, 0, 0, 0}},
		"first lost":         {[]uint64{5, 6}, want{2, 0, 0, 0}},
		"one late":           {[]uint64{0, 2, 1, 3}, want{4, 0, 1, 0}},
		"twice":              {[]uint64{0, 1, 1, 2, 0}, want{3, 2, 0, 0}},
		"late and twice":     {[]uint64{0, 2, 1, 1}, want{3, 1, 1, 0}},
		"a jump":             {[]uint64{0, far, far - 1, far}, want{3, 1, 1, 0}},
		"behind the window":  {[]uint64{far, 3, 3}, want{3, 0, 2, 2}},
		"the window is new":  {[]uint64{7, 7 + windowBits, 8 + windowBits - 64, 7 + windowBits}, want{3, 1, 1, 0}},
		"words are cleared":  {[]uint64{100, 200, 100 + windowBits, 130 + windowBits - 64}, want{4, 0, 1, 0}},
		"up to the mark":     {[]uint64{63, 64, 62, 63}, want{3, 1, 1, 0}},
		"oldest in window":   {[]uint64{windowBits - 1, 0, 0}, want{2, 1, 1, 0}},
		"just out of window": {[]uint64{windowBits, 63}, want{2, 0, 1, 1}},
	} {
		tr := &tracker{}
		for _, n := range c.numbers {
			tr.add(n)
		}
		if tr.counts() != c.want {
			t.Errorf("%s: %+v, want %+v", name, tr.counts(), c.want)
		}
	}
}

// TestTrackerAgainstSet compares with a plain set, over losses, duplicates and
// reordering within the window.
func TestTrackerAgainstSet(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	tr, seen := &tracker{}, map[uint64]bool{}
	var expect want
	next := uint64(0)
	for range 500_000 {
		n := next
		switch k := r.IntN(100); {
		case k < 5:
			n += uint64(r.IntN(300)) // a gap
		case k < 15 && next > 1000:
			n = next - 1 - uint64(r.IntN(1000)) // late or again
		case r.IntN(100_000) == 0: // rarely, so that the window mostly fills without being emptied
			n += windowBits
		}
		switch {
		case n >= next:
			next = n + 1
			expect.received++
		case seen[n]:
			expect.duplicated++
		default:
			expect.received++
			expect.reordered++
		}
		seen[n] = true
		tr.add(n)
	}
	if tr.counts() != expect {
		t.Errorf("%+v, want %+v", tr.counts(), expect)
	}
}
