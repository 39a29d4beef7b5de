package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
)

// Both clients of a hairpinned flow sit behind one NAT64. Everything that one
// of them learns of the other's packets comes in ICMPv6 errors that quote what
// it sent itself (RFC 6146 §3.8, RFC 5508 REQ-7).

// hairpinRig has a static mapping 80 to clientB's port 8080, for TCP and UDP,
// and client B behind a link of its own.
func hairpinRig(t *testing.T, s setup, mtu uint32) *rig {
	t.Helper()
	s.hops = resolvedHops(nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix(clientB + "/128"), Hop: nexthop.Hop{State: nexthop.Resolved, MTU: mtu, Eth: eth(macRouter, macBox6)},
	})
	r := newRig(t, s)
	for _, p := range []conntrack.Proto{conntrack.TCP, conntrack.UDP} {
		st := conntrack.Static{Proto: p, ClientPort: 8080, Mapped: addr4(mappedA), MappedPort: 80}
		st.Client.Hi, st.Client.Lo = hiLo(clientB)
		if err := r.table.AddStatic(st); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// portOwnedBy finds a port of client A's that the worker owns.
func (r *rig) portOwnedBy(worker, from int) int {
	hi, lo := hiLo(clientA)
	for port := from; ; port++ {
		if r.table.Owner(conntrack.Addr6{Hi: hi, Lo: lo}, uint16(port)) == worker {
			return port
		}
	}
}

// errorAbout6 checks an ICMPv6 error to client A about what A sent to port 80
// of the pool4 address, and returns its parameter.
func errorAbout6(t *testing.T, p gopacket.Packet, typ, code uint8, sport int) (param uint32) {
	t.Helper()
	c, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok || c.TypeCode != layers.CreateICMPv6TypeCode(typ, code) {
		t.Fatalf("want ICMPv6 type %d code %d, got\n%s", typ, code, p)
	}
	if dst := p.NetworkLayer().NetworkFlow().Dst().String(); dst != clientA {
		t.Errorf("the error goes to %s", dst)
	}
	quote := gopacket.NewPacket(c.LayerPayload()[4:], layers.LayerTypeIPv6, gopacket.Default)
	src, dst, qs, qd := transport(t, quote)
	if src != clientA || dst != "64:ff9b::c000:201" || qs != sport || qd != 80 {
		t.Errorf("the quote is of %s:%d -> %s:%d", src, qs, dst, qd)
	}
	return be32(c.LayerPayload())
}

// A packet too big for the second client's link is answered towards the first.
func TestHairpinPathMTU(t *testing.T) {
	for workers := 1; workers <= 2; workers++ {
		for owner := range workers {
			t.Run(fmt.Sprintf("worker %d of %d", owner, workers), func(t *testing.T) {
				r := hairpinRig(t, setup{workers: workers}, 1400)
				sport := r.portOwnedBy(owner, 5000)
				out6, out4 := r.from6(udp6(t, clientA, sport, mappedA, 80, make([]byte, 1440)))
				none(t, out4)
				p := one(t, out6)
				if mtu := errorAbout6(t, p, 2, 0, sport); mtu != 1400 {
					t.Errorf("MTU %d, want 1400", mtu)
				}
				if n := r.drops(DropTooBig4); n != 1 {
					t.Errorf("%d dropped as too big", n)
				}
				// What fits arrives, whole.
				out6, _ = r.from6(udp6(t, clientA, sport, mappedA, 80, make([]byte, 1400-48)))
				if _, dst, _, dport := transport(t, one(t, out6)); dst != clientB || dport != 8080 {
					t.Errorf("went to %s:%d", dst, dport)
				}
				var c Counters
				for _, w := range r.workers {
					one := w.Counters()
					c.Add(&one)
				}
				if c.Translated[Hairpin] != 2 || c.Generated != 1 {
					t.Errorf("%d hairpinned, %d generated, want the datagram and the error, which was made here", c.Translated[Hairpin], c.Generated)
				}
			})
		}
	}
}

// TCP, as an end of it sees it: SYN, answer, a segment too big, a smaller one.
func TestHairpinTCPWithSmallLink(t *testing.T) {
	r := hairpinRig(t, setup{workers: 2}, 1300)
	sport := r.portOwnedBy(1, 6000)
	out6, _ := r.from6(tcp6(t, clientA, sport, mappedA, 80, "S"))
	src, dst, mapped, dport := transport(t, one(t, out6))
	if src != "64:ff9b::c000:201" || dst != clientB || dport != 8080 {
		t.Fatalf("SYN: %s:%d -> %s:%d", src, mapped, dst, dport)
	}
	out6, _ = r.from6(tcp6(t, clientB, 8080, mappedA, mapped, "SA"))
	if src, dst, qs, dport := transport(t, one(t, out6)); src != "64:ff9b::c000:201" || dst != clientA || qs != 80 || dport != sport {
		t.Errorf("SYN ACK: %s:%d -> %s:%d", src, qs, dst, dport)
	}
	states := map[conntrack.TCPState]int{}
	r.table.Sessions(func(i conntrack.SessionInfo) bool { states[i.State]++; return true })
	if states[conntrack.StateEstablished] != 2 {
		t.Errorf("states %v, want both sessions established", states)
	}
	ip := ip6(clientA, via6(mappedA), layers.IPProtocolTCP)
	c := tcpLayer(sport, 80, "A")
	c.SetNetworkLayerForChecksum(ip)
	out6, _ = r.from6(build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(make([]byte, 1400))))
	if mtu := errorAbout6(t, one(t, out6), 2, 0, sport); mtu != 1300 {
		t.Errorf("MTU %d, want 1300", mtu)
	}
}

// A hairpinned packet is translated twice and loses a hop each time; the second
// one's Time Exceeded finds the sender.
func TestHairpinHopLimit(t *testing.T) {
	for limit, want := range map[uint8]DropReason{1: DropHopLimit, 2: DropTTL, 3: NotDropped} {
		r := hairpinRig(t, setup{}, 1500)
		ip := ip6(clientA, via6(mappedA), layers.IPProtocolUDP)
		ip.HopLimit = limit
		u := &layers.UDP{SrcPort: 5000, DstPort: 80}
		u.SetNetworkLayerForChecksum(ip)
		out6, _ := r.from6(build(t, ether(layers.EthernetTypeIPv6), ip, u, gopacket.Payload("x")))
		p := one(t, out6)
		if want != NotDropped {
			errorAbout6(t, p, 3, 0, 5000)
			if n := r.drops(want); n != 1 {
				t.Errorf("hop limit %d: %d dropped as %s", limit, n, want)
			}
			continue
		}
		if got := p.NetworkLayer().(*layers.IPv6).HopLimit; got != 1 {
			t.Errorf("arrived with hop limit %d, want 1", got)
		}
	}
}

// ICMP errors from the second client about the first one's packets, and the
// other way round: translated twice, as the packets were.
func TestHairpinnedICMPErrors(t *testing.T) {
	for workers := 1; workers <= 2; workers++ {
		r := hairpinRig(t, setup{workers: workers}, 1500)
		sport := r.portOwnedBy(workers-1, 5000)
		out6, _ := r.from6(udp6(t, clientA, sport, mappedA, 80, []byte("anybody?")))
		arrived := out6[0]
		_, _, mapped, _ := transport(t, one(t, out6))
		out6, out4 := r.from6(unreachableFrom(t, clientB, arrived))
		none(t, out4)
		errorAbout6(t, one(t, out6), 1, 4, sport)

		out6, _ = r.from6(udp6(t, clientB, 8080, mappedA, mapped, []byte("yes")))
		arrived = out6[0]
		if _, dst, _, dport := transport(t, one(t, out6)); dst != clientA || dport != sport {
			t.Fatalf("the answer went to %s:%d", dst, dport)
		}
		out6, _ = r.from6(unreachableFrom(t, clientA, arrived))
		p := one(t, out6)
		quote := gopacket.NewPacket(p.Layer(layers.LayerTypeICMPv6).LayerPayload()[4:], layers.LayerTypeIPv6, gopacket.Default)
		src, dst, qs, qd := transport(t, quote)
		if to := p.NetworkLayer().NetworkFlow().Dst().String(); to != clientB || src != clientB || dst != "64:ff9b::c000:201" || qs != 8080 || qd != mapped {
			t.Errorf("error to %s about %s:%d -> %s:%d", to, src, qs, dst, qd)
		}
	}
}

// unreachableFrom is a client's Port Unreachable about a packet that reached it.
func unreachableFrom(t *testing.T, client string, packet []byte) []byte {
	t.Helper()
	to := gopacket.NewPacket(packet, layers.LayerTypeEthernet, gopacket.Default).NetworkLayer().NetworkFlow().Src().String()
	ip := ip6(client, to, layers.IPProtocolICMPv6)
	c := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(append(make([]byte, 4), packet[ethernetHeader:]...)))
}

// Filtering and port rules are those of the outside; what they refuse is
// answered as on the outside.
func TestHairpinIsFilteredAsOutside(t *testing.T) {
	r := newRig(t, setup{workers: 2, rules: func(rs *Rules) { rs.AddressDependent = true }})
	_, out4 := r.from6(udp6(t, clientB, 8080, serverA, 53, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	out6, _ := r.from6(udp6(t, clientA, 5000, mappedA, mapped, []byte("stranger")))
	p := one(t, out6)
	if c := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); c.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
		t.Errorf("answered %v, want administratively prohibited", c.TypeCode)
	}
	if n := r.drops(DropFiltered); n != 1 {
		t.Errorf("%d filtered", n)
	}
	// B writes to the pool4 address, that is, to whoever has it: A is let in.
	r.from6(udp6(t, clientB, 8080, mappedA, 1, nil))
	out6, _ = r.from6(udp6(t, clientA, 5000, mappedA, mapped, []byte("friend")))
	if _, dst, _, dport := transport(t, one(t, out6)); dst != clientB || dport != 8080 {
		t.Errorf("went to %s:%d", dst, dport)
	}
	// A port that is nobody's: port unreachable.
	r = newRig(t, setup{})
	out6, _ = r.from6(udp6(t, clientA, 5000, mappedA, 9999, []byte("anybody?")))
	if c := one(t, out6).Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); c.TypeCode != layers.CreateICMPv6TypeCode(1, 4) {
		t.Errorf("answered %v, want what port unreachable becomes", c.TypeCode)
	}
}

// A hairpinned SYN to nobody's port is stored like one from outside, and its
// answer finds the client. And two clients that open at the same time meet.
func TestHairpinnedSYNs(t *testing.T) {
	r := newRig(t, setup{workers: 2, table: func(c *conntrack.Config) { c.Timeouts = tcpTimeouts }})
	out6, _ := r.from6(tcp6(t, clientA, 5000, mappedA, 80, "S"))
	none(t, out6)
	if n := r.drops(DropSYNStored); n != 1 {
		t.Fatalf("%d stored", n)
	}
	out6, out4 := r.until(r.now + tcpTimeouts.TCPIncomingSYN)
	none(t, out4)
	errorAbout6(t, one(t, out6), 1, 4, 5000)

	// Mapped ports are known beforehand: one each, by their classes.
	r = newRig(t, setup{workers: 2, table: func(c *conntrack.Config) {
		c.Timeouts = tcpTimeouts
		a := addr4(mappedA)
		c.Pool4 = []conntrack.Pool4Range{{Addr: a, First: 80, Last: 80}, {Addr: a, First: 6000, Last: 6000}}
	}})
	out6, _ = r.from6(tcp6(t, clientA, 5000, mappedA, 80, "S")) // A is 6000
	none(t, out6)
	out6, _ = r.from6(tcp6(t, clientB, 800, mappedA, 6000, "S")) // B is 80
	if src, dst, sport, dport := transport(t, one(t, out6)); src != "64:ff9b::c000:201" || sport != 80 || dst != clientA || dport != 5000 {
		t.Errorf("B's SYN: %s:%d -> %s:%d", src, sport, dst, dport)
	}
	out6, _ = r.from6(tcp6(t, clientA, 5000, mappedA, 80, "SA"))
	if _, dst, sport, dport := transport(t, one(t, out6)); dst != clientB || sport != 6000 || dport != 800 {
		t.Errorf("A's SYN ACK went to %s:%d", dst, dport)
	}
	r.table.Sessions(func(i conntrack.SessionInfo) bool {
		if i.State != conntrack.StateEstablished {
			t.Errorf("state %v", i.State)
		}
		return true
	})
	out6, out4 = r.until(r.now + 100)
	none(t, append(out6, out4...))
}

// An echo request to a pool4 address meets the mapping of its own identifier,
// which is its sender's: by the letter, the client answers itself.
func TestHairpinnedEcho(t *testing.T) {
	r := newRig(t, setup{})
	out6, _ := r.from6(echo6(t, clientA, mappedA, 77, 1, []byte("ping")))
	p := one(t, out6)
	c := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	e := p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo)
	if f := p.NetworkLayer().NetworkFlow(); f.Dst().String() != clientA || f.Src().String() != "64:ff9b::c000:201" || c.TypeCode.Type() != 128 || e.Identifier != 77 {
		t.Errorf("%s, %v, identifier %d", f, c.TypeCode, e.Identifier)
	}
}

// ICMP errors neither keep a session alive nor end it, from either side
// (RFC 6146 §3.5, RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10).
func TestICMPErrorsLeaveSessionsAlone(t *testing.T) {
	f := newTCPFlow(t, setup{})
	f.reach("ESTABLISHED")
	out6, _ := f.from4(tcp4(t, serverA, tcpServerPort, mappedA, tcpMappedPort, "A"))
	_, out4 := f.from6(tcp6(t, clientA, tcpClientPort, serverA, tcpServerPort, "A"))
	to6, to4 := out6[0], out4[0]
	start := f.now
	_, before := f.session()
	for i, typ := range []layers.ICMPv4TypeCode{
		layers.CreateICMPv4TypeCode(3, 3), layers.CreateICMPv4TypeCode(3, 1), layers.CreateICMPv4TypeCode(11, 0), layers.CreateICMPv4TypeCode(12, 0),
	} {
		f.now = start + conntrack.Tick(i+1)*10
		b := build(t, ether(layers.EthernetTypeIPv4), ip4(serverA, mappedA, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: typ}, gopacket.Payload(to4[ethernetHeader:]))
		out6, _ := f.from4(b)
		one(t, out6)
		_, out4 := f.from6(unreachableFrom(t, clientA, to6))
		one(t, out4)
		if state, left := f.session(); state != "ESTABLISHED" || left != before-(f.now-start) {
			t.Errorf("after %v and an ICMPv6 error: %s for %d ticks, want %d", typ, state, left, before-(f.now-start))
		}
	}
	f.until(start + tcpTimeouts.TCPEstablished)
	if state, _ := f.session(); state != "TRANS" {
		t.Errorf("state %s at the end of the lifetime", state)
	}
}

// RFC 6146 §3.5.3: an echo request from outside reaches a mapped identifier;
// filtering refuses it with code 13 where the client never wrote to the sender;
// an identifier that is nobody's is answered host unreachable.
func TestEchoRequestFromIPv4(t *testing.T) {
	for _, filtering := range []bool{false, true} {
		r := newRig(t, setup{rules: func(rs *Rules) { rs.AddressDependent = filtering }})
		_, out4 := r.from6(echo6(t, clientA, serverA, 77, 1, []byte("ping")))
		id := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4).Id
		out6, _ := r.from4(echo4(t, layers.ICMPv4TypeEchoRequest, serverA, mappedA, id, 5, []byte("and you?")))
		p := one(t, out6)
		c, e := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6), p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo)
		if c.TypeCode.Type() != 128 || e.Identifier != 77 || e.SeqNumber != 5 || p.NetworkLayer().NetworkFlow().Dst().String() != clientA {
			t.Errorf("type %v, identifier %d", c.TypeCode, e.Identifier)
		}
		out6, out4 = r.from4(echo4(t, layers.ICMPv4TypeEchoRequest, elsewhere, mappedA, id, 6, []byte("stranger")))
		if !filtering {
			if e := one(t, out6).Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo); e.Identifier != 77 {
				t.Errorf("a stranger's request has identifier %d", e.Identifier)
			}
			continue
		}
		none(t, out6)
		if c := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); c.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
			t.Errorf("answered %v, want 3/13", c.TypeCode)
		}
	}
	r := newRig(t, setup{})
	out6, out4 := r.from4(echo4(t, layers.ICMPv4TypeEchoRequest, serverA, mappedA, 4321, 1, nil))
	none(t, out6)
	if c := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); c.TypeCode != layers.CreateICMPv4TypeCode(3, 1) {
		t.Errorf("answered %v, want 3/1", c.TypeCode)
	}
}
