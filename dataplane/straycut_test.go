package dataplane

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// A segment without a session has nothing that its later fragments could
// follow: all of the datagram is refused, and no worker goes on asking another
// for a session that nobody makes.
func TestStraySegmentInFragments(t *testing.T) {
	ack := func(t testing.TB, v6 bool) []byte {
		c := tcpLayer(80, 4001, "A")
		if v6 {
			ip := ip6(clientB, via6(serverA), layers.IPProtocolTCP)
			c.SetNetworkLayerForChecksum(ip)
			return build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(make([]byte, 100)))
		}
		ip := ip4(serverA, mappedA, layers.IPProtocolTCP)
		c.SrcPort, c.DstPort = 4001, 8080
		c.SetNetworkLayerForChecksum(ip)
		return build(t, ether(layers.EthernetTypeIPv4), ip, c, gopacket.Payload(make([]byte, 100)))
	}
	for _, workers := range []int{1, 2, 4} {
		for _, v6 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d workers, from IPv6 %v", workers, v6), func(t *testing.T) {
				r := cutRig(t, setup{workers: workers})
				f := cutFlow{make: func(t testing.TB, _ []byte) []byte { return ack(t, v6) }, v6: v6}
				const datagrams = 16
				for id := range uint32(datagrams) {
					none(t, f.send(r, f.cut(t, nil, 7+id, 40)...))
				}
				r.check()
				if n := r.drops(DropTCPWithoutSession); n != 3*datagrams {
					t.Errorf("%d fragments of %d are dropped as %v", n, 3*datagrams, DropTCPWithoutSession)
				}
				for _, w := range r.workers {
					if n := w.Poll(r.now); n != 0 {
						t.Errorf("worker %d is still busy with %d packets", w.id, n)
					}
				}
			})
		}
	}
}
