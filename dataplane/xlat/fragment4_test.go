package xlat

import (
	"bytes"
	"encoding/binary"
	"testing"

	"handoff64/dataplane/packet"
)

// plain4 is an IPv4 packet as the translation writes it.
func plain4(id, flagsOffset uint16, upper []byte) []byte {
	b := make([]byte, packet.IPv4Len, packet.IPv4Len+len(upper))
	w := uint64(0x45)<<56 | uint64(0xb8)<<48 | uint64(packet.IPv4Len+len(upper))<<32 | uint64(id)<<16 | uint64(flagsOffset)
	header4((*[packet.IPv4Len]byte)(b), w, 9, 17, 0xc0000201, 0xc6336407)
	return append(b, upper...)
}

// cut4 fragments src and checks each piece by itself.
func cut4(t *testing.T, src []byte, mtu int) (frags [][]byte) {
	t.Helper()
	for off := 0; off >= 0; {
		dst := make([]byte, mtu)
		var n int
		n, off = NextFragment4(dst, src, off, mtu)
		frags = append(frags, dst[:n])
	}
	if n := Fragments4(src, mtu); n != len(frags) {
		t.Fatalf("%d octets, MTU %d: Fragments4 says %d, made %d", len(src), mtu, n, len(frags))
	}
	return frags
}

// joined4 puts fragments together and fails unless each continues the one
// before it and differs from src in nothing but length, offset and MF.
func joined4(t *testing.T, src []byte, frags [][]byte, mtu int) (got []byte) {
	t.Helper()
	word := binary.BigEndian.Uint16(src[packet.IPv4FlagsOff:])
	offset := int(word&packet.IPv4OffsetMask) * 8
	for i, f := range frags {
		last := i == len(frags)-1
		h := binary.BigEndian.Uint16(f[packet.IPv4FlagsOff:])
		switch {
		case packet.Fold(packet.Sum(f[:packet.IPv4Len], 0)) != 0xffff:
			t.Fatalf("fragment %d: header checksum", i)
		case len(f) > mtu || int(binary.BigEndian.Uint16(f[packet.IPv4TotalLen:])) != len(f):
			t.Fatalf("fragment %d: %d octets with an MTU of %d, its header says otherwise or it is too long", i, len(f), mtu)
		case int(h&packet.IPv4OffsetMask)*8 != offset+len(got):
			t.Fatalf("fragment %d: offset %d, want %d", i, int(h&packet.IPv4OffsetMask)*8, offset+len(got))
		case (h&packet.IPv4MF != 0) != (!last || word&packet.IPv4MF != 0) || h&packet.IPv4DF != word&packet.IPv4DF:
			t.Fatalf("fragment %d of %d: flags %04x", i, len(frags), h)
		case !last && len(f)%8 != packet.IPv4Len%8:
			t.Fatalf("fragment %d ends off an 8-octet border", i)
		case f[1] != src[1] || f[4] != src[4] || f[5] != src[5] || !bytes.Equal(f[8:10], src[8:10]) || !bytes.Equal(f[12:20], src[12:20]):
			t.Fatalf("fragment %d: header % x of % x", i, f[:20], src[:20])
		}
		got = append(got, f[packet.IPv4Len:]...)
	}
	return got
}

// TestFragment4Octets: two fragments, octet by octet.
func TestFragment4Octets(t *testing.T) {
	frags := cut4(t, plain4(0x1234, 0, []byte("0123456789abcdefXYZ")), 36)
	compare(t, frags[0], []byte("\x45\xb8\x00\x24\x12\x34\x20\x00\x09\x11\x92\xa1\xc0\x00\x02\x01\xc6\x33\x64\x070123456789abcdef"))
	compare(t, frags[1], []byte("\x45\xb8\x00\x17\x12\x34\x00\x02\x09\x11\xb2\xac\xc0\x00\x02\x01\xc6\x33\x64\x07XYZ"))
}

// TestFragment4Reassembles cuts packets of every kind of size and MTU, whole
// ones and ones that are fragments already, and puts the pieces together.
func TestFragment4Reassembles(t *testing.T) {
	g := newGenerator(14)
	for i := range rounds(20_000) {
		upper := g.octets(1 + g.IntN(1500))
		word := uint16(0)
		if i%2 == 0 {
			word = uint16(g.IntN(1000))
			if g.IntN(2) == 0 {
				word |= packet.IPv4MF
				upper = append(upper, make([]byte, -len(upper)&7)...)
			}
		}
		src, mtu := plain4(uint16(g.Uint32()), word, upper), 28+g.IntN(1500)
		if got := joined4(t, src, cut4(t, src, mtu), mtu); !bytes.Equal(got, upper) {
			t.Fatalf("%d octets, MTU %d: reassembled differently", len(src), mtu)
		}
	}
}

func FuzzFragment4(f *testing.F) {
	f.Add([]byte("some octets that a datagram carries"), uint16(7), uint16(0), uint16(28))
	f.Add([]byte("01234567"), uint16(1), uint16(0x2003), uint16(68))
	f.Fuzz(func(t *testing.T, upper []byte, id, word, mtu uint16) {
		word &= packet.IPv4MF | packet.IPv4OffsetMask
		if word&packet.IPv4MF != 0 {
			upper = upper[:len(upper)&^7]
		}
		if int(word&packet.IPv4OffsetMask)*8+len(upper) > 65515 || len(upper) == 0 || mtu < 28 {
			return // no packet of ours
		}
		src := plain4(id, word, upper)
		if got := joined4(t, src, cut4(t, src, int(mtu)), int(mtu)); !bytes.Equal(got, upper) {
			t.Fatalf("reassembled differently: % x of % x", got, upper)
		}
	})
}

func TestFragment4NoRoom(t *testing.T) {
	src := plain4(1, 0, make([]byte, 100))
	if n, next := NextFragment4(make([]byte, 1280), src, 0, 27); n != 0 || next != -1 {
		t.Errorf("MTU 27: %d, %d", n, next)
	}
	if n, next := NextFragment4(make([]byte, 27), src, 0, 1280); n != 0 || next != -1 {
		t.Errorf("27 octets of room: %d, %d", n, next)
	}
	if n := Fragments4(src, 27); n != 0 {
		t.Errorf("MTU 27: %d fragments", n)
	}
}
