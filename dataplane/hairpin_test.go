package dataplane

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
)

// Behind an address of ours is another client, not a handoff server: nobody is
// told of mappings or asked for entries, however a hairpinned connection begins.
func TestHairpinConcernsNoServer(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	static := conntrack.Static{Proto: conntrack.TCP, ClientPort: 8080, Mapped: addr4(mappedA), MappedPort: 80}
	static.Client.Hi, static.Client.Lo = hiLo(clientB)
	if err := r.table.AddStatic(static); err != nil {
		t.Fatal(err)
	}
	out6, _ := r.from6(tcp6(t, clientA, 5000, mappedA, 80, "S"))
	if _, dst, _, dport := transport(t, one(t, out6)); dst != clientB || dport != 8080 {
		t.Errorf("the SYN went to %s:%d", dst, dport)
	}
	out6, _ = r.from6(tcp6(t, clientA, 5001, mappedA, 80, "A"))
	none(t, out6)
	if n := r.drops(DropTCPWithoutSession); n != 1 {
		t.Errorf("a segment of no session: %d drops, want 1", n)
	}
	if got := r.tunnelled(t, 0); len(got) != 0 {
		t.Errorf("told the handoff worker %+v", got)
	}
}

// An address of ours as the source of a packet from outside is forged. It must
// neither open a session nor make the NAT64 speak to itself.
func TestForgedPool4Source(t *testing.T) {
	for _, handoff := range []bool{false, true} {
		r := newRig(t, setup{handoff: handoff})
		mapped := r.mappedUDP(t, serverA)
		gre := with4(t, func(ip *layers.IPv4) { ip.Protocol, ip.SrcIP = layers.IPProtocolGRE, ip.DstIP })
		quote := udp4(t, mappedA, 5555, mappedA, 7000, []byte("x"))[ethernetHeader:]
		unreachable := build(t, ether(layers.EthernetTypeIPv4), ip4(serverA, mappedA, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote))
		opening := udp4(t, mappedA, 7000, mappedA, mapped, nil)
		before := r.table.Stats().Created
		out6, out4 := r.from4(opening, udp4(t, mappedA, 7000, mappedA, 5555, nil), gre, unreachable)
		none(t, out6)
		if n := r.table.Stats().Created - before; n != 0 {
			t.Errorf("handoff %v: %d sessions opened", handoff, n)
		}
		if n := r.drops(DropBadSource); n == 0 {
			t.Errorf("handoff %v: nothing is counted as bad_source", handoff)
		}
		if !handoff {
			continue
		}
		none(t, out4)
		for _, s := range r.tunnelled(t, 0) {
			if s.Server == addr4(mappedA) {
				t.Errorf("sent to ourselves: %+v", s.ToServer)
			}
		}
	}
}
