package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/xlat"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// The network of these tests: clients in 2001:db8::/32 behind one IPv6 router,
// servers in 198.51.100.0/24 and 203.0.113.0/24 behind one IPv4 router.
const (
	clientA = "2001:db8::a"
	clientB = "2001:db8::b"
	serverA = "198.51.100.10"
	mappedA = "192.0.2.1"
	box6    = "2001:db8:ffff::1"
	box4    = "192.0.2.254"
)

var (
	macBox6   = net.HardwareAddr{2, 0, 0, 0, 0, 0x60}
	macBox4   = net.HardwareAddr{2, 0, 0, 0, 0, 0x40}
	macRouter = net.HardwareAddr{2, 0, 0, 0, 0, 0x01}
)

// rig is a translator on memory ports: one or more workers that share tables.
type rig struct {
	t       *testing.T
	rules   *Rules
	table   *conntrack.Table
	hops    *nexthop.Table
	umem    *ring.UMEM
	frames  []*ring.FrameStack
	in6     []*memport.Port
	in4     []*memport.Port
	kernel  []*memport.Port // of each worker, ports to the host's kernel
	workers []*Worker
	handoff []*Handoff // of each worker; nil without
	servers *conntrack.Servers
	now     conntrack.Tick
	came    [][]byte // everything that came out
}

// kernelRing is more than a worker gives the kernel at once.
const kernelRing = 2 * outboxSize

// setup is what a test wants different from the usual.
type setup struct {
	workers   int
	frames    int
	rules     func(*Rules)
	table     func(*conntrack.Config)
	hops      *nexthop.Table
	handoff   bool
	noKernel  bool // there is no port to the host's kernel
	local     bool // the host itself, which is box6, uses the NAT64
	fragments int  // limits.fragments
	lossless  bool // skip the balance check: packets are still inside at the end
}

func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	r := &rig{t: t, now: 1000}
	workers := max(s.workers, 1)
	frames := max(s.frames, 512)
	umem, all, err := memport.NewUMEM(frames*workers, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r.umem = umem
	prefix, err := xlat.ParsePrefix(netip.MustParsePrefix("64:ff9b::/96"))
	if err != nil {
		t.Fatal(err)
	}
	r.rules = &Rules{
		Pool6:         []xlat.Prefix{prefix},
		Pool4:         NewRanges4([]netip.Prefix{netip.MustParsePrefix(mappedA + "/32")}),
		Deny:          NewRanges4([]netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("240.0.0.0/4")}),
		TCPIncoming:   true,
		Hairpin:       true,
		Translation:   xlat.Options{TrafficClassFromTOS: true, UDPZeroCompute: true},
		LowestIPv6MTU: 1280, ICMPErrorsPerSecond: 1000,
		Handoff: s.handoff,
	}
	if s.rules != nil {
		s.rules(r.rules)
	}
	cfg := conntrack.Config{
		Shards: workers, Sessions: 4096, Secret: new([32]byte),
		Pool4:            []conntrack.Pool4Range{{Addr: addr4(mappedA), First: 1024, Last: 65535}},
		AddressDependent: r.rules.AddressDependent,
	}
	if s.handoff {
		cfg.Entries = 4096
		if r.servers, err = conntrack.NewServers(64, [32]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	if s.table != nil {
		s.table(&cfg)
	}
	if r.table, _, err = conntrack.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.hops = s.hops
	if s.local && r.hops == nil {
		r.hops = resolvedHops(nexthop.StaticRoute{Prefix: netip.MustParsePrefix(box6 + "/128"), Hop: nexthop.Hop{State: nexthop.Local}})
	}
	if r.hops == nil {
		r.hops = resolvedHops()
	}
	group := NewGroup(workers)
	for i := range workers {
		stack := ring.NewFrameStack(frames*workers, 2048)
		for range frames {
			f, _ := all.Pop()
			stack.Push(f)
		}
		p6 := memport.New(fmt.Sprintf("ipv6 queue %d", i), umem, stack, 256)
		p4 := memport.New(fmt.Sprintf("ipv4 queue %d", i), umem, stack, 256)
		r.kernel = append(r.kernel, memport.New(fmt.Sprintf("kernel queue %d", i), umem, stack, kernelRing))
		if s.handoff {
			r.handoff = append(r.handoff, newHandoff(r.servers))
		}
		c := Config{
			ID: i, Table: r.table, Shard: r.table.Shard(i), Hops: r.hops, UMEM: umem, Frames: stack,
			Ports: [2][]ring.Port{{p6}, {p4}}, Group: group, Rules: r.rules, Seed: 1, Fragments: s.fragments, Handoff: r.link(i), LocalTraffic: s.local,
		}
		if !s.noKernel {
			c.Kernel = r.kernel[i]
		}
		w, err := NewWorker(c)
		if err != nil {
			t.Fatal(err)
		}
		r.frames, r.in6, r.in4, r.workers = append(r.frames, stack), append(r.in6, p6), append(r.in4, p4), append(r.workers, w)
	}
	t.Cleanup(func() {
		if !s.lossless {
			r.check()
		}
		for _, w := range r.workers {
			w.Close()
		}
		r.table.Close()
		umem.Close()
	})
	return r
}

func newHandoff(servers *conntrack.Servers) *Handoff {
	return &Handoff{
		Out: ring.NewSPSC[conntrack.ToServer](64), In: ring.NewSPSC[conntrack.FromServer](64),
		Back: ring.NewSPSC[uint64](256), Lend: ring.NewSPSC[uint64](256), Servers: servers, Wake: func() {},
	}
}

func (r *rig) link(i int) *Handoff {
	if r.handoff == nil {
		return nil
	}
	return r.handoff[i]
}

// resolvedHops has every destination behind the router of its side, but for
// the routes given.
func resolvedHops(routes ...nexthop.StaticRoute) *nexthop.Table {
	link6 := nexthop.Link{Index: 1, Name: "six", MTU: 1500, Up: true, MAC: [6]byte(macBox6)}
	link6.Addr6Hi, link6.Addr6Lo = hiLo(box6)
	link4 := nexthop.Link{Index: 2, Name: "four", MTU: 1500, Up: true, MAC: [6]byte(macBox4), Addr4: addr4(box4)}
	hop6 := nexthop.Hop{State: nexthop.Resolved, MTU: 1500, Side: nexthop.IPv6, Eth: eth(macRouter, macBox6)}
	hop4 := nexthop.Hop{State: nexthop.Resolved, MTU: 1500, Side: nexthop.IPv4, Eth: eth(macRouter, macBox4)}
	return nexthop.NewStatic(link6, link4, hop6, hop4, routes...)
}

func eth(dst, src net.HardwareAddr) (e [12]byte) {
	copy(e[:6], dst)
	copy(e[6:], src)
	return e
}

func addr4(s string) uint32 { return v4(netip.MustParseAddr(s)) }

func hiLo(s string) (hi, lo uint64) {
	b := netip.MustParseAddr(s).As16()
	for i := range 8 {
		hi, lo = hi<<8|uint64(b[i]), lo<<8|uint64(b[8+i])
	}
	return hi, lo
}

// check asserts, with everything at rest, that every packet is accounted for
// and every frame is in exactly one place.
func (r *rig) check() {
	r.t.Helper()
	var sum Counters
	var places []ring.Place
	for i, w := range r.workers {
		w.counters.publish()
		c := w.Counters()
		sum.Add(&c)
		places = append(places, ring.Place{Name: fmt.Sprintf("stack %d", i), Frames: r.frames[i].Frames()})
		places = append(places, r.in6[i].Places()...)
		places = append(places, r.in4[i].Places()...)
		places = append(places, r.kernel[i].Places()...)
		places = append(places, w.places()...)
	}
	if diff, ok := sum.Balanced(); !ok {
		r.t.Errorf("received + generated - (translated + passed + parked + dropped) = %d: %+v", diff, sum)
	}
	if err := ring.Census(r.umem, places...); err != nil {
		r.t.Error(err)
	}
}

// places lists the frames that the worker holds between two rounds.
func (w *Worker) places() []ring.Place {
	var parked []uint64
	for _, q := range w.parked.slots[:w.parked.n] {
		parked = append(parked, q.desc.Addr)
	}
	places := []ring.Place{{Name: "parked", Frames: parked}, {Name: "held", Frames: w.datagrams.heldFrames()}}
	if w.handoff != nil {
		lent := drain(w.handoff.Lend)
		for _, f := range lent {
			w.handoff.Lend.Push(f)
		}
		places = append(places, ring.Place{Name: "lent", Frames: lent})
	}
	return places
}

// heldFrames lists the frames of fragments that wait or are to go on.
func (t *datagrams) heldFrames() (all []uint64) {
	for l := range t.lists {
		for i := t.lists[l].first; i != 0; i = t.all[i].next {
			for s := t.all[i].front; s != 0; s = t.slots[s].next {
				all = append(all, t.slots[s].desc.Addr)
			}
		}
	}
	for s := t.head; s != 0; s = t.slots[s].next {
		all = append(all, t.slots[s].desc.Addr)
	}
	return all
}

// drain empties a ring. For tests, with everything at rest.
func drain[T any](q *ring.SPSC[T]) (all []T) {
	for {
		v, ok := q.Pop()
		if !ok {
			return all
		}
		all = append(all, v)
	}
}

// poll runs rounds on all workers until none has anything left to do.
func (r *rig) poll() {
	for range 4 {
		for _, w := range r.workers {
			w.Poll(r.now)
		}
	}
}

// from6 lets packets arrive on the IPv6 side of worker 0 and returns what
// comes out: on the IPv6 side (hairpin, errors) and on the IPv4 side.
func (r *rig) from6(packets ...[]byte) (out6, out4 [][]byte) {
	r.t.Helper()
	return r.pass(r.in6[0], packets)
}

func (r *rig) from4(packets ...[]byte) (out6, out4 [][]byte) {
	r.t.Helper()
	return r.pass(r.in4[0], packets)
}

func (r *rig) pass(p *memport.Port, packets [][]byte) (out6, out4 [][]byte) {
	r.t.Helper()
	for _, b := range packets {
		if !p.Inject(b) {
			r.t.Fatalf("packet of %d octets does not fit the port", len(b))
		}
	}
	r.poll()
	for i := range r.workers {
		out6 = append(out6, r.in6[i].Drain()...)
		out4 = append(out4, r.in4[i].Drain()...)
	}
	r.came = append(append(r.came, out6...), out4...)
	return out6, out4
}

// drops is the number of packets lost for the reason.
func (r *rig) drops(reason DropReason) (n uint64) {
	for _, w := range r.workers {
		n += w.counters.Drops[reason]
	}
	return n
}

// build serialises layers with gopacket, which computes lengths and checksums
// independently of the code under test.
func build(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ether(t layers.EthernetType) *layers.Ethernet {
	dst := macBox6
	if t == layers.EthernetTypeIPv4 {
		dst = macBox4
	}
	return &layers.Ethernet{SrcMAC: macRouter, DstMAC: dst, EthernetType: t}
}

func ip6(src, dst string, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: next, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func ip4(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
}

// via6 is the server's address as a client writes it.
func via6(server string) string { return "64:ff9b::" + server }

func udp6(t testing.TB, src string, sport int, server string, dport int, data []byte) []byte {
	ip := ip6(src, via6(server), layers.IPProtocolUDP)
	u := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	u.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv6), ip, u, gopacket.Payload(data))
}

func udp4(t testing.TB, server string, sport int, dst string, dport int, data []byte) []byte {
	ip := ip4(server, dst, layers.IPProtocolUDP)
	u := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	u.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv4), ip, u, gopacket.Payload(data))
}

func tcp6(t testing.TB, src string, sport int, server string, dport int, flags string) []byte {
	ip := ip6(src, via6(server), layers.IPProtocolTCP)
	c := tcpLayer(sport, dport, flags)
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv6), ip, c)
}

func tcp4(t testing.TB, server string, sport int, dst string, dport int, flags string) []byte {
	ip := ip4(server, dst, layers.IPProtocolTCP)
	c := tcpLayer(sport, dport, flags)
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv4), ip, c)
}

func tcpLayer(sport, dport int, flags string) *layers.TCP {
	c := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Seq: 1, Window: 1000}
	for _, f := range flags {
		switch f {
		case 'S':
			c.SYN = true
		case 'A':
			c.ACK = true
		case 'F':
			c.FIN = true
		case 'R':
			c.RST = true
		}
	}
	return c
}

func echo6(t testing.TB, src, server string, id, seq uint16, data []byte) []byte {
	ip := ip6(src, via6(server), layers.IPProtocolICMPv6)
	i := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	i.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv6), ip, i, &layers.ICMPv6Echo{Identifier: id, SeqNumber: seq}, gopacket.Payload(data))
}

func echo4(t testing.TB, typ uint8, server, dst string, id, seq uint16, data []byte) []byte {
	ip := ip4(server, dst, layers.IPProtocolICMPv4)
	i := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(typ, 0), Id: id, Seq: seq}
	return build(t, ether(layers.EthernetTypeIPv4), ip, i, gopacket.Payload(data))
}

// decode reads a packet with gopacket and fails the test unless every checksum
// in it is right.
func decode(t *testing.T, b []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil && p.TransportLayer() == nil { // a port at random may be that of some application protocol
		t.Fatalf("%v in % x", e.Error(), b)
	}
	for _, l := range p.Layers() {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
	}
	err, bad := p.VerifyChecksums()
	if err != nil {
		t.Fatalf("verify checksums: %v", err)
	}
	for _, m := range bad {
		t.Errorf("bad checksum: %+v in\n%s", m, p)
	}
	return p
}

// one asserts that there is exactly one packet and decodes it.
func one(t *testing.T, packets [][]byte) gopacket.Packet {
	t.Helper()
	if len(packets) != 1 {
		t.Fatalf("%d packets came out, want 1", len(packets))
	}
	return decode(t, packets[0])
}

func none(t *testing.T, packets [][]byte) {
	t.Helper()
	for _, b := range packets {
		t.Errorf("unexpected packet:\n%s", decode(t, b))
	}
}
