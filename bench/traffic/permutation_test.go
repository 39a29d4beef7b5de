package traffic

import (
	"math"
	"testing"
)

// TestPermutation: every number once, for sizes of every shape.
func TestPermutation(t *testing.T) {
	sizes := []uint64{1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 1000, 1024, 65535, 65536, 65537, 100_003}
	for _, n := range sizes {
		for seed := range uint64(4) {
			p := NewPermutation(n, seed)
			seen := make([]bool, n)
			for i := range n {
				v := p.At(i)
				if v >= n || seen[v] {
					t.Fatalf("n=%d, seed %d: place %d has %d, out of range or for the second time", n, seed, i, v)
				}
				seen[v] = true
				if again := p.At(i + n); again != v {
					t.Fatalf("n=%d: place %d of the second round has %d, not %d", n, i, again, v)
				}
			}
		}
	}
}

// TestPermutationIsDisordered: neighbours in the order are as far from each
// other as chance has it, seeds give different orders, and the lowest bit, in
// which a multiplication alone would show, is no pattern.
func TestPermutationIsDisordered(t *testing.T) {
	const n = 100_000
	a, b := NewPermutation(n, 1), NewPermutation(n, 2)
	distance, same, odd := 0.0, 0, 0
	for i := range uint64(n - 1) {
		distance += math.Abs(float64(a.At(i+1)) - float64(a.At(i)))
		if a.At(i) == b.At(i) {
			same++
		}
		if (a.At(i)^a.At(i+1))&1 == 1 {
			odd++
		}
	}
	if mean := distance / n; mean < 0.31*n || mean > 0.36*n { // a third of n for a random order
		t.Errorf("neighbours are %.0f apart on average", mean)
	}
	if same > 20 {
		t.Errorf("two seeds agree in %d places", same)
	}
	if odd < 0.48*n || odd > 0.52*n {
		t.Errorf("the lowest bit changes %d times of %d", odd, n)
	}
}

func TestInOrder(t *testing.T) {
	p := InOrder(3)
	for i, want := range []uint64{0, 1, 2, 0, 1} {
		if got := p.At(uint64(i)); got != want {
			t.Errorf("place %d has %d, want %d", i, got, want)
		}
	}
}

func BenchmarkPermutation(b *testing.B) {
	p := NewPermutation(1_000_000, 1)
	sum := uint64(0)
	for i := range uint64(b.N) {
		sum += p.At(i)
	}
	sink = sum
}

var sink uint64
