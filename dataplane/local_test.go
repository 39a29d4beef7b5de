package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// fromHost lets packets of the host itself arrive at a worker and returns what
// comes out: towards the host, and on the IPv4 side.
func (r *rig) fromHost(worker int, packets ...[]byte) (toHost, out4 [][]byte) {
	r.t.Helper()
	out6, out4 := r.pass(r.kernel[worker], packets)
	none(r.t, out6)
	return r.toHost(), out4
}

// toHost is what the kernel of the host was given.
func (r *rig) toHost() (all [][]byte) {
	for _, p := range r.kernel {
		all = append(all, p.Drain()...)
	}
	return all
}

func TestLocalTraffic(t *testing.T) {
	r := newRig(t, setup{local: true})
	toHost, out4 := r.fromHost(0, udp6(t, box6, 40000, serverA, 5300, []byte("from the box")))
	none(t, toHost)
	src, dst, mapped, dport := transport(t, one(t, out4))
	if src != mappedA || dst != serverA || dport != 5300 {
		t.Fatalf("got %s:%d -> %s:%d", src, mapped, dst, dport)
	}
	out6, out4 := r.from4(udp4(t, serverA, 5300, mappedA, mapped, []byte("to the box")))
	none(t, out6)
	none(t, out4)
	p := one(t, r.toHost())
	src, dst, sport, dport := transport(t, p)
	if src != "64:ff9b::c633:640a" || dst != box6 || sport != 5300 || dport != 40000 {
		t.Errorf("got %s:%d -> %s:%d", src, sport, dst, dport)
	}
	if !bytes.Equal(p.TransportLayer().LayerPayload(), []byte("to the box")) {
		t.Errorf("payload changed: %q", p.TransportLayer().LayerPayload())
	}
	c := r.workers[0].counters.Counters
	if c.RxPackets != [families]uint64{1, 1} || c.TxPackets != [families]uint64{1, 1} || c.Translated != [directions]uint64{1, 1, 0} || c.TxBytes[IPv6] != 72 {
		t.Errorf("counters %+v", c)
	}
}

// Every error that the NAT64 makes about the host's packets goes to the host.
func TestErrorsToTheHost(t *testing.T) {
	ip := ip6(box6, via6(serverA), layers.IPProtocolUDP)
	ip.HopLimit = 1
	u := &layers.UDP{SrcPort: 1, DstPort: 2}
	u.SetNetworkLayerForChecksum(ip)
	expired := build(t, ether(layers.EthernetTypeIPv6), ip, u)
	r := newRig(t, setup{local: true, rules: func(rs *Rules) { rs.MTU[IPv4] = 1400 }})
	for _, c := range []struct {
		packet []byte
		typ    uint8
		mtu    uint32
	}{
		{expired, layers.ICMPv6TypeTimeExceeded, 0},
		{udp6(t, box6, 40000, serverA, 5300, make([]byte, 1400)), layers.ICMPv6TypePacketTooBig, 1420},
		{udp6(t, box6, 40000, "169.254.1.1", 5300, nil), layers.ICMPv6TypeDestinationUnreachable, 0},
	} {
		toHost, out4 := r.fromHost(0, c.packet)
		none(t, out4)
		p := one(t, toHost)
		icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		if !ok || icmp.TypeCode.Type() != c.typ || c.mtu != 0 && binary.BigEndian.Uint32(icmp.Payload) != c.mtu {
			t.Errorf("want type %d, MTU %d: %s", c.typ, c.mtu, p)
		}
	}
	// What fits the IPv4 link goes out.
	toHost, out4 := r.fromHost(0, udp6(t, box6, 40000, serverA, 5300, make([]byte, 1400-28)))
	none(t, toHost)
	_, _, mapped, _ := transport(t, one(t, out4))
	// And what a router out there says about it comes back.
	inner := ip4(mappedA, serverA, layers.IPProtocolUDP)
	u = &layers.UDP{SrcPort: layers.UDPPort(mapped), DstPort: 5300}
	u.SetNetworkLayerForChecksum(inner)
	quote := build(t, inner, u)
	needed := build(t, ether(layers.EthernetTypeIPv4), ip4("203.0.113.1", mappedA, layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1300}, gopacket.Payload(quote))
	out6, _ := r.from4(needed)
	none(t, out6)
	icmp, ok := one(t, r.toHost()).Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok || icmp.TypeCode.Type() != layers.ICMPv6TypePacketTooBig || binary.BigEndian.Uint32(icmp.Payload) != 1320 {
		t.Errorf("a router's Fragmentation Needed became %+v", icmp)
	}
}

// Between host and NAT64 there is no link: what fills the IPv4 link comes
// through whole, with the 20 octets that it grows by.
func TestFullPacketToTheHost(t *testing.T) {
	r := newRig(t, setup{local: true, rules: func(rs *Rules) { rs.MTU[IPv6] = 1280 }})
	_, out4 := r.fromHost(0, udp6(t, box6, 40000, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	ip := ip4(serverA, mappedA, layers.IPProtocolUDP)
	ip.Flags = layers.IPv4DontFragment
	u := &layers.UDP{SrcPort: 5300, DstPort: layers.UDPPort(mapped)}
	u.SetNetworkLayerForChecksum(ip)
	_, out4 = r.from4(build(t, ether(layers.EthernetTypeIPv4), ip, u, gopacket.Payload(make([]byte, 1472))))
	none(t, out4)
	if p := one(t, r.toHost()); p.NetworkLayer().(*layers.IPv6).Length != 1480 {
		t.Errorf("length %d, want 1480", p.NetworkLayer().(*layers.IPv6).Length)
	}
	// Without DF it is cut for links that a translator cannot know of.
	r.from4(udp4(t, serverA, 5300, mappedA, mapped, make([]byte, 1472)))
	if n := len(r.toHost()); n != 2 {
		t.Errorf("%d fragments, want 2", n)
	}
}

func TestLocalMTU(t *testing.T) {
	for _, c := range []struct {
		mtu4  uint32
		frame int
		want  uint32
	}{{1500, 2048, 1520}, {1400, 2048, 1420}, {9000, 2048, 1778}, {9000, 4096, 3826}, {576, 2048, 1280}} {
		if got := LocalMTU(c.mtu4, c.frame); got != c.want {
			t.Errorf("IPv4 MTU %d, frames of %d: %d, want %d", c.mtu4, c.frame, got, c.want)
		}
	}
}

// Nobody opens a session in the host's name from outside, and a host without
// local_traffic gets nothing and is not listened to.
func TestNotTheHost(t *testing.T) {
	r := newRig(t, setup{local: true})
	out6, out4 := r.from6(udp6(t, box6, 40000, serverA, 5300, nil))
	none(t, append(out6, out4...))
	if n := r.drops(DropBadSource); n != 1 {
		t.Errorf("%d packets dropped as %s", n, DropBadSource)
	}
	local := nexthop.StaticRoute{Prefix: netip.MustParsePrefix(box6 + "/128"), Hop: nexthop.Hop{State: nexthop.Local}}
	off := newRig(t, setup{hops: resolvedHops(local)})
	toHost, out4 := off.fromHost(0, udp6(t, box6, 40000, serverA, 5300, nil))
	none(t, append(toHost, out4...))
	_, out4 = off.from6(udp6(t, box6, 40000, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	off.from4(udp4(t, serverA, 5300, mappedA, mapped, nil))
	none(t, off.toHost())
	if n := off.drops(DropRouteLocal); n != 1 {
		t.Errorf("%d packets dropped as %s", n, DropRouteLocal)
	}
}

// A service of the host's behind a static mapping.
func TestStaticMappingToTheHost(t *testing.T) {
	hi, lo := hiLo(box6)
	r := newRig(t, setup{local: true, table: func(c *conntrack.Config) {
		c.Static = []conntrack.Static{{Proto: conntrack.TCP, Client: conntrack.Addr6{Hi: hi, Lo: lo}, ClientPort: 80, Mapped: addr4(mappedA), MappedPort: 8080}}
	}})
	out6, out4 := r.from4(tcp4(t, serverA, 1234, mappedA, 8080, "S"))
	none(t, append(out6, out4...))
	if _, dst, _, dport := transport(t, one(t, r.toHost())); dst != box6 || dport != 80 {
		t.Errorf("the SYN went to %s:%d", dst, dport)
	}
	_, out4 = r.fromHost(0, tcp6(t, box6, 80, serverA, 1234, "SA"))
	if src, _, sport, _ := transport(t, one(t, out4)); src != mappedA || sport != 8080 {
		t.Errorf("the answer came from %s:%d", src, sport)
	}
}

// The kernel spreads the host's flows over the queues as it likes, and answers
// arrive on any: each worker gives what it has to its own queue.
func TestLocalTrafficOfSeveralWorkers(t *testing.T) {
	const workers = 3
	r := newRig(t, setup{workers: workers, local: true, frames: 1024})
	for port := range 60 {
		toHost, out4 := r.fromHost(port%workers, udp6(t, box6, 40000+port, serverA, 5300, []byte{byte(port)}))
		none(t, toHost)
		_, _, mapped, _ := transport(t, one(t, out4))
		r.in4[(port/workers)%workers].Inject(udp4(t, serverA, 5300, mappedA, mapped, []byte{byte(port)}))
		r.poll()
		if _, _, _, dport := transport(t, one(t, r.toHost())); dport != 40000+port {
			t.Errorf("port %d: the answer went to port %d", 40000+port, dport)
		}
	}
}

// A client reaches the host through its mapped port, and the host a client
// (hairpinning).
func TestHairpinWithTheHost(t *testing.T) {
	r := newRig(t, setup{local: true})
	_, out4 := r.fromHost(0, udp6(t, box6, 40000, serverA, 5300, nil))
	_, _, box, _ := transport(t, one(t, out4))
	_, out4 = r.from6(udp6(t, clientA, 40000, serverA, 5300, nil))
	_, _, client, _ := transport(t, one(t, out4))
	r.from6(udp6(t, clientA, 40000, mappedA, box, nil))
	if _, dst, sport, dport := transport(t, one(t, r.toHost())); dst != box6 || sport != client || dport != 40000 {
		t.Errorf("client to host: to %s:%d from port %d", dst, dport, sport)
	}
	out6, _ := r.pass(r.kernel[0], [][]byte{udp6(t, box6, 40000, mappedA, client, nil)})
	if _, dst, sport, dport := transport(t, one(t, out6)); dst != clientA || sport != box || dport != 40000 {
		t.Errorf("host to client: to %s:%d from port %d", dst, dport, sport)
	}
}

// A busy worker does not forget the host.
func TestHostIsHeardUnderLoad(t *testing.T) {
	r := newRig(t, setup{local: true, frames: 1024})
	r.kernel[0].Inject(udp6(t, box6, 40000, serverA, 5300, []byte("host")))
	for range 2 * localRounds {
		r.in6[0].Inject(udp6(t, clientA, 4000, serverA, 5300, nil))
		r.workers[0].Poll(r.now)
	}
	heard := slices.ContainsFunc(r.in4[0].Drain(), func(b []byte) bool { return bytes.HasSuffix(b, []byte("host")) })
	if !heard {
		t.Errorf("not in %d busy rounds", 2*localRounds)
	}
}

// eventPort is a port to sleep on.
type eventPort struct {
	*memport.Port
	fd int
}

func (p eventPort) PollFD() int { return p.fd }

// A sleeping worker wakes for the host's packets, if they are its business.
func TestHostWakesTheWorker(t *testing.T) {
	for _, local := range []bool{true, false} {
		t.Run(fmt.Sprint(local), func(t *testing.T) {
			r := newRig(t, setup{local: local})
			fd, err := unix.Eventfd(1, unix.EFD_NONBLOCK) // something to read
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			w := r.workers[0]
			w.kernel.port = eventPort{r.kernel[0], fd}
			woke := false
			fds := w.pollFDs()
			w.sleep(fds)
			for _, f := range fds {
				woke = woke || int(f.Fd) == fd && f.Revents&unix.POLLIN != 0
			}
			if woke != local {
				t.Errorf("the worker woke for the host: %v, want %v", woke, local)
			}
		})
	}
}

func TestLocalTrafficAllocatesNothing(t *testing.T) {
	r := newRig(t, setup{local: true, frames: 1024})
	loop := memport.NewLoop("kernel", r.umem, r.frames[0], memport.Cycle(udp6(t, box6, 40000, serverA, 5300, nil)), 512)
	w := r.workers[0]
	w.kernel.port = loop
	out := memport.NewLoop("ipv4", r.umem, r.frames[0], nil, 512)
	w.out[IPv4].port, w.rx[1].Port = out, ring.Port(out)
	w.Poll(r.now)
	if n := testing.AllocsPerRun(100, func() { w.Poll(r.now) }); n != 0 {
		t.Errorf("%v allocations per round", n)
	}
	if sent, _ := out.Sent(); sent < 100*BurstSize {
		t.Errorf("only %d packets sent", sent)
	}
}

// An idle connection of the host is probed as any other client's.
func TestHostIsProbed(t *testing.T) {
	r := newRig(t, setup{local: true, table: func(c *conntrack.Config) { c.Timeouts = tcpTimeouts }})
	_, out4 := r.fromHost(0, tcp6(t, box6, 40000, serverA, 443, "S"))
	_, _, mapped, _ := transport(t, one(t, out4))
	r.from4(tcp4(t, serverA, 443, mappedA, mapped, "SA"))
	one(t, r.toHost())
	out6, out4 := r.until(r.now + tcpTimeouts.TCPEstablished + 1)
	none(t, out6)
	none(t, out4)
	src, dst, sport, dport := transport(t, one(t, r.toHost()))
	if src != "64:ff9b::c633:640a" || dst != box6 || sport != 443 || dport != 40000 {
		t.Errorf("probe %s %d > %s %d", src, sport, dst, dport)
	}
	r.check()
}

func TestTapSeesAnswersToTheHost(t *testing.T) {
	r := newRig(t, setup{local: true})
	_, _, seen := r.tap(TapConfig{Octets: 100, Sent: true})
	toHost, _ := r.fromHost(0, udp6(t, box6, 40000, "169.254.1.1", 5300, nil))
	one(t, toHost)
	all := seen()
	if len(all) != 2 || !all[0].Answered || all[0].Answer != [2]uint8{1, 1} || all[1].Kind != SightOut || all[1].Side != IPv6 {
		t.Errorf("%d records: %+v", len(all), all)
	}
}
