package xlat

import (
	"bytes"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

func TestFragment6Fixture(t *testing.T) {
	in := load(t, "4-udp-large-46")
	var p packet.Parsed
	if s := packet.Parse4(in, 0, &p); s != packet.Good {
		t.Fatal(s)
	}
	whole, s := translate46(t, in, fixtureOptions())
	if s != OK {
		t.Fatal(s)
	}
	if len(whole) != Size6(&p) {
		t.Errorf("%d octets, Size6 says %d", len(whole), Size6(&p))
	}
	dst := make([]byte, 1280)
	n, next := NextFragment6(dst, whole, 0, 1280, p.ID)
	compare(t, dst[:n], load(t, "6-udp-large-46-1"))
	if next != 1232 {
		t.Fatalf("next offset %d", next)
	}
	n, next = NextFragment6(dst, whole, next, 1280, p.ID)
	compare(t, dst[:n], load(t, "6-udp-large-46-2"))
	if next != -1 {
		t.Errorf("next offset %d after the last fragment", next)
	}
}

// reassemble checks the fragments of one packet and returns what they carried.
func reassemble(t *testing.T, frags [][]byte, mtu, offset int, id uint32, more bool) []byte {
	t.Helper()
	var got []byte
	for i, f := range frags {
		m := reference.Decode(f)
		last := i == len(frags)-1
		if len(f) > mtu {
			t.Errorf("fragment %d has %d octets, the MTU is %d", i, len(f), mtu)
		}
		if !m.Header || m.Off != offset+len(got) || m.ID != id || m.MF != (!last || more) {
			t.Errorf("fragment %d: offset %d, id %x, more %v", i, m.Off, m.ID, m.MF)
		}
		if m.Sent != len(f)-48 {
			t.Errorf("fragment %d: %d octets announced, %d there", i, m.Sent, len(f)-48)
		}
		if !last && len(f)%8 != 0 {
			t.Errorf("fragment %d ends off an 8-octet border", i)
		}
		got = append(got, f[48:]...)
	}
	return got
}

// TestFragment6Reassembles cuts packets of every kind of size and MTU, whole
// ones and ones that are fragments already, and puts the pieces together.
func TestFragment6Reassembles(t *testing.T) {
	g := newGenerator(4)
	for i := range rounds(20_000) {
		m := reference.Packet{Src: g.address(16), Dst: g.address(16), Proto: 17, TTL: 9, Upper: g.octets(1 + g.IntN(1500))}
		id, offset := g.Uint32(), 0
		if i%2 == 0 {
			m.Header, m.MF, m.Off, m.ID = true, g.IntN(2) == 0, g.IntN(1000)*8, g.Uint32()
			id, offset = m.ID, m.Off
			if m.MF {
				m.Upper = append(m.Upper, make([]byte, -len(m.Upper)&7)...)
			}
		}
		m.Sent = len(m.Upper)
		src, mtu := m.Encode(), 56+g.IntN(1500)
		var frags [][]byte
		for off := 0; off >= 0; {
			dst := make([]byte, mtu)
			var n int
			n, off = NextFragment6(dst, src, off, mtu, id)
			frags = append(frags, dst[:n])
		}
		if n := Fragments6(src, mtu); n != len(frags) {
			t.Fatalf("%d octets, MTU %d: Fragments6 says %d, made %d", len(src), mtu, n, len(frags))
		}
		if got := reassemble(t, frags, mtu, offset, id, m.MF); !bytes.Equal(got, m.Upper) {
			t.Fatalf("%d octets, MTU %d: reassembled differently", len(src), mtu)
		}
	}
}

func TestFragment6NoRoom(t *testing.T) {
	src := load(t, "6-udp-46")
	if n, next := NextFragment6(make([]byte, 1280), src, 0, 55, 1); n != 0 || next != -1 {
		t.Errorf("MTU 55: %d, %d", n, next)
	}
	if n, next := NextFragment6(make([]byte, 55), src, 0, 1280, 1); n != 0 || next != -1 {
		t.Errorf("55 octets of room: %d, %d", n, next)
	}
	if n := Fragments6(src, 55); n != 0 {
		t.Errorf("MTU 55: %d fragments", n)
	}
}

// TestSizes: what Size4 and Size6 announce is what comes out.
func TestSizes(t *testing.T) {
	g := newGenerator(5)
	for i := range 10_000 {
		v6 := i%2 == 0
		pkt := g.dress(g.packet(v6, true))
		got, s := fast(t, pkt, g.endpoint(!v6), fixtureOptions())
		if s != OK {
			t.Fatal(s)
		}
		var p packet.Parsed
		size := Size6
		if v6 {
			packet.Parse6(pkt, 0, &p)
			size = Size4
		} else {
			packet.Parse4(pkt, 0, &p)
		}
		if size(&p) != len(got) {
			t.Fatalf("size %d announced, %d came out of %x", size(&p), len(got), pkt)
		}
	}
}
