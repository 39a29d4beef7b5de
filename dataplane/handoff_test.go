package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// These tests play the handoff worker: they read what workers push into Out,
// and push what a server would have answered into In.

// sent is one thing that a worker told the handoff worker, with the packet.
type sent struct {
	conntrack.ToServer
	packet []byte
}

// tunnelled takes what worker i pushed and gives the frames back.
func (r *rig) tunnelled(t *testing.T, i int) (all []sent) {
	t.Helper()
	for _, rec := range drain(r.handoff[i].Out) {
		s := sent{ToServer: rec}
		if rec.Kind != conntrack.Notify {
			s.packet = bytes.Clone(r.umem.Mem[rec.Addr : rec.Addr+uint64(rec.Len)])
			if !r.handoff[i].Back.Push(rec.Addr) {
				t.Fatal("the ring of returning frames is full")
			}
		}
		all = append(all, s)
	}
	r.poll()
	return all
}

// ipOf is the IP packet in a frame, without the link's padding.
func ipOf(frame []byte) []byte {
	b := frame[ethernetHeader:]
	if b[0]>>4 == 6 {
		return b[:40+int(b[4])<<8+int(b[5])]
	}
	return b[:int(b[2])<<8+int(b[3])]
}

// comesBack gives worker i a packet as from the control channel, Ethernet
// header included, and lets it work.
func (r *rig) comesBack(t *testing.T, i int, v via, frame []byte) (out6, out4 [][]byte) {
	t.Helper()
	r.poll() // so that frames are lent
	f, ok := r.handoff[i].Lend.Pop()
	if !ok {
		t.Fatal("no frame was lent")
	}
	copy(r.umem.Frame(f)[ring.Headroom:], frame)
	clear(r.umem.Frame(f)[ring.Headroom : ring.Headroom+12])
	kind := conntrack.GotPacket
	if v == viaServerDone {
		kind = conntrack.GotTranslated
	}
	r.handoff[i].In.Push(conntrack.FromServer{Kind: kind, Server: addr4(serverA), Own: addr4(mappedA), Addr: f + ring.Headroom, Len: uint16(len(frame))})
	return r.from6()
}

func (r *rig) entry(t *testing.T, client string, cport, port uint16) {
	t.Helper()
	hi, lo := hiLo(client)
	c := conntrack.Addr6{Hi: hi, Lo: lo}
	r.handoff[r.table.Owner(c, cport)].In.Push(conntrack.FromServer{
		Kind: conntrack.GotEntry, Server: addr4(serverA), Own: addr4(mappedA), Client: c, ClientPort: cport, MappedPort: port,
	})
	r.poll()
}

func TestNotificationOncePerEntryAndServer(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	for range 3 {
		r.from6(udp6(t, clientA, 4000, serverA, 7000, nil), tcp6(t, clientA, 4000, serverA, 80, "S"), udp6(t, clientA, 4000, elsewhere, 7000, nil))
	}
	got := r.tunnelled(t, 0)
	if len(got) != 2 {
		t.Fatalf("%d notifications, want one for each of two servers: %+v", len(got), got)
	}
	hi, lo := hiLo(clientA)
	for i, server := range []string{serverA, elsewhere} {
		n := got[i].ToServer
		if n.Kind != conntrack.Notify || n.Server != addr4(server) || n.Own != addr4(mappedA) ||
			n.Client != (conntrack.Addr6{Hi: hi, Lo: lo}) || n.ClientPort != 4000 || n.MappedPort != r.mappedPortOf(t) {
			t.Errorf("notification %d: %+v", i, n)
		}
	}
}

// mappedPortOf is the port of the only mapping.
func (r *rig) mappedPortOf(t *testing.T) (port uint16) {
	t.Helper()
	n := 0
	r.table.BIB(func(i conntrack.BIBInfo) bool { port, n = i.MappedPort, n+1; return true })
	if n != 1 {
		t.Fatalf("%d mappings, want 1", n)
	}
	return port
}

// The whole exchange with a capable server: question, entry and packet back,
// and from then on no more questions, in either direction and protocol.
func TestQueryAndCachedEntry(t *testing.T) {
	for workers := 1; workers <= 2; workers++ {
		r := newRig(t, setup{handoff: true, workers: workers})
		r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
		first := udp6(t, clientA, 4000, serverA, 7000, []byte("hello"))
		out6, out4 := r.from6(first)
		none(t, out6)
		none(t, out4)
		hi, lo := hiLo(clientA)
		client := conntrack.Addr6{Hi: hi, Lo: lo}
		owner := r.table.Owner(client, 4000)
		asked := r.tunnelled(t, owner)
		if len(asked) != 1 || asked[0].Kind != conntrack.Tunnel6 || asked[0].Stranger || asked[0].MappedPort != 4000 ||
			asked[0].Client != client || !bytes.Equal(asked[0].packet, ipOf(first)) {
			t.Fatalf("asked %+v", asked)
		}
		r.entry(t, clientA, 4000, 5555)
		out6, out4 = r.comesBack(t, owner, viaServer, first)
		none(t, out6)
		if src, dst, sport, dport := transport(t, one(t, out4)); src != mappedA || dst != serverA || sport != 5555 || dport != 7000 {
			t.Fatalf("%s:%d -> %s:%d", src, sport, dst, dport)
		}
		out6, _ = r.from4(udp4(t, serverA, 7000, mappedA, 5555, []byte("back")))
		if _, dst, _, dport := transport(t, one(t, out6)); dst != clientA || dport != 4000 {
			t.Fatalf("the answer went to %s:%d", dst, dport)
		}
		_, out4 = r.from6(tcp6(t, clientA, 4000, serverA, 443, "A")) // mid-stream, over the entry
		if _, _, sport, _ := transport(t, one(t, out4)); sport != 5555 {
			t.Fatalf("TCP left from port %d", sport)
		}
		out6, _ = r.from4(tcp4(t, serverA, 8443, mappedA, 5555, "A")) // from a port never seen
		one(t, out6)
		for i := range workers {
			if more := r.tunnelled(t, i); len(more) != 0 {
				t.Errorf("asked again: %+v", more)
			}
		}
		if st := r.table.Stats(); st.BIB != 0 || st.Entries != 1 {
			t.Errorf("%d mappings of our own and %d entries, want 0 and 1", st.BIB, st.Entries)
		}
	}
}

func TestUnmatchedPacketsGoToTheirServer(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	stray := udp4(t, serverA, 7000, mappedA, 5555, []byte("whose?"))
	midStream := tcp6(t, clientA, 4000, serverA, 443, "A")
	gre := with4(t, func(ip *layers.IPv4) { ip.Protocol = layers.IPProtocolGRE })
	cases := []struct {
		name   string
		packet []byte
		kind   conntrack.ToServerKind
		from6  bool
	}{
		{"UDP without mapping", stray, conntrack.Tunnel4, false},
		{"TCP without session", midStream, conntrack.Tunnel6, true},
		{"another protocol", gre, conntrack.Tunnel4, false},
	}
	for _, capable := range []bool{false, true} {
		if capable {
			r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
		}
		for _, c := range cases {
			if c.from6 {
				r.from6(c.packet)
			} else {
				r.from4(c.packet)
			}
			got := r.tunnelled(t, 0)
			if len(got) != 1 || got[0].Kind != c.kind || got[0].Server != addr4(serverA) || got[0].Stranger == capable ||
				!bytes.Equal(got[0].packet, ipOf(c.packet)) {
				t.Errorf("%s, capable %v: %+v", c.name, capable, got)
			}
		}
	}
	r.from6(echo6(t, clientA, serverA, 1, 1, nil))
	if got := r.tunnelled(t, 0); len(got) != 1 || got[0].Kind != conntrack.Tunnel6 {
		t.Errorf("an echo to a capable server: %+v", got)
	}
	r.servers.Set(addr4(serverA), conntrack.ServerDown)
	_, out4 := r.from6(echo6(t, clientA, serverA, 1, 1, nil))
	one(t, out4)
	r.from6(midStream)
	if n := r.drops(DropTCPWithoutSession); n != 1 {
		t.Errorf("a segment without session to a server that is down: %d drops, want 1", n)
	}
}

// A capable server reaches only mappings that were used with it.
func TestFilteringOfCapableServers(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	mapped := r.mappedUDP(t, elsewhere)
	out6, _ := r.from4(udp4(t, serverA, 1, mappedA, mapped, nil))
	one(t, out6) // unknown host, endpoint-independent filtering
	r.servers.Set(addr4("198.51.100.11"), conntrack.ServerHandoff)
	out6, _ = r.from4(udp4(t, "198.51.100.11", 1, mappedA, mapped, nil))
	none(t, out6)
	got := r.tunnelled(t, 0)
	if last := got[len(got)-1]; last.Kind != conntrack.Tunnel4 || last.Server != addr4("198.51.100.11") {
		t.Errorf("%+v", got)
	}
}

// A protocol that cannot be carried: RFC 6146 §3.4 without handoff, protocol.md
// §6 with it, as long as the server speaks no handoff.
func TestRefusedProtocolAnswer(t *testing.T) {
	sctp := patched(udp6(t, clientA, 1, serverA, 1, nil), 6, 132)
	for on, want := range map[bool][8]byte{false: {1, 4, 6: 0, 7: 0}, true: {4, 1, 6: 0, 7: 6}} {
		r := newRig(t, setup{handoff: on})
		out6, out4 := r.from6(sctp)
		none(t, out4)
		one(t, out6)
		got := [8]byte(out6[0][14+40:])
		got[2], got[3] = 0, 0 // checksum
		if got != want {
			t.Errorf("handoff %t: ICMPv6 %x, want %x", on, got, want)
		}
	}
}

// What a server has translated leaves as it is.
func TestTranslatedPacketsPassOn(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	frame6 := build(t, ether(layers.EthernetTypeIPv6), ip6("64:ff9b::"+serverA, clientA, layers.IPProtocolNoNextHeader))
	out6, out4 := r.comesBack(t, 0, viaServerDone, frame6)
	none(t, out4)
	if len(out6) != 1 || !bytes.Equal(ipOf(out6[0]), ipOf(frame6)) {
		t.Errorf("IPv6 packet: %x", out6)
	}
	frame4 := udp4(t, mappedA, 5555, serverA, 7000, []byte("x"))
	out6, out4 = r.comesBack(t, 0, viaServerDone, frame4)
	none(t, out6)
	if len(out4) != 1 || !bytes.Equal(ipOf(out4[0]), ipOf(frame4)) {
		t.Errorf("IPv4 packet: %x", out4)
	}
}

// ICMP errors about packets over an entry find it, also without a session.
func TestICMPErrorOverEntry(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	r.entry(t, clientA, 4000, 5555)
	quote := udp4(t, mappedA, 5555, serverA, 7000, []byte("too long"))[ethernetHeader:]
	ip := ip4("203.0.113.1", mappedA, layers.IPProtocolICMPv4)
	big := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}
	packet := func() []byte { return build(t, ether(layers.EthernetTypeIPv4), ip, big, gopacket.Payload(quote)) }
	out6, _ := r.from4(packet())
	if dst := one(t, out6).NetworkLayer().NetworkFlow().Dst().String(); dst != clientA {
		t.Errorf("the error went to %s", dst)
	}
	r.table.FlushHandoff()
	for r.table.Stats().Entries > 0 {
		r.poll()
	}
	r.from4(packet())
	got := r.tunnelled(t, 0)
	if len(got) != 1 || got[0].Kind != conntrack.Tunnel4 || got[0].Server != addr4(serverA) {
		t.Errorf("an error about a packet of no entry: %+v, want it tunnelled to the server", got)
	}
}

// A source that can be no host is forged: nothing is sent on to it.
func TestNothingIsSentToWhatIsNoHost(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	mapped := r.mappedUDP(t, serverA)
	r.tunnelled(t, 0)
	for _, src := range []string{"224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.1", "169.254.1.1"} {
		before := r.drops(DropBadSource)
		gre := with4(t, func(ip *layers.IPv4) { ip.Protocol, ip.SrcIP = layers.IPProtocolGRE, net.ParseIP(src).To4() })
		quote := udp4(t, mappedA, 5555, src, 7000, []byte("x"))[ethernetHeader:]
		unreachable := build(t, ether(layers.EthernetTypeIPv4), ip4(serverA, mappedA, layers.IPProtocolICMPv4),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quote))
		out6, out4 := r.from4(udp4(t, src, 7000, mappedA, 5555, nil), udp4(t, src, 7000, mappedA, 9, nil),
			udp4(t, src, 7000, mappedA, mapped, nil), gre, unreachable)
		none(t, out6)
		none(t, out4)
		if got := r.tunnelled(t, 0); len(got) != 0 {
			t.Errorf("from %s: told the handoff worker %+v", src, got)
		}
		if n := r.drops(DropBadSource) - before; n != 4 {
			t.Errorf("from %s: %d drops as bad_source, want 4", src, n)
		}
	}
}

// A server that is down counts as if it had never spoken handoff (draft §8):
// it reaches the mappings of ours as any other host does.
func TestDownServerIsAPlainHost(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	mapped := r.mappedUDP(t, elsewhere)
	r.tunnelled(t, 0)
	r.servers.Set(addr4(serverA), conntrack.ServerDown)
	out6, _ := r.from4(udp4(t, serverA, 1, mappedA, mapped, nil))
	one(t, out6)
	got := r.tunnelled(t, 0)
	if len(got) != 1 || got[0].Kind != conntrack.Notify || int(got[0].MappedPort) != mapped {
		t.Errorf("%+v, want the server told of the mapping", got)
	}
}

// A server has a client's entries under the client's pool4 address, also when
// a router sends an error about one of them.
func TestErrorIsAskedAboutUnderTheClientsAddress(t *testing.T) {
	pool := []conntrack.Pool4Range{{Addr: addr4(mappedA), First: 1024, Last: 65535}, {Addr: addr4(mappedA) + 1, First: 1024, Last: 65535}}
	r := newRig(t, setup{
		handoff: true,
		rules:   func(rs *Rules) { rs.Pool4 = NewRanges4([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}) },
		table:   func(c *conntrack.Config) { c.Pool4 = pool },
	})
	r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
	inner, udp := ip6(via6(serverA), clientA, layers.IPProtocolUDP), &layers.UDP{SrcPort: 7000, DstPort: 4000}
	udp.SetNetworkLayerForChecksum(inner)
	quote := build(t, inner, udp)
	big := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0)}
	hi, lo := hiLo(clientA)
	want, others := r.table.PairedAddress(conntrack.Addr6{Hi: hi, Lo: lo}), 0
	for i := range 20 {
		router := fmt.Sprintf("2001:db8:1::%x", i+1)
		ip := ip6(router, via6(serverA), layers.IPProtocolICMPv6)
		big.SetNetworkLayerForChecksum(ip)
		r.from6(build(t, ether(layers.EthernetTypeIPv6), ip, big, gopacket.Payload(append([]byte{0, 0, 5, 0}, quote...))))
		got := r.tunnelled(t, 0)
		if len(got) != 1 || got[0].Own != want {
			t.Fatalf("error from %s: %+v, want one query under %08x", router, got, want)
		}
		if hi, lo := hiLo(router); r.table.PairedAddress(conntrack.Addr6{Hi: hi, Lo: lo}) != want {
			others++
		}
	}
	if others == 0 {
		t.Error("every router is paired as the client is: the test shows nothing")
	}
}

// A packet that would make a control datagram in fragments is not sent to a
// server that translates for itself: its client is told what fits.
func TestTooBigForTheControlChannel(t *testing.T) {
	r := newRig(t, setup{handoff: true})
	r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
	whole := udp6(t, clientA, 4000, serverA, 53, make([]byte, 1452))
	back, _ := r.from6(whole)
	if got := r.tunnelled(t, 0); len(got) != 1 || len(back) != 0 {
		t.Errorf("to a server that gives entries: %d tunnelled, %d answers", len(got), len(back))
	}
	r.servers.SetTranslates(addr4(serverA), true)
	const fits = 1500 - 92 // headers, token, rotation, authenticator, hint
	for _, size := range []int{1280, fits, fits + 1, 1500} {
		pkt := udp6(t, clientA, 4000, serverA, 53, make([]byte, size-48))
		back, _ := r.from6(pkt)
		got := r.tunnelled(t, 0)
		if size <= fits {
			if len(got) != 1 || len(back) != 0 {
				t.Errorf("%d octets: %d tunnelled, %d answers", size, len(got), len(back))
			}
			continue
		}
		if len(got) != 0 || len(back) != 1 {
			t.Fatalf("%d octets: %d tunnelled, %d answers", size, len(got), len(back))
		}
		if e := ipOf(back[0]); e[40] != packet.ICMPv6PacketTooBig || binary.BigEndian.Uint32(e[44:]) != fits {
			t.Errorf("%d octets are answered with %x", size, e[40:48])
		}
	}
}
