package traffic

import (
	"testing"

	"handoff64/dataplane/packet"
)

// TestStampSum: whatever a stamp says, its sum is the same.
func TestStampSum(t *testing.T) {
	var b [StampLen]byte
	for i := range uint64(100_000) {
		s := Stamp{Trial: uint8(i), Stream: uint8(i >> 8), Sequence: i * 0x9e3779b97f4a7c15, Time: i * 0xd1342543de82ef95}
		s.Put(b[:])
		if sum := packet.Fold(packet.Sum(b[:], 0)); sum != StampSum {
			t.Fatalf("%+v: %x has a sum of %x", s, b, sum)
		}
	}
}

func TestSince(t *testing.T) {
	for _, c := range []struct {
		then, now uint64
		want      int64
	}{{100, 350, 250}, {350, 100, -250}, {1<<40 - 1, 1 << 40, 1}, {1<<40 - 10, 1<<41 + 5, 15}, {7, 7, 0}} {
		if got := (Stamp{Time: c.then & mask40}).Since(c.now); got != c.want {
			t.Errorf("from %d to %d: %d, want %d", c.then, c.now, got, c.want)
		}
	}
}

// FuzzReadStamp: nothing is taken for a stamp but what Put writes.
func FuzzReadStamp(f *testing.F) {
	var b [StampLen]byte
	testStamp.Put(b[:])
	f.Add(b[:])
	f.Add(b[:10])
	b[7]++
	f.Add(b[:])
	f.Add([]byte("something else that is long enough"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		s, v := ReadStamp(payload)
		if v != Stamped {
			if s != (Stamp{}) {
				t.Errorf("%x is no stamp and reads %+v", payload, s)
			}
			return
		}
		var again [StampLen]byte
		s.Put(again[:])
		// Two of the check's values mean the same in ones' complement.
		if got, want := [16]byte(again[:16]), [16]byte(payload[:16]); got != want {
			t.Errorf("%x reads %+v, which is written %x", payload, s, again)
		}
	})
}

// FuzzParse: a frame of any octets is read without a panic, offsets lie within
// it, and its checksums can be checked.
func FuzzParse(f *testing.F) {
	room := make([]byte, MaxFrame)
	for p := UDP; p <= EchoReply; p++ {
		for _, ipv6 := range []bool{true, false} {
			b, err := NewBuilder(p, ipv6, testLink, Sizes{100})
			if err != nil {
				f.Fatal(err)
			}
			n := b.Build(room, 0, NewProduct(testFlows(p, ipv6)).Tuple(3), testStamp)
			f.Add(append([]byte(nil), room[:n]...))
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		if !Parse(frame, &p) {
			return
		}
		if p.L4 >= p.Payload || p.Payload > p.End || p.End > len(frame) {
			t.Fatalf("%x is read as %+v", frame, p)
		}
		ReadStamp(frame[p.Payload:p.End])
		ChecksumsRight(frame, &p)
	})
}
