package xlat

import (
	"encoding/binary"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// patchICMP is the fixture with another type, code and rest, its checksum
// computed from nothing.
func patchICMP(t testing.TB, name string, typ, code byte, rest uint32) []byte {
	t.Helper()
	pkt := load(t, name)
	m := reference.Decode(pkt)
	u := pkt[len(pkt)-len(m.Upper):]
	u[0], u[1] = typ, code
	binary.BigEndian.PutUint32(u[4:], rest)
	m.Upper = u
	m.Fill()
	return pkt
}

// icmpOf is type, code and the rest of the header of an ICMP error.
func icmpOf(pkt []byte) (typ, code byte, rest uint32) {
	u := reference.Decode(pkt).Upper
	return u[0], u[1], binary.BigEndian.Uint32(u[4:])
}

// TestEveryCode46 goes through all codes of the ICMPv4 errors against the
// list of RFC 7915 §4.2 written down as "from → to".
func TestEveryCode46(t *testing.T) {
	want := map[[2]byte][2]byte{{3, 2}: {4, 1}, {3, 4}: {2, 0}, {12, 0}: {4, 0}, {12, 2}: {4, 0}}
	for from, to := range reference.ICMP46 {
		want[from] = to
	}
	for code := 2; code < 256; code++ { // time exceeded: code unchanged
		want[[2]byte{11, byte(code)}] = [2]byte{3, byte(code)}
	}
	for _, typ := range []byte{3, 4, 5, 11, 12} {
		for code := range 256 {
			from := [2]byte{typ, byte(code)}
			got, s := translate46(t, patchICMP(t, "4-icmp-11-0-46", typ, byte(code), 0), fixtureOptions())
			to, mapped := want[from]
			if mapped != (s == OK) {
				t.Errorf("%v: status %v", from, s)
			}
			if s != OK {
				continue
			}
			if typ, code, _ := icmpOf(got); [2]byte{typ, code} != to {
				t.Errorf("%v became %d/%d, want %v", from, typ, code, to)
			}
		}
	}
}

// TestEveryCode64 is TestEveryCode46 for RFC 7915 §5.2.
func TestEveryCode64(t *testing.T) {
	want := map[[2]byte][2]byte{{4, 0}: {12, 0}}
	for from, to := range reference.ICMP64 {
		want[from] = to
	}
	for code := range 256 { // the code of a Packet Too Big is ignored (RFC 4443 §3.2)
		want[[2]byte{2, byte(code)}] = [2]byte{3, 4}
		want[[2]byte{3, byte(code)}] = [2]byte{11, byte(code)}
	}
	for _, typ := range []byte{1, 2, 3, 4} {
		for code := range 256 {
			from := [2]byte{typ, byte(code)}
			got, s := translate64(t, patchICMP(t, "6-icmp-3-0-64", typ, byte(code), 0), fixtureOptions())
			to, mapped := want[from]
			if mapped != (s == OK) {
				t.Errorf("%v: status %v", from, s)
			}
			if s != OK {
				continue
			}
			if typ, code, _ := icmpOf(got); [2]byte{typ, code} != to {
				t.Errorf("%v became %d/%d, want %v", from, typ, code, to)
			}
		}
	}
}

// TestEveryPointer goes through figures 3 and 6 of RFC 7915, and the octets
// beyond the headers.
func TestEveryPointer(t *testing.T) {
	const n = -1
	fig3 := []int{0, 1, 4, 4, n, n, n, n, 7, 6, n, n, 8, 8, 8, 8, 24, 24, 24, 24}
	for at := range 256 {
		got, s := translate46(t, patchICMP(t, "4-icmp-11-0-46", 12, 0, uint32(at)<<24), fixtureOptions())
		if at >= len(fig3) || fig3[at] == n {
			if s != ICMPPointerUnmapped {
				t.Errorf("IPv4 octet %d: %v", at, s)
			}
			continue
		}
		if s != OK {
			t.Errorf("IPv4 octet %d: %v", at, s)
		} else if _, _, rest := icmpOf(got); rest != uint32(fig3[at]) {
			t.Errorf("IPv4 octet %d became %d, want %d", at, rest, fig3[at])
		}
	}
	fig6 := func(at int) int {
		switch {
		case at >= 8 && at < 24:
			return 12
		case at >= 24 && at < 40:
			return 16
		case at < 8:
			return []int{0, 1, n, n, 2, 2, 9, 8}[at]
		}
		return n
	}
	for at := range 300 {
		got, s := translate64(t, patchICMP(t, "6-icmp-3-0-64", 4, 0, uint32(at)), fixtureOptions())
		if fig6(at) == n {
			if s != ICMPPointerUnmapped {
				t.Errorf("IPv6 octet %d: %v", at, s)
			}
			continue
		}
		if s != OK {
			t.Errorf("IPv6 octet %d: %v", at, s)
		} else if _, _, rest := icmpOf(got); rest != uint32(fig6(at))<<24 {
			t.Errorf("IPv6 octet %d became %08x, want %d", at, rest, fig6(at))
		}
	}
}

func TestPacketTooBigMTU(t *testing.T) {
	for _, tc := range []struct{ reported, mtu6, mtu4, want uint32 }{
		{1400, 1500, 1500, 1420},
		{1400, 1400, 1500, 1400}, // our own IPv6 link is the smaller one
		{9000, 9000, 1500, 1520}, // our own IPv4 link
		{1492, 1500, 1500, 1500}, //
		{1259, 1500, 1500, 1280}, // never below 1280
		{1261, 1500, 1500, 1281}, //
		{68, 1500, 1500, 1280},   //
		{65535, 70000, 70000, 65555},
	} {
		o := fixtureOptions()
		o.MTU6, o.MTU4 = tc.mtu6, tc.mtu4
		got, s := translate46(t, patchICMP(t, "4-icmp-11-0-46", 3, 4, tc.reported), o)
		if s != OK {
			t.Fatalf("%+v: %v", tc, s)
		}
		if _, _, rest := icmpOf(got); rest != tc.want {
			t.Errorf("%+v: MTU %d", tc, rest)
		}
	}
}

func TestFragmentationNeededMTU(t *testing.T) {
	whole, fragment := "6-icmp-3-0-64", "6-quote-fragment-first-64"
	for _, tc := range []struct {
		name                       string
		reported, mtu6, mtu4, want uint32
	}{
		{whole, 1400, 1500, 1500, 1380},
		{whole, 1400, 1500, 1300, 1300},
		{whole, 9000, 1500, 9000, 1480},
		{whole, 1280, 1500, 1500, 1260},
		{whole, 600, 1500, 1500, 580}, // no IPv6 link has it, but §5.2 has no floor
		{whole, 0, 1500, 1500, 68},
		{whole, 0xffffffff, 100000, 100000, 65535}, // the field has 16 bits
		{fragment, 1400, 1500, 1500, 1372},         // §5.2: with a fragment header the difference is 28
		{fragment, 1400, 1500, 1300, 1300},
		{fragment, 9000, 1500, 9000, 1472},
		{fragment, 0, 1500, 1500, 68},
	} {
		o := fixtureOptions()
		o.MTU6, o.MTU4 = tc.mtu6, tc.mtu4
		got, s := translate64(t, patchICMP(t, tc.name, 2, 0, tc.reported), o)
		if s != OK {
			t.Fatalf("%+v: %v", tc, s)
		}
		if _, _, rest := icmpOf(got); rest != tc.want {
			t.Errorf("%+v: MTU %d", tc, rest)
		}
	}
}

// TestPlateau: a router older than RFC 1191 names no MTU, so the size of the
// packet that was too big stands in for one.
func TestPlateau(t *testing.T) {
	for _, tc := range []struct{ size, want uint32 }{
		{65535, 32020}, {32001, 32020}, {32000, 17934}, {4352, 2022}, {1500, 1512}, {1492, 1280}, {600, 1280},
	} {
		pkt := load(t, "4-icmp-3-4-plateau-46")
		binary.BigEndian.PutUint16(pkt[28+packet.IPv4TotalLen:], uint16(tc.size))
		m := reference.Decode(pkt)
		m.Upper = pkt[20:]
		m.Fill()
		o := fixtureOptions()
		o.MTU6, o.MTU4 = 65535, 65535
		got, s := translate46(t, pkt, o)
		if s != OK {
			t.Fatalf("%+v: %v", tc, s)
		}
		if _, _, rest := icmpOf(got); rest != tc.want {
			t.Errorf("a packet of %d octets: MTU %d, want %d", tc.size, rest, tc.want)
		}
	}
}

// TestErrorsThatAreNone: the error functions refuse what the worker should not
// give them.
func TestErrorsThatAreNone(t *testing.T) {
	var p, inner packet.Parsed
	b := frame(load(t, "4-udp-46"))
	packet.Parse4(b[:len(b)-slack], headroom, &p)
	if _, _, s := Error4to6(b, &p, &inner, errorFlow46(&inner), fixtureOptions()); s != UnsupportedProtocol {
		t.Errorf("UDP as an ICMPv4 error: %v", s)
	}
	b = frame(load(t, "6-udp-64"))
	packet.Parse6(b[:len(b)-slack], headroom, &p)
	if _, _, s := Error6to4(b, &p, &inner, errorFlow64(&inner), fixtureOptions()); s != UnsupportedProtocol {
		t.Errorf("UDP as an ICMPv6 error: %v", s)
	}
	p.Kind, p.MoreFrags = packet.KindICMPError, true
	if _, _, s := Error6to4(b, &p, &inner, errorFlow64(&inner), fixtureOptions()); s != FragmentedICMP {
		t.Errorf("an ICMPv6 error in fragments: %v", s)
	}
	if _, _, s := Error4to6(b, &p, &inner, errorFlow46(&inner), fixtureOptions()); s != FragmentedICMP {
		t.Errorf("an ICMPv4 error in fragments: %v", s)
	}
}
