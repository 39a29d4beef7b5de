package dataplane

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

func transport(t *testing.T, p gopacket.Packet) (src, dst string, sport, dport int) {
	t.Helper()
	f := p.NetworkLayer().NetworkFlow()
	if u, ok := p.Layer(layers.LayerTypeUDP).(*layers.UDP); ok {
		return f.Src().String(), f.Dst().String(), int(u.SrcPort), int(u.DstPort)
	}
	c, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok {
		t.Fatalf("neither TCP nor UDP: %s", p)
	}
	return f.Src().String(), f.Dst().String(), int(c.SrcPort), int(c.DstPort)
}

func TestUDPThereAndBack(t *testing.T) {
	r := newRig(t, setup{})
	data := []byte("who are you really?")
	out6, out4 := r.from6(udp6(t, clientA, 40000, serverA, 5300, data))
	none(t, out6)
	p := one(t, out4)
	src, dst, mapped, dport := transport(t, p)
	if src != mappedA || dst != serverA || dport != 5300 || mapped < 1024 || mapped%2 != 0 {
		t.Fatalf("got %s:%d -> %s:%d, want %s:<even port> -> %s:5300", src, mapped, dst, dport, mappedA, serverA)
	}
	e := p.LinkLayer().(*layers.Ethernet)
	if e.SrcMAC.String() != macBox4.String() || e.DstMAC.String() != macRouter.String() {
		t.Errorf("Ethernet %s -> %s", e.SrcMAC, e.DstMAC)
	}
	ip := p.NetworkLayer().(*layers.IPv4)
	if ip.TTL != 63 || ip.Flags&layers.IPv4DontFragment != 0 || ip.Id == 0 {
		t.Errorf("TTL %d, flags %v, id %d; want 63, none, not 0", ip.TTL, ip.Flags, ip.Id)
	}
	if !bytes.Equal(p.TransportLayer().LayerPayload(), data) {
		t.Errorf("payload changed: %q", p.TransportLayer().LayerPayload())
	}

	out6, out4 = r.from4(udp4(t, serverA, 5300, mappedA, mapped, []byte("handoff")))
	none(t, out4)
	p = one(t, out6)
	src, dst, sport, dport := transport(t, p)
	if src != "64:ff9b::c633:640a" || dst != clientA || sport != 5300 || dport != 40000 {
		t.Fatalf("got %s:%d -> %s:%d", src, sport, dst, dport)
	}
	if h := p.NetworkLayer().(*layers.IPv6).HopLimit; h != 63 {
		t.Errorf("hop limit %d, want 63", h)
	}
}

// One mapping for all servers and for both protocols, because a handoff entry
// has no protocol field (design.md, invariant 6).
func TestMappingIsEndpointIndependent(t *testing.T) {
	r := newRig(t, setup{})
	ports := map[int]bool{}
	for _, server := range []string{serverA, "203.0.113.77"} {
		_, out4 := r.from6(udp6(t, clientA, 40001, server, 5300, nil))
		_, _, mapped, _ := transport(t, one(t, out4))
		_, out4 = r.from6(tcp6(t, clientA, 40001, server, 80, "S"))
		_, _, mappedTCP, _ := transport(t, one(t, out4))
		ports[mapped], ports[mappedTCP] = true, true
	}
	if len(ports) != 1 {
		t.Errorf("one client port was mapped to %v", ports)
	}
	_, out4 := r.from6(udp6(t, clientB, 40001, serverA, 5300, nil))
	if _, _, mapped, _ := transport(t, one(t, out4)); ports[mapped] {
		t.Errorf("two clients share mapped port %d", mapped)
	}
	// Endpoint-independent filtering: a stranger reaches the mapping.
	for mapped := range ports {
		out6, _ := r.from4(udp4(t, "203.0.113.200", 9999, mappedA, mapped, nil))
		if _, dst, _, dport := transport(t, one(t, out6)); dst != clientA || dport != 40001 {
			t.Errorf("stranger's packet went to %s:%d", dst, dport)
		}
	}
}

func TestAddressDependentFiltering(t *testing.T) {
	r := newRig(t, setup{rules: func(rs *Rules) { rs.AddressDependent = true }})
	_, out4 := r.from6(udp6(t, clientA, 40002, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	out6, _ := r.from4(udp4(t, serverA, 5353, mappedA, mapped, nil)) // same address, another port
	one(t, out6)
	out6, out4 = r.from4(udp4(t, "203.0.113.200", 9999, mappedA, mapped, nil))
	none(t, out6)
	if n := r.drops(DropFiltered); n != 1 {
		t.Errorf("%d packets filtered, want 1", n)
	}
	icmp := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if icmp.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
		t.Errorf("answered %v, want administratively prohibited", icmp.TypeCode)
	}
}

func TestTCPConnection(t *testing.T) {
	r := newRig(t, setup{})
	_, out4 := r.from6(tcp6(t, clientA, 50000, serverA, 443, "S"))
	_, _, mapped, _ := transport(t, one(t, out4))
	steps := []struct {
		from  int
		flags string
		state conntrack.TCPState
	}{
		{4, "SA", conntrack.StateEstablished},
		{6, "A", conntrack.StateEstablished},
		{6, "FA", conntrack.StateV6Fin},
		{4, "A", conntrack.StateV6Fin},
		{4, "FA", conntrack.StateV4FinV6Fin},
		{6, "A", conntrack.StateV4FinV6Fin},
	}
	for i, s := range steps {
		if s.from == 6 {
			_, out4 = r.from6(tcp6(t, clientA, 50000, serverA, 443, s.flags))
			one(t, out4)
		} else {
			out6, _ := r.from4(tcp4(t, serverA, 443, mappedA, mapped, s.flags))
			one(t, out6)
		}
		if got := r.onlySession().State; got != s.state {
			t.Errorf("step %d (%s from IPv%d): state %v, want %v", i, s.flags, s.from, got, s.state)
		}
	}
}

// onlySession is the one session in the table.
func (r *rig) onlySession() (info conntrack.SessionInfo) {
	r.t.Helper()
	n := 0
	r.table.Sessions(func(i conntrack.SessionInfo) bool { info, n = i, n+1; return true })
	if n != 1 {
		r.t.Fatalf("%d sessions, want 1", n)
	}
	return info
}

func TestEcho(t *testing.T) {
	r := newRig(t, setup{})
	data := bytes.Repeat([]byte("ping"), 14)
	_, out4 := r.from6(echo6(t, clientA, serverA, 77, 5, data))
	p := one(t, out4)
	req := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if req.TypeCode.Type() != layers.ICMPv4TypeEchoRequest || req.Seq != 5 || !bytes.Equal(req.Payload, data) {
		t.Fatalf("request became %+v", req)
	}
	out6, _ := r.from4(echo4(t, layers.ICMPv4TypeEchoReply, serverA, mappedA, req.Id, 5, data))
	p = one(t, out6)
	reply := p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo)
	if reply.Identifier != 77 || reply.SeqNumber != 5 || !bytes.Equal(reply.Payload, data) {
		t.Errorf("reply became %+v", reply)
	}
}

func TestHairpin(t *testing.T) {
	r := newRig(t, setup{})
	_, out4 := r.from6(udp6(t, clientB, 6000, serverA, 5300, nil))
	_, _, mappedB, _ := transport(t, one(t, out4))
	out6, out4 := r.from6(udp6(t, clientA, 5000, mappedA, mappedB, []byte("neighbour")))
	none(t, out4)
	p := one(t, out6)
	src, dst, sport, dport := transport(t, p)
	if src != "64:ff9b::c000:201" || dst != clientB || dport != 6000 {
		t.Fatalf("got %s:%d -> %s:%d", src, sport, dst, dport)
	}
	back, _ := r.from6(udp6(t, clientB, 6000, mappedA, sport, []byte("hello")))
	if _, dst, sport, dport := transport(t, one(t, back)); dst != clientA || sport != mappedB || dport != 5000 {
		t.Errorf("answer went to %s:%d from port %d", dst, dport, sport)
	}
	if n := r.workers[0].counters.Translated[Hairpin]; n != 2 {
		t.Errorf("%d hairpinned packets counted, want 2", n)
	}
}

// A packet from IPv4 without DF that does not fit lowest_ipv6_mtu leaves in
// fragments (RFC 7915 §4).
func TestFragmentsTowardsIPv6(t *testing.T) {
	r := newRig(t, setup{})
	_, out4 := r.from6(udp6(t, clientA, 40003, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	data := make([]byte, 1400)
	for i := range data {
		data[i] = byte(i * 7)
	}
	out6, _ := r.from4(udp4(t, serverA, 5300, mappedA, mapped, data))
	if len(out6) != 2 {
		t.Fatalf("%d packets, want 2 fragments", len(out6))
	}
	var whole []byte
	for i, b := range out6 {
		if len(b)-ethernetHeader > 1280 {
			t.Errorf("fragment %d has %d octets", i, len(b)-ethernetHeader)
		}
		p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
		f := p.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
		if int(f.FragmentOffset)*8 != len(whole) || f.MoreFragments != (i == 0) {
			t.Errorf("fragment %d: offset %d, more %v", i, f.FragmentOffset*8, f.MoreFragments)
		}
		whole = append(whole, f.Payload...)
	}
	if !bytes.Equal(whole[8:], data) {
		t.Error("the fragments do not add up to the datagram")
	}
	df := ip4(serverA, mappedA, layers.IPProtocolUDP)
	df.Flags = layers.IPv4DontFragment
	u := &layers.UDP{SrcPort: 5300, DstPort: layers.UDPPort(mapped)}
	u.SetNetworkLayerForChecksum(df)
	out6, _ = r.from4(build(t, ether(layers.EthernetTypeIPv4), df, u, gopacket.Payload(data)))
	if got := one(t, out6).TransportLayer().LayerPayload(); !bytes.Equal(got, data) {
		t.Error("a datagram with DF that fits the link was changed")
	}
}

func TestPathMTU(t *testing.T) {
	small := nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix("203.0.113.0/24"),
		Hop:    nexthop.Hop{State: nexthop.Resolved, MTU: 1400, Eth: eth(macRouter, macBox4)},
	}
	narrow := nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix("2001:db8:0:1::/64"),
		Hop:    nexthop.Hop{State: nexthop.Resolved, MTU: 1300, Eth: eth(macRouter, macBox6)},
	}
	r := newRig(t, setup{hops: resolvedHops(small, narrow)})
	out6, out4 := r.from6(udp6(t, clientA, 40004, "203.0.113.9", 5300, make([]byte, 1400)))
	none(t, out4)
	big := one(t, out6)
	if c := big.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); c.TypeCode != layers.CreateICMPv6TypeCode(2, 0) {
		t.Fatalf("answered %v, want Packet Too Big", c.TypeCode)
	}
	if mtu := be32(big.Layer(layers.LayerTypeICMPv6).LayerPayload()); mtu != 1420 {
		t.Errorf("MTU %d, want 1420", mtu)
	}
	if src := big.NetworkLayer().NetworkFlow().Src().String(); src != box6 {
		t.Errorf("from %s, want %s", src, box6)
	}
	client := "2001:db8:0:1::7"
	_, out4 = r.from6(udp6(t, client, 40005, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	df := ip4(serverA, mappedA, layers.IPProtocolUDP)
	df.Flags = layers.IPv4DontFragment
	u := &layers.UDP{SrcPort: 5300, DstPort: layers.UDPPort(mapped)}
	u.SetNetworkLayerForChecksum(df)
	out6, out4 = r.from4(build(t, ether(layers.EthernetTypeIPv4), df, u, gopacket.Payload(make([]byte, 1300))))
	none(t, out6)
	c := one(t, out4).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	if c.TypeCode != layers.CreateICMPv4TypeCode(3, 4) || c.Seq != 1280 {
		t.Errorf("answered %v with MTU %d, want fragmentation needed with 1280", c.TypeCode, c.Seq)
	}
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// ICMP errors come through with the packet inside them translated, so that the
// host that sent it recognises it.
func TestICMPErrorsBothWays(t *testing.T) {
	r := newRig(t, setup{})
	_, out4 := r.from6(udp6(t, clientA, 40006, serverA, 33434, []byte("trace")))
	sent := out4[0]
	_, _, mapped, _ := transport(t, one(t, out4))
	router := ip4("203.0.113.1", mappedA, layers.IPProtocolICMPv4)
	exceeded := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(11, 0)}
	out6, _ := r.from4(build(t, ether(layers.EthernetTypeIPv4), router, exceeded, gopacket.Payload(sent[ethernetHeader:])))
	p := one(t, out6)
	if src := p.NetworkLayer().NetworkFlow().Src().String(); src != "64:ff9b::cb00:7101" {
		t.Errorf("the router appears as %s", src)
	}
	quote := gopacket.NewPacket(p.Layer(layers.LayerTypeICMPv6).LayerPayload()[4:], layers.LayerTypeIPv6, gopacket.Default)
	src, dst, sport, dport := transport(t, quote)
	if src != clientA || dst != "64:ff9b::c633:640a" || sport != 40006 || dport != 33434 {
		t.Errorf("the quote is of %s:%d -> %s:%d", src, sport, dst, dport)
	}

	out6, _ = r.from4(udp4(t, serverA, 33434, mappedA, mapped, []byte("answer")))
	received := out6[0]
	unreachable := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}
	client := ip6(clientA, "64:ff9b::"+serverA, layers.IPProtocolICMPv6)
	unreachable.SetNetworkLayerForChecksum(client)
	_, out4 = r.from6(build(t, ether(layers.EthernetTypeIPv6), client, unreachable,
		gopacket.Payload(append(make([]byte, 4), received[ethernetHeader:]...))))
	p = one(t, out4)
	if c := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); c.TypeCode != layers.CreateICMPv4TypeCode(3, 3) {
		t.Errorf("port unreachable became %v", c.TypeCode)
	}
	quote = gopacket.NewPacket(p.Layer(layers.LayerTypeICMPv4).LayerPayload(), layers.LayerTypeIPv4, gopacket.Default)
	src, dst, sport, dport = transport(t, quote)
	if src != serverA || dst != mappedA || sport != 33434 || dport != mapped {
		t.Errorf("the quote is of %s:%d -> %s:%d", src, sport, dst, dport)
	}
}

// The first packet to a host whose MAC address is not known yet must arrive.
func TestParkedPacketIsSentWhenResolved(t *testing.T) {
	route := nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix("203.0.113.0/24"), Hop: nexthop.Hop{State: nexthop.Unresolved, MTU: 1500},
	}
	hops := resolvedHops(route)
	r := newRig(t, setup{hops: hops})
	_, out4 := r.from6(
		udp6(t, clientA, 40007, "203.0.113.5", 5300, []byte("first")), udp6(t, clientA, 40007, "203.0.113.5", 5300, []byte("second")))
	none(t, out4)
	if len(hops.Asked()) == 0 {
		t.Fatal("the kernel was not asked for the neighbour")
	}
	if c := r.workers[0].Counters(); c.Parked != 2 {
		t.Fatalf("%d packets parked, want 2", c.Parked)
	}
	s := hops.Load()
	i := s.Lookup4(addr4("203.0.113.5"))
	hops.Publish(s.WithHop(i, nexthop.Hop{State: nexthop.Resolved, MTU: 1500, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4)}))
	_, out4 = r.from6()
	if len(out4) != 2 {
		t.Fatalf("%d packets sent after resolution, want 2", len(out4))
	}
	for i, want := range []string{"first", "second"} {
		if got := decode(t, out4[i]).TransportLayer().LayerPayload(); string(got) != want {
			t.Errorf("packet %d is %q, want %q", i, got, want)
		}
	}
}

// A client's packets may arrive on any queue; its mapping stays one, and no
// worker loses frames by handing packets over.
func TestTwoWorkersOneMapping(t *testing.T) {
	r := newRig(t, setup{workers: 2})
	for port := 2000; port < 2400; port++ {
		mapped := map[int]bool{}
		for i, server := range []string{serverA, "203.0.113.77"} {
			_, out4 := r.pass(r.in6[(port+i)%2], [][]byte{udp6(t, clientA, port, server, 5300, nil)})
			_, _, m, _ := transport(t, one(t, out4))
			mapped[m] = true
			for q := range 2 { // the answer may arrive on either queue
				out6, _ := r.pass(r.in4[q], [][]byte{udp4(t, server, 5300, mappedA, m, nil)})
				if _, dst, _, dport := transport(t, one(t, out6)); dst != clientA || dport != port {
					t.Fatalf("answer went to %s:%d", dst, dport)
				}
			}
		}
		if len(mapped) != 1 {
			t.Fatalf("client port %d has mappings %v", port, mapped)
		}
	}
	for i, s := range r.frames {
		if s.Len() != 512 {
			t.Errorf("worker %d has %d free frames, want 512", i, s.Len())
		}
	}
}

// An error has a source that reaches a client behind routers also where the
// interface has no global address.
func TestErrorSourceWithoutGlobalAddress(t *testing.T) {
	for _, c := range []struct{ own, want string }{
		{box6, box6}, {"fe80::1", via6(serverA)}, {"::", via6(serverA)},
	} {
		hops := resolvedHops()
		s := *hops.Load()
		s.IPv6.Addr6Hi, s.IPv6.Addr6Lo = hiLo(c.own)
		hops.Publish(&s)
		r := newRig(t, setup{hops: hops})
		out6, _ := r.from6(with6(t, func(ip *layers.IPv6) { ip.HopLimit = 1 }))
		want := netip.MustParseAddr(c.want).String()
		if src := one(t, out6).NetworkLayer().NetworkFlow().Src().String(); src != want {
			t.Errorf("interface address %s: the error comes from %s, want %s", c.own, src, want)
		}
	}
}

func TestErrorsAreRateLimited(t *testing.T) {
	r := newRig(t, setup{rules: func(rs *Rules) { rs.ICMPErrorsPerSecond = 10 }})
	expired := func() []byte {
		ip := ip6(clientA, via6(serverA), layers.IPProtocolUDP)
		ip.HopLimit = 1
		u := &layers.UDP{SrcPort: 1, DstPort: 2}
		u.SetNetworkLayerForChecksum(ip)
		return build(t, ether(layers.EthernetTypeIPv6), ip, u)
	}
	errors := 0
	for range 100 {
		out6, _ := r.from6(expired())
		errors += len(out6)
	}
	if c := r.workers[0].Counters(); errors != 10 || c.Suppressed != 90 || c.Drops[DropHopLimit] != 100 {
		t.Errorf("%d errors, %d suppressed, %d dropped; want 10, 90, 100", errors, c.Suppressed, c.Drops[DropHopLimit])
	}
	r.now += conntrack.TicksPerSecond / 2
	for range 20 {
		out6, _ := r.from6(expired())
		errors += len(out6)
	}
	if errors != 15 {
		t.Errorf("%d errors after another half second, want 15", errors)
	}
}

// Nothing allocates on the packet path: established flows and new sessions.
func TestPollAllocatesNothing(t *testing.T) {
	r := newRig(t, setup{frames: 2048, lossless: true})
	_, out4 := r.from6(udp6(t, clientA, 1000, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	w, packet6, packet4 := r.workers[0], udp6(t, clientA, 1000, serverA, 5300, nil), udp4(t, serverA, 5300, mappedA, mapped, nil)
	tcp := tcp6(t, clientB, 1000, serverA, 80, "S")
	const portAt = ethernetHeader + 40
	n := 0
	allocs := testing.AllocsPerRun(200, func() {
		for _, b := range [][]byte{packet6, packet4, tcp} {
			w.main.n = 0
			for range 16 {
				n++
				tcp[portAt], tcp[portAt+1] = byte(n>>8), byte(n)
				addr, _ := w.frames.Pop()
				copy(w.umem.Frame(addr)[ring.Headroom:], b)
				w.main.add(w.umem, ring.Desc{Addr: addr + ring.Headroom, Len: uint32(len(b))}, viaPort)
			}
			w.process(&w.main)
			w.discardOutput()
			w.counters.publish()
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per round, want 0", allocs)
	}
}

// discardOutput gives the frames of what was sent back without a port.
func (w *Worker) discardOutput() {
	for f := range w.out {
		o := &w.out[f]
		for i := range o.n {
			w.frames.Push(o.descs[i].Addr)
		}
		o.n = 0
	}
}
