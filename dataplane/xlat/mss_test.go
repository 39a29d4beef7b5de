package xlat

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"handoff64/dataplane/reference"
)

// segment is a TCP header with the options, filled up with zeros, and a
// payload, its checksum right under an empty pseudo-header.
func segment(t testing.TB, options string, payload int) []byte {
	t.Helper()
	opt, err := hex.DecodeString(strings.ReplaceAll(options, " ", ""))
	if err != nil || len(opt) > 40 {
		t.Fatalf("options %q: %v", options, err)
	}
	opt = append(opt, make([]byte, (4-len(opt)%4)%4)...)
	u := append([]byte{0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, byte(5+len(opt)/4) << 4, 2, 0xff, 0xff, 0, 0, 0, 0}, opt...)
	for i := range payload {
		u = append(u, byte(i*7))
	}
	binary.BigEndian.PutUint16(u[16:], ^uint16(reference.Sum(u)))
	return u
}

// TestClampMSS goes through the ways in which options can lie. Every expected
// value is written out; what is not lowered must not change at all.
func TestClampMSS(t *testing.T) {
	for _, c := range []struct {
		name, options, want string // want is empty when nothing may change
		most                uint16
	}{
		{"only option", "0204 05b4", "0204 05a0", 1440},
		{"equal", "0204 05a0", "", 1440},
		{"smaller", "0204 0200", "", 1440},
		{"zero", "0204 0000", "", 1440},
		{"largest", "0204 ffff", "0204 0058", 88},
		{"a Linux SYN", "0204 05b4 0402 080a 0102030405060708 01 03 03 07", "0204 05a0 0402 080a 0102030405060708 01 03 03 07", 1440},
		{"behind a NOP, odd", "01 0204 05b4 01 01 01", "01 0204 05a0 01 01 01", 1440},
		{"behind two NOPs", "01 01 0204 05b4 01 01", "01 01 0204 05a0 01 01", 1440},
		{"behind three NOPs, odd", "01 01 01 0204 05b4 01", "01 01 01 0204 05a0 01", 1440},
		{"behind window scale, odd", "03 03 07 0204 05b4 00", "03 03 07 0204 05a0 00", 1440},
		{"low octet only", "01 0204 05ff 00 00 00", "01 0204 0500 00 00 00", 1280},
		{"last of forty octets", strings.Repeat("01", 36) + "0204 2328", strings.Repeat("01", 36) + "0204 05a0", 1440},
		{"behind an unknown option", "fd 06 aabbccdd 0204 05b4", "fd 06 aabbccdd 0204 05a0", 1440},
		{"twice", "0204 05b4 0204 2328", "0204 05a0 0204 05a0", 1440},
		{"twice, one fits", "0204 0200 0204 2328", "0204 0200 0204 05a0", 1440},
		{"behind the end", "00 01 01 01 0204 05b4", "", 1440},
		{"no options", "", "", 1440},
		{"none but others", "0402 080a 0102030405060708 01 01", "", 1440},
		{"length zero", "0200 05b4", "", 1440},
		{"length one", "0201 05b4", "", 1440},
		{"length two", "0202 0204 05b4 0101", "0202 0204 05a0 0101", 1440},
		{"length three", "0203 05 0204 05b4 00", "0203 05 0204 05a0 00", 1440},
		{"length five", "0205 05b4 00 01 01 01", "", 1440},
		{"behind a zero length", "fd00 0204 05b4", "", 1440},
		{"behind a length of one", "fd01 0204 05b4", "", 1440},
		{"behind one that is too long", "fdff 0204 05b4", "", 1440},
		{"cut behind its kind", "01 01 01 02", "", 1440},
		{"cut behind its length", "01 01 02 04", "", 1440},
		{"cut in its value", "01 02 04 05", "", 1440},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, payload := range []int{0, 1, 6} {
				u := segment(t, c.options, payload)
				want := bytes.Clone(u)
				if c.want != "" {
					want = segment(t, c.want, payload)
				}
				if got := ClampMSS(u, c.most); got != (c.want != "") {
					t.Errorf("lowered: %v", got)
				}
				if !bytes.Equal(u, want) {
					t.Errorf("got  %x\nwant %x", u, want)
				}
			}
		})
	}
}

// TestClampMSSKeepsWrongChecksumsWrong: a damaged segment is not repaired.
func TestClampMSSKeepsWrongChecksumsWrong(t *testing.T) {
	u := segment(t, "0204 05b4", 3)
	u[16] ^= 0x55
	if ClampMSS(u, 1000); reference.Sum(u)%0xffff == 0 {
		t.Errorf("the checksum became right: %x", u)
	}
}

// FuzzClampMSS holds the walk over the options to its slow twin, on any octets.
func FuzzClampMSS(f *testing.F) {
	for _, o := range []string{"0204 05b4", "01 0204 05b4 01 01 01", "0200 05b4", "fdff 0204 05b4", "01 01 02 04", strings.Repeat("01", 36) + "0204 2328"} {
		f.Add(segment(f, o, 3), uint16(1440))
	}
	f.Fuzz(func(t *testing.T, u []byte, most uint16) {
		if len(u) < 20 || u[12]>>4 < 5 || int(u[12]>>4)*4 > len(u) {
			return // the parsers let no such header through
		}
		want := reference.ClampMSS(u, most)
		got := bytes.Clone(u)
		ClampMSS(got, most)
		same := reference.Sum(got[16:18])%0xffff == reference.Sum(want[16:18])%0xffff // 0 and ffff are one number
		copy(want[16:18], got[16:18])
		if !bytes.Equal(got, want) || !same {
			t.Fatalf("most %d: got %x, want %x", most, got, want)
		}
	})
}
