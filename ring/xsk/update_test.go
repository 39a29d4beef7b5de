package xsk

import (
	"fmt"
	"net/netip"
	"testing"
)

func tcpTo(dst string, port uint16) []byte {
	return ipv4Packet{src: host, dst: dst, proto: 6, payload: transport(443, port)}.frame()
}

func TestStaticMappingsComeAndGo(t *testing.T) {
	f := loadForTest(t, testConfig(), true, true, true)
	for _, addr := range []string{"192.0.2.1:22", "198.51.100.9:22", "203.0.113.200:22"} {
		s := Static{TCP, netip.MustParseAddrPort(addr)}
		frame := tcpTo(s.Addr.Addr().String(), 22)
		before := run(t, f, frame)
		for range 2 {
			if err := f.addStatic(s); err != nil {
				t.Fatal(err)
			}
		}
		if !run(t, f, frame) {
			t.Errorf("%s: not ours after it was added", addr)
		}
		for range 2 {
			if err := f.removeStatic(s); err != nil {
				t.Fatal(err)
			}
		}
		if got := run(t, f, frame); got != before {
			t.Errorf("%s: ours = %v after it was removed, %v before", addr, got, before)
		}
		if !run(t, f, tcpTo("192.0.2.1", 80)) {
			t.Errorf("%s: another static mapping went with it", addr)
		}
	}
	if err := f.addStatic(Static{TCP, netip.MustParseAddrPort("[2001:db8::1]:80")}); err == nil {
		t.Error("a static mapping with an IPv6 address was accepted")
	}
	if err := f.addStatic(Static{47, netip.MustParseAddrPort("192.0.2.1:80")}); err == nil {
		t.Error("a static mapping of GRE was accepted")
	}
}

// TestUpdateManyTimes walks through more port sets than the kernel's array
// holds at once: indexes must be used again.
func TestUpdateManyTimes(t *testing.T) {
	f := loadForTest(t, testConfig(), true, true, true)
	for i := range 5 * spareSets {
		port := uint16(2000 + i)
		addr := fmt.Sprintf("192.0.2.%d", 10+i%3)
		cfg := FilterConfig{
			Pool6: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("2001:db8:%x::/96", i))},
			Pool4: []Pool4{{Prefix: netip.MustParsePrefix(addr + "/32"), TCP: []PortRange{{port, port}}}},
		}
		if err := f.update(cfg); err != nil {
			t.Fatalf("configuration %d: %v", i, err)
		}
		for _, c := range []verdictCase{
			{"new port", tcpTo(addr, port), true},
			{"the port before", tcpTo(addr, port-1), false},
			{"the first configuration's address", tcpTo(pool, 5000), false},
			{"the first configuration's static", tcpTo(pool, 80), false},
			{"new prefix", ipv6Frame(fmt.Sprintf("2001:db8:%x::1", i), nil), true},
			{"old prefix", ipv6Frame("64:ff9b::1", nil), false},
		} {
			if got := run(t, f, c.frame); got != c.ours {
				t.Errorf("configuration %d, %s: ours = %v, want %v", i, c.name, got, c.ours)
			}
		}
	}
}

func TestTooManyPortSetsAreRefused(t *testing.T) {
	f := loadForTest(t, testConfig(), true, true, true)
	cfg := testConfig()
	for i := range uint16(100) {
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		cfg.Pool4 = append(cfg.Pool4, Pool4{Prefix: netip.PrefixFrom(addr, 32), TCP: []PortRange{{i, i}}})
	}
	if err := f.update(cfg); err == nil {
		t.Fatal("100 more port sets fitted")
	}
	if !run(t, f, tcpTo(pool, 5000)) {
		t.Error("the refused configuration broke the running one")
	}
	if err := f.update(FilterConfig{Pool4: cfg.Pool4[3:13]}); err != nil {
		t.Errorf("the refused configuration left no room for a smaller one: %v", err)
	}
	if !run(t, f, tcpTo("10.0.0.9", 9)) || run(t, f, tcpTo(pool, 5000)) {
		t.Error("the smaller configuration is not in force")
	}
}

func TestFilterConfigValidation(t *testing.T) {
	six, four := netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("192.0.2.1/32")
	tests := []struct {
		name string
		cfg  FilterConfig
		ok   bool
	}{
		{"empty", FilterConfig{}, true},
		{"sixteen prefixes", FilterConfig{Pool6: make6(16)}, true},
		{"seventeen prefixes", FilterConfig{Pool6: make6(17)}, false},
		{"IPv4 in pool6", FilterConfig{Pool6: []netip.Prefix{four}}, false},
		{"IPv6 in pool4", FilterConfig{Pool4: []Pool4{{Prefix: six}}}, false},
		{"no prefix", FilterConfig{Pool4: []Pool4{{}}}, false},
		{"range backwards", FilterConfig{Pool4: []Pool4{{Prefix: four, UDP: []PortRange{{5, 4}}}}}, false},
	}
	for _, tt := range tests {
		if err := tt.cfg.validate(); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func make6(n int) []netip.Prefix {
	out := make([]netip.Prefix, n)
	for i := range out {
		out[i] = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, byte(i)}), 96)
	}
	return out
}
