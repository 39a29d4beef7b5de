package xlat

import (
	"net/netip"
	"strings"
	"testing"
)

func mustPrefix(t testing.TB, s string) Prefix {
	t.Helper()
	p, err := ParsePrefix(netip.MustParsePrefix(s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestRFC6052Examples is the table of RFC 6052 §2.4.
func TestRFC6052Examples(t *testing.T) {
	v4 := word(netip.MustParseAddr("192.0.2.33"))
	for _, tc := range []struct{ prefix, want string }{
		{"2001:db8::/32", "2001:db8:c000:221::"},
		{"2001:db8:100::/40", "2001:db8:1c0:2:21::"},
		{"2001:db8:122::/48", "2001:db8:122:c000:2:2100::"},
		{"2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"},
		{"2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"},
		{"2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"},
		{"64:ff9b::/96", "64:ff9b::192.0.2.33"},
	} {
		p := mustPrefix(t, tc.prefix)
		wantHi, wantLo := words(netip.MustParseAddr(tc.want))
		hi, lo := p.Embed(v4)
		if hi != wantHi || lo != wantLo {
			t.Errorf("%s: embedded as %x:%x, want %s", tc.prefix, hi, lo, tc.want)
		}
		if got := p.Extract(wantHi, wantLo); got != v4 {
			t.Errorf("%s: extracted %x", tc.prefix, got)
		}
		if !p.Contains(wantHi, wantLo) {
			t.Errorf("%s does not contain %s", tc.prefix, tc.want)
		}
		if p.String() != tc.prefix {
			t.Errorf("%s printed as %s", tc.prefix, p)
		}
		if p.IsWellKnown() != (tc.prefix == "64:ff9b::/96") {
			t.Errorf("%s: IsWellKnown %v", tc.prefix, p.IsWellKnown())
		}
	}
}

// TestEmbedExtract: every length gives back every address, with the octet at
// bits 64 to 71 zero below /96.
func TestEmbedExtract(t *testing.T) {
	g := newGenerator(3)
	for _, s := range []string{"2001:db8::/32", "2001:db8:ff00::/40", "2001:db8:ffff::/48",
		"2001:db8:ffff:ff00::/56", "2001:db8:ffff:ffff::/64", "2001:db8:ffff:ffff:ff:ffff::/96"} {
		p := mustPrefix(t, s)
		for range 10_000 {
			v4 := g.Uint32()
			hi, lo := p.Embed(v4)
			if p.Extract(hi, lo) != v4 || !p.Contains(hi, lo) || lo>>56 != 0 {
				t.Fatalf("%s: %08x embedded as %x:%x", s, v4, hi, lo)
			}
		}
	}
}

func TestContains(t *testing.T) {
	for _, tc := range []struct {
		prefix, addr string
		want         bool
	}{
		{"64:ff9b::/96", "64:ff9b::1", true},
		{"64:ff9b::/96", "64:ff9b::1:0:1", false},
		{"64:ff9b::/96", "64:ff9c::1", false},
		{"2001:db8::/32", "2001:db9:c000:221::", false},
		{"2001:db8::/32", "2001:db8:c000:221:100::", false}, // bits 64 to 71
		{"2001:db8::/32", "2001:db8:c000:221:1::5", true},   // the suffix is ignored
		{"2001:db8:100::/40", "2001:db8:2c0:2:21::", false},
		{"2001:db8:122:344::/64", "2001:db8:122:345:c0:2:2100::", false},
	} {
		hi, lo := words(netip.MustParseAddr(tc.addr))
		if got := mustPrefix(t, tc.prefix).Contains(hi, lo); got != tc.want {
			t.Errorf("%s contains %s: %v", tc.prefix, tc.addr, got)
		}
	}
	if (Prefix{}).Contains(0, 0) {
		t.Error("the zero Prefix contains ::")
	}
}

func TestParsePrefixErrors(t *testing.T) {
	for _, tc := range []struct{ prefix, want string }{
		{"2001:db8::/33", "the length must be"},
		{"2001:db8::/128", "the length must be"},
		{"2001:db8::1/96", "did you mean 2001:db8::/96"},
		{"2001:db8:0:0:100::/96", "bits 64 to 71"},
		{"192.0.2.0/32", "not an IPv6 prefix"},
		{"::ffff:0:0/96", "not an IPv6 prefix"},
		{"ff02::/32", "multicast"},
		{"fe80::/64", "link-local"},
		{"::/96", "unspecified"},
	} {
		prefix := netip.MustParsePrefix(tc.prefix)
		_, err := ParsePrefix(prefix)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), prefix.String()) {
			t.Errorf("%s: %v, want %q", tc.prefix, err, tc.want)
		}
	}
	if _, err := ParsePrefix(netip.Prefix{}); err == nil {
		t.Error("the zero prefix was taken")
	}
}

// TestNonGlobal checks the first and last address of each block, and the
// global ones next to them.
func TestNonGlobal(t *testing.T) {
	for _, tc := range []struct{ first, last string }{
		{"10.0.0.0", "10.255.255.255"}, {"100.64.0.0", "100.127.255.255"}, {"127.0.0.0", "127.255.255.255"},
		{"169.254.0.0", "169.254.255.255"}, {"172.16.0.0", "172.31.255.255"}, {"192.0.0.0", "192.0.0.255"},
		{"192.0.2.0", "192.0.2.255"}, {"192.88.99.0", "192.88.99.255"}, {"192.168.0.0", "192.168.255.255"},
		{"198.18.0.0", "198.19.255.255"}, {"198.51.100.0", "198.51.100.255"}, {"203.0.113.0", "203.0.113.255"},
		{"0.0.0.0", "0.255.255.255"}, {"224.0.0.0", "255.255.255.255"},
	} {
		first, last := netip.MustParseAddr(tc.first), netip.MustParseAddr(tc.last)
		if !NonGlobal(word(first)) || !NonGlobal(word(last)) {
			t.Errorf("%s to %s passes for global", tc.first, tc.last)
		}
		if a := first.Prev(); a.IsValid() && NonGlobal(word(a)) {
			t.Errorf("%s, before %s, is global", a, tc.first)
		}
		if a := last.Next(); a.IsValid() && NonGlobal(word(a)) {
			t.Errorf("%s, after %s, is global", a, tc.last)
		}
	}
}
