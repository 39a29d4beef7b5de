package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// slowSum adds 16-bit words as RFC 1071 defines it.
func slowSum(b []byte) int {
	sum := 0
	for i, octet := range b {
		if i%2 == 0 {
			sum += int(octet) << 8
		} else {
			sum += int(octet)
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

func randomOctets(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestSumEveryLength compares with the slow sum at every length up to a jumbo
// frame, from aligned and unaligned starts, on noise and on the octets that
// carry most.
func TestSumEveryLength(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	noise := randomOctets(r, 9010)
	ones := slices.Repeat([]byte{0xff}, 9010)
	zeros := make([]byte, 9010)
	for n := range 9002 {
		for _, b := range [][]byte{noise[n%8 : n%8+n], ones[:n], zeros[:n]} {
			initial := uint64(r.Uint32())
			got, want := Fold(Sum(b, initial)), slowSum(binary.BigEndian.AppendUint32(slices.Clone(b[:n&^1]), uint32(initial)))
			if n%2 == 1 {
				want = slowSum(binary.BigEndian.AppendUint16(nil, uint16(want))) + int(b[n-1])<<8
				want = want&0xffff + want>>16
			}
			if int(got) != want {
				t.Fatalf("%d octets: %04x, want %04x", n, got, want)
			}
		}
	}
}

// TestFold: any sum folds to what is congruent to it, and only zero to zero.
func TestFold(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, sum := range []uint64{0, 1, 0xffff, 0x10000, 0xffffffff, 1<<32 - 2, 1 << 32, 1<<48 - 1, 1<<63 - 1, 1 << 63, 1<<64 - 1} {
		testFold(t, sum)
	}
	for range 100_000 {
		testFold(t, r.Uint64()>>r.IntN(64))
	}
}

func testFold(t *testing.T, sum uint64) {
	t.Helper()
	got := uint64(Fold(sum))
	if got%0xffff != sum%0xffff || (got == 0) != (sum == 0) {
		t.Fatalf("%x folds to %x", sum, got)
	}
}

// TestPseudoHeaders compares with the sum of the pseudo-header written out.
func TestPseudoHeaders(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 10_000 {
		a := [4]uint64{r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64()}
		n, proto := r.Uint32(), uint8(r.Uint32())
		var b []byte
		for _, w := range a {
			b = binary.BigEndian.AppendUint64(b, w)
		}
		b = append(binary.BigEndian.AppendUint32(b, n), 0, 0, 0, proto)
		if got, want := Fold(Pseudo6(a[0], a[1], a[2], a[3], n, proto)), slowSum(b); int(got) != want {
			t.Fatalf("IPv6: %04x, want %04x", got, want)
		}
		src, dst := r.Uint32(), r.Uint32()
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, src), dst)
		b = append(b, 0, proto, byte(n>>8), byte(n))
		if got, want := Fold(Pseudo4(src, dst, uint16(n), proto)), slowSum(b); int(got) != want {
			t.Fatalf("IPv4: %04x, want %04x", got, want)
		}
	}
}

// TestUpdateRFC1624 is the example of RFC 1624 §4, which the older equation
// gets wrong.
func TestUpdateRFC1624(t *testing.T) {
	if got := UpdateChecksum(0xdd2f, Delta(0x5555, 0x3285)); got != 0x0000 {
		t.Errorf("%04x, want 0000", got)
	}
}

// FuzzChecksumUpdate changes part of a packet and compares the updated
// checksum with one computed from nothing.
func FuzzChecksumUpdate(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0}, uint16(0), []byte{0xff, 0xff})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(2), []byte{0, 0})
	f.Add([]byte("a datagram of odd length."), uint16(8), []byte("other octets"))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, change []byte) {
		at &^= 1
		change = change[:len(change)&^1] // an odd change would begin or end within a word
		if int(at)+len(change) > len(b) {
			return
		}
		old := ^uint16(slowSum(b))
		after := slices.Clone(b)
		copy(after[at:], change)
		want := ^uint16(slowSum(after))
		delta := Delta(Sum(b[at:int(at)+len(change)], 0), Sum(change, 0))
		got := UpdateChecksum(old, delta)
		// 0000 and ffff are the same number. The fresh checksum is ffff only for
		// octets that are all zero, where an update cannot know that.
		if got != want && (got != 0 || want != 0xffff) {
			t.Fatalf("%04x updated by %04x is %04x, want %04x", old, delta, got, want)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, n := range []int{20, 64, 512, 1480} {
		b.Run(map[int]string{20: "20", 64: "64", 512: "512", 1480: "1480"}[n], func(b *testing.B) {
			data := randomOctets(rand.New(rand.NewPCG(4, 4)), n)
			b.SetBytes(int64(n))
			var sink uint64
			for b.Loop() {
				sink = Sum(data, sink&0xffff)
			}
			if sink == 0 {
				b.Fatal("noise sums to zero")
			}
		})
	}
}
