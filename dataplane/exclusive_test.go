package dataplane

import (
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// Of an exclusive address the host keeps the control channel only, in fragments
// as in whole packets (which the filter sorts, TestFilterExclusive).
func TestFragmentsToAnExclusiveAddress(t *testing.T) {
	exclusive := func(rs *Rules) {
		rs.Host = HostRules{Enabled: true, Exclusive: true, ControlPort: 64064, DiscardPort: 9, OurProtocols: [4]uint64{1 << 50, 0, 0, 0}}
	}
	for name, c := range map[string]struct {
		packet []byte
		hosts  bool
	}{
		"UDP below the range":                  {udp4(t, serverA, 53, mappedA, 500, random(200)), false},
		"UDP to the control channel":           {udp4(t, serverA, 64064, mappedA, 64064, random(200)), true},
		"a ping":                               {echo4(t, 8, serverA, mappedA, 5000, 1, random(200)), false},
		"an answer to a ping":                  {echo4(t, 0, serverA, mappedA, 500, 1, random(200)), false},
		"a timestamp":                          {echo4(t, 13, serverA, mappedA, 5000, 1, random(200)), false},
		"an error about the control channel":   {quoting4(t, udp4(t, mappedA, 64064, serverA, 64064, random(200))), true},
		"an error about other UDP of the host": {quoting4(t, udp4(t, mappedA, 500, serverA, 53, random(200))), false},
	} {
		pieces := pieces4(t, c.packet, 7, 64)
		for order, index := range orders(len(pieces)) {
			r := cutRig(t, setup{rules: exclusive})
			for _, i := range index {
				r.from4(pieces[i])
			}
			want := 0
			if c.hosts {
				want = len(pieces)
			}
			if got := len(r.kernel[0].Drain()); got != want {
				t.Errorf("%s, %s: %d fragments went to the kernel, want %d", name, order, got, want)
			}
		}
	}
	for proto, hosts := range map[layers.IPProtocol]bool{47: true, 50: false} {
		r := cutRig(t, setup{rules: exclusive})
		r.from4(piece4(t, 7, 0, true, make([]byte, 64), proto), piece4(t, 7, 64, false, make([]byte, 8), proto))
		if got := len(r.kernel[0].Drain()); (got == 2) != hosts || got == 1 {
			t.Errorf("protocol %d: %d fragments went to the kernel, the host's: %v", proto, got, hosts)
		}
	}
}
