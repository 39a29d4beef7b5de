package generator

import (
	"fmt"
	"slices"
	"testing"

	"handoff64/bench/traffic"
)

// TestCapture runs the program on frames: which go to the socket and which to
// the kernel. There is no socket, so bpf_redirect_map says what it would do
// without one; the count of what was passed tells the two apart.
func TestCapture(t *testing.T) {
	needsRoot(t)
	room := make([]byte, traffic.MaxFrame)
	build := func(p traffic.Protocol, ipv6 bool) []byte {
		b, err := traffic.NewBuilder(p, ipv6, traffic.Link{Dst: farMAC, Src: nearMAC}, traffic.Sizes{100})
		if err != nil {
			t.Fatal(err)
		}
		c := wireConfig(p, ipv6)
		n := b.Build(room, 0, traffic.NewProduct(c.Flows).Tuple(7), traffic.Stamp{Sequence: 3})
		return slices.Clone(room[:n])
	}
	for _, match := range []Match{MatchStamped, MatchIP} {
		c := capture{match: match}
		p, err := c.load(1)
		if err != nil {
			t.Fatal(err)
		}
		check := func(name string, frame []byte, ours bool) {
			t.Helper()
			before, err := c.foreign()
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := p.Program.Test(frame); err != nil {
				t.Fatal(err)
			}
			after, err := c.foreign()
			if err != nil {
				t.Fatal(err)
			}
			if got := after == before; got != ours {
				t.Errorf("%s, %s: ours = %v, want %v", match, name, got, ours)
			}
		}
		for protocol := traffic.UDP; protocol <= traffic.EchoReply; protocol++ {
			for _, ipv6 := range []bool{true, false} {
				frame, name := build(protocol, ipv6), fmt.Sprintf("%v, IPv6=%v", protocol, ipv6)
				check(name, frame, true)
				other := slices.Clone(frame)
				other[len(other)-1] ^= 0xff
				check(name+", other content", other, true)
				payload := traffic.MinFrame(protocol, ipv6) - traffic.StampLen
				other = slices.Clone(frame)
				other[payload+1]++
				check(name+", no magic", other, match == MatchIP)
				check(name+", cut off", frame[:payload+2], match == MatchIP)
				other = slices.Clone(frame)
				other[12]++
				check(name+", another EtherType", other, false)
				if !ipv6 {
					other = slices.Clone(frame)
					other[14]++
					check(name+", IPv4 options", other, false)
					other = slices.Clone(frame)
					other[21] = 7
					check(name+", a fragment", other, false)
				}
			}
		}
		solicitation := build(traffic.Echo, true)
		solicitation[54] = 135
		check("neighbour solicitation", solicitation, false)
		check("ARP", append(slices.Clone(solicitation[:12]), append([]byte{8, 6}, make([]byte, 46)...)...), false)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}
}
