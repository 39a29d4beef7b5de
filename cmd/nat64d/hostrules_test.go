package main

import (
	"net/netip"
	"slices"
	"testing"

	"handoff64/cmd/nat64d/config"
	"handoff64/ring/xsk"
)

// What the filter says of whole packets, the workers say of fragments: the two
// sets of rules come from one configuration and must agree.
func TestHostRulesAgreeWithTheFilter(t *testing.T) {
	for _, handoff := range []bool{false, true} {
		c := &config.Config{
			Pool4: []config.Pool4{
				{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Ports: [][2]uint16{{1024, 65535}}},
				{Prefix: netip.MustParsePrefix("198.51.100.0/28"), Ports: [][2]uint16{{5, 5}, {9, 9}, {1024, 2047}}},
			},
			KernelProtocols: []uint8{47, 50},
		}
		c.Handoff.Enabled, c.Handoff.ClientPort = handoff, 2000
		filter, host := filterFrom(c), hostRulesFrom(c)
		in := func(rs []xsk.PortRange, port uint16) bool {
			return slices.ContainsFunc(rs, func(r xsk.PortRange) bool { return r.First <= port && port <= r.Last })
		}
		for i, p := range filter.Pool4 {
			if h := host.Pool[i]; h.First != addr4(p.Prefix.Addr()) || h.Last-h.First != uint32(1)<<(32-p.Prefix.Bits())-1 {
				t.Errorf("addresses %v: %x to %x", p.Prefix, h.First, h.Last)
			}
			for port := 0; port < 65536; port++ {
				got := slices.ContainsFunc(host.Pool[i].Ports, func(r [2]uint16) bool { return r[0] <= uint16(port) && uint16(port) <= r[1] })
				if want := in(p.TCP, uint16(port)); got != want || want != in(p.ICMP, uint16(port)) {
					t.Fatalf("TCP port %d of %v: %v, the filter says %v", port, p.Prefix, got, want)
				}
				udp := got
				switch {
				case port != 0 && uint16(port) == host.ControlPort:
					udp = false
				case port != 0 && uint16(port) == host.DiscardPort:
					udp = true
				}
				if want := in(p.UDP, uint16(port)); udp != want {
					t.Fatalf("UDP port %d of %v: %v, the filter says %v", port, p.Prefix, udp, want)
				}
			}
		}
		for proto := range 256 {
			ours := host.OurProtocols[proto>>6]>>(proto&63)&1 == 1
			if want := filter.OtherProtocols && !slices.Contains(filter.KernelProtocols, uint8(proto)); ours != want {
				t.Errorf("protocol %d: %v, the filter says %v", proto, ours, want)
			}
		}
	}
}
