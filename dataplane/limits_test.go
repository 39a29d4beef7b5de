package dataplane

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
)

// A client at its limit is told so (RFC 6888 REQ-11, RFC 6146 §3.5.1.1); what it
// has goes on, and so does everybody else.
func TestClientAtItsLimit(t *testing.T) {
	r := newRig(t, setup{workers: 2, table: func(c *conntrack.Config) { c.PerClient = conntrack.ClientLimits{Sessions: 8, Ports: 4} }})
	for port := range 4 {
		for server := range 2 {
			if _, out4 := r.from6(udp6(t, clientA, 4000+port, serverA, 80+server, nil)); len(out4) != 1 {
				t.Fatalf("flow %d of port %d: %d packets came out", server, port, len(out4))
			}
		}
	}
	for _, c := range []struct {
		packet []byte
		reason DropReason
	}{
		{udp6(t, clientA, 4000, serverA, 99, nil), DropClientSessions},
		{udp6(t, clientA, 5000, serverA, 80, nil), DropClientPorts},
	} {
		out6, out4 := r.from6(c.packet)
		if len(out4) != 0 || len(out6) != 1 || r.drops(c.reason) != 1 {
			t.Fatalf("%v: %d packets to the server, %d back, %d dropped", c.reason, len(out4), len(out6), r.drops(c.reason))
		}
		p := gopacket.NewPacket(out6[0], layers.LayerTypeEthernet, gopacket.Default)
		icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		if !ok || icmp.TypeCode != layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodeAddressUnreachable) {
			t.Errorf("%v: answered with %v, want address unreachable", c.reason, p)
		}
	}
	if _, out4 := r.from6(udp6(t, clientA, 4003, serverA, 81, nil)); len(out4) != 1 {
		t.Error("an established session does not go on")
	}
	if _, out4 := r.from6(udp6(t, clientB, 4000, serverA, 99, nil)); len(out4) != 1 {
		t.Error("another client is refused")
	}
}

// What a stranger sends to a client that is at its limit is answered with host
// unreachable (RFC 6888 REQ-11).
func TestStrangerToAClientAtItsLimit(t *testing.T) {
	r := newRig(t, perClient(conntrack.ClientLimits{Sessions: 1}))
	port := r.mappedUDP(t, serverA)
	out6, out4 := r.from4(udp4(t, elsewhere, 9, mappedA, port, nil))
	if len(out6) != 0 || len(out4) != 1 || r.drops(DropClientSessions) != 1 {
		t.Fatalf("%d packets to the client, %d back, %d dropped", len(out6), len(out4), r.drops(DropClientSessions))
	}
	p := gopacket.NewPacket(out4[0], layers.LayerTypeEthernet, gopacket.Default)
	icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if !ok || icmp.TypeCode != layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeHost) {
		t.Errorf("answered with %v, want host unreachable", p)
	}
}
