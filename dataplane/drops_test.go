package dataplane

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

// dropCase provokes one reason: prepare and packet run on a fresh rig, after
// which exactly the last packet must have been dropped under the reason.
type dropCase struct {
	reason DropReason
	setup  setup
	run    func(t *testing.T, r *rig)
	n      uint64 // how many packets are dropped; 0 means 1
}

func with6(t testing.TB, change func(*layers.IPv6)) []byte {
	ip := ip6(clientA, via6(serverA), layers.IPProtocolUDP)
	change(ip)
	u := &layers.UDP{SrcPort: 4000, DstPort: 4001}
	if ip.NextHeader == layers.IPProtocolUDP {
		u.SetNetworkLayerForChecksum(ip)
	}
	return build(t, ether(layers.EthernetTypeIPv6), ip, u)
}

func with4(t testing.TB, change func(*layers.IPv4)) []byte {
	ip := ip4(serverA, mappedA, layers.IPProtocolUDP)
	change(ip)
	u := &layers.UDP{SrcPort: 4001, DstPort: 4000}
	u.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv4), ip, u)
}

// patched is the packet with octets overwritten at an offset from the IP header.
func patched(b []byte, at int, octets ...byte) []byte {
	b = slices.Clone(b)
	copy(b[ethernetHeader+at:], octets)
	return b
}

func send6(packets ...[]byte) func(*testing.T, *rig) {
	return func(t *testing.T, r *rig) { r.from6(packets...) }
}

func send4(packets ...[]byte) func(*testing.T, *rig) {
	return func(t *testing.T, r *rig) { r.from4(packets...) }
}

// mappedUDP opens a session from clientA and returns its mapped port.
func (r *rig) mappedUDP(t *testing.T, server string) int {
	_, out4 := r.from6(udp6(t, clientA, 4000, server, 4001, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	return mapped
}

// route gives the servers in 203.0.113.0/24 a hop of the kind.
func route(h nexthop.Hop) setup {
	return setup{hops: resolvedHops(nexthop.StaticRoute{Prefix: netip.MustParsePrefix("203.0.113.0/24"), Hop: h})}
}

const elsewhere = "203.0.113.5"

func toElsewhere(t *testing.T, r *rig) { r.from6(udp6(t, clientA, 4000, elsewhere, 4001, nil)) }

func quoting6(t *testing.T, quote []byte, corrupt bool) []byte {
	ip := ip6(clientA, via6(serverA), layers.IPProtocolICMPv6)
	c := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(1, 4)}
	c.SetNetworkLayerForChecksum(ip)
	b := build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(append(make([]byte, 4), quote...)))
	if corrupt {
		b[ethernetHeader+40+2] ^= 0x55
	}
	return b
}

func dropCases(t *testing.T) []dropCase {
	udp := with6(t, func(*layers.IPv6) {})
	v4 := with4(t, func(*layers.IPv4) {})
	return []dropCase{
		{reason: DropNotIP, run: send6(append(slices.Clone(udp[:12]), append([]byte{0x81, 0}, udp[14:]...)...))},
		{reason: DropTruncated, run: send6(udp[:30])},
		{reason: DropBadVersion, run: send6(patched(udp, 0, 0x50))},
		{reason: DropBadHeaderLength, run: send4(patched(v4, 0, 0x44))},
		{reason: DropBadHeaderChecksum, run: send4(patched(v4, 10, 0xde, 0xad))},
		{reason: DropSourceRoute, run: send4(with4(t, func(ip *layers.IPv4) {
			ip.Options = []layers.IPv4Option{{OptionType: 131, OptionLength: 7, OptionData: []byte{4, 10, 0, 0, 1}}, {OptionType: 0}}
		}))},
		{reason: DropSegmentsLeft, run: send6(routingHeader(t))},
		{reason: DropBadExtensionHeader, run: send6(patched(with6(t, func(*layers.IPv6) {}), 6, 60, 64, 17, 0xff))},
		{reason: DropBadFragment, run: send4(piece4(t, 1, 16, true, make([]byte, 12), 17))},

		{reason: DropNotPool6, run: send6(with6(t, func(ip *layers.IPv6) { ip.DstIP = netip.MustParseAddr(clientB).AsSlice() }))},
		{reason: DropNotPool4, run: send4(with4(t, func(ip *layers.IPv4) { ip.DstIP = netip.MustParseAddr("192.0.2.99").AsSlice() }))},
		{reason: DropSourceInPool6, run: send6(with6(t, func(ip *layers.IPv6) { ip.SrcIP = netip.MustParseAddr("64:ff9b::1").AsSlice() }))},
		{reason: DropBadSource, run: send6(with6(t, func(ip *layers.IPv6) { ip.SrcIP = netip.MustParseAddr("fe80::1").AsSlice() }))},
		{reason: DropFragmentTiny, n: 2, run: send4(piece4(t, 1, 0, true, make([]byte, 16), 6), piece4(t, 1, 16, false, []byte("x"), 6))},
		{reason: DropFragmentTooLong, n: 2, run: send4(piece4(t, 1, 65512, false, []byte("0123"), 17), piece4(t, 1, 0, true, make([]byte, 8), 17))},
		{reason: DropFragmentTooMany, n: maxPieces + 1, setup: setup{frames: 1024}, run: func(t *testing.T, r *rig) {
			for i := range maxPieces + 1 {
				r.from4(piece4(t, 1, 8+8*i, true, make([]byte, 8), 17))
			}
		}},
		{reason: DropFragmentOverlap, n: 4, run: send4(piece4(t, 1, 16, true, make([]byte, 16), 17), piece4(t, 1, 40, true, make([]byte, 8), 17),
			piece4(t, 1, 24, true, make([]byte, 16), 17), piece4(t, 1, 0, true, make([]byte, 16), 17))},
		{reason: DropFragmentDuplicate, run: func(t *testing.T, r *rig) {
			mapped := r.mappedUDP(t, serverA)
			some := pieces4(t, udp4(t, serverA, 4001, mappedA, mapped, make([]byte, 32)), 5, 16)
			r.from4(some[1], some[1], some[0], some[2])
		}},
		{reason: DropFragmentICMP, n: 2, run: func(t *testing.T, r *rig) {
			r.from4(pieces4(t, quoting4(t, udp4(t, mappedA, r.mappedUDP(t, serverA), serverA, 4001, nil)), 5, 24)[:2]...)
		}},
		{reason: DropFragmentNoFirst, n: 2, run: func(t *testing.T, r *rig) {
			r.from4(piece4(t, 1, 16, true, make([]byte, 16), 17), piece4(t, 2, 16, true, make([]byte, 16), 17))
			r.now += defaultFragmentTicks + 1
			r.poll()
		}},
		{reason: DropFragmentIncomplete, run: func(t *testing.T, r *rig) {
			r.from6(pieces6(t, echo6(t, clientA, serverA, 1, 1, make([]byte, 32)), 5, 16)[0])
			r.now += defaultFragmentTicks + 1
			r.poll()
		}},
		{reason: DropFragmentLimit, setup: setup{fragments: 4}, n: 2, run: func(t *testing.T, r *rig) {
			r.from4(piece4(t, 1, 16, true, make([]byte, 16), 17), piece4(t, 1, 32, true, make([]byte, 16), 17))
			r.from4(piece4(t, 2, 16, true, make([]byte, 16), 17), piece4(t, 2, 32, true, make([]byte, 16), 17))
			r.from4(piece4(t, 3, 16, true, make([]byte, 16), 17))
		}},
		{reason: DropFragmentNoSession, run: func(t *testing.T, r *rig) {
			some := pieces4(t, udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), make([]byte, 32)), 5, 16)
			r.from4(some[0])
			r.table.Flush()
			r.poll()
			r.from4(some[1])
		}},
		{reason: DropProtocol, run: send6(patched(udp, 6, 132))},
		{reason: DropICMPType, run: send4(echo4(t, 13, serverA, mappedA, 1, 1, make([]byte, 12)))},
		{reason: DropICMPChecksum, run: func(t *testing.T, r *rig) {
			out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil))
			r.from6(quoting6(t, out6[0][ethernetHeader:], true))
		}},
		{reason: DropQuote, run: func(t *testing.T, r *rig) { r.from6(quoting6(t, []byte{0x60, 0, 0}, false)) }},

		{reason: DropDenied, run: func(t *testing.T, r *rig) { r.from6(udp6(t, clientA, 1, "169.254.1.1", 2, nil)) }},
		{reason: DropWellKnownPrefix, setup: setup{rules: func(rs *Rules) { rs.WellKnownStrict = true }},
			run: func(t *testing.T, r *rig) { r.from6(udp6(t, clientA, 1, "10.0.0.1", 2, nil)) }},
		{reason: DropTCPWithoutSession, run: func(t *testing.T, r *rig) { r.from6(tcp6(t, clientA, 1, serverA, 2, "A")) }},
		{reason: DropNoMapping, run: send4(v4)},
		{reason: DropFiltered, setup: setup{rules: func(rs *Rules) { rs.AddressDependent = true }},
			run: func(t *testing.T, r *rig) {
				r.from4(udp4(t, elsewhere, 9, mappedA, r.mappedUDP(t, serverA), nil))
			}},
		{reason: DropTCPIncoming, setup: setup{rules: func(rs *Rules) { rs.TCPIncoming = false }},
			run: func(t *testing.T, r *rig) {
				r.from4(tcp4(t, elsewhere, 9, mappedA, r.mappedUDP(t, serverA), "S"))
			}},
		{reason: DropSYNStored, run: send4(tcp4(t, serverA, 1, mappedA, 5000, "S"))},
		{reason: DropSYNStoreFull, n: 3, setup: setup{lossless: true}, run: overfillSYNs},
		{reason: DropTableFull, setup: setup{table: func(c *conntrack.Config) { c.Sessions = 1 }},
			run: func(t *testing.T, r *rig) {
				r.mappedUDP(t, serverA)
				r.from6(udp6(t, clientB, 1, serverA, 2, nil))
			}},
		{reason: DropPortsExhausted, setup: setup{table: func(c *conntrack.Config) { c.Pool4[0].Last = c.Pool4[0].First }},
			run: func(t *testing.T, r *rig) {
				r.mappedUDP(t, serverA)
				r.from6(udp6(t, clientB, 1, serverA, 2, nil))
			}},
		{reason: DropClientSessions, setup: perClient(conntrack.ClientLimits{Sessions: 1}),
			run: func(t *testing.T, r *rig) {
				r.mappedUDP(t, serverA)
				r.from6(udp6(t, clientA, 1, serverA, 2, nil))
			}},
		{reason: DropClientPorts, setup: perClient(conntrack.ClientLimits{Ports: 1}),
			run: func(t *testing.T, r *rig) {
				r.mappedUDP(t, serverA)
				r.from6(udp6(t, clientA, 1, serverA, 2, nil))
			}},
		{reason: DropClientsFull, setup: perClient(conntrack.ClientLimits{Ports: 1}), run: fillClientBucket},
		{reason: DropErrorWithoutSession, run: func(t *testing.T, r *rig) {
			stranger := ip6(via6(serverA), clientA, layers.IPProtocolUDP)
			u := &layers.UDP{SrcPort: 7, DstPort: 8}
			u.SetNetworkLayerForChecksum(stranger)
			r.from6(quoting6(t, build(t, stranger, u), false))
		}},
		{reason: DropHandoverFull, n: 20, setup: setup{workers: 2, frames: 2048}, run: overflowHandover},

		{reason: DropReturned, setup: setup{handoff: true}, run: func(t *testing.T, r *rig) {
			r.comesBack(t, 0, viaServer, v4)
		}},
		{reason: DropHandoffFull, setup: setup{handoff: true}, n: 8, run: func(t *testing.T, r *rig) {
			for range 64 + 8 {
				r.from4(v4)
			}
			r.tunnelled(t, 0)
		}},

		{reason: DropHopLimit, run: send6(with6(t, func(ip *layers.IPv6) { ip.HopLimit = 1 }))},
		{reason: DropTTL, run: func(t *testing.T, r *rig) {
			mapped := r.mappedUDP(t, serverA)
			ip := ip4(serverA, mappedA, layers.IPProtocolUDP)
			ip.TTL = 1
			u := &layers.UDP{SrcPort: 4001, DstPort: layers.UDPPort(mapped)}
			u.SetNetworkLayerForChecksum(ip)
			r.from4(build(t, ether(layers.EthernetTypeIPv4), ip, u))
		}},
		{reason: DropTooBig6, setup: route(nexthop.Hop{State: nexthop.Resolved, MTU: 1280, Eth: eth(macRouter, macBox4)}),
			run: func(t *testing.T, r *rig) { r.from6(udp6(t, clientA, 1, elsewhere, 2, make([]byte, 1300))) }},
		{reason: DropTooBig4, setup: setup{rules: func(rs *Rules) { rs.MTU[IPv6] = 1280 }}, run: func(t *testing.T, r *rig) {
			mapped := r.mappedUDP(t, serverA)
			ip := ip4(serverA, mappedA, layers.IPProtocolUDP)
			ip.Flags = layers.IPv4DontFragment
			u := &layers.UDP{SrcPort: 4001, DstPort: layers.UDPPort(mapped)}
			u.SetNetworkLayerForChecksum(ip)
			r.from4(build(t, ether(layers.EthernetTypeIPv4), ip, u, gopacket.Payload(make([]byte, 1300))))
		}},
		{reason: DropUDPZeroChecksum, run: send6(patched(udp, 46, 0, 0))},
		{reason: DropHairpinOff, setup: setup{rules: func(rs *Rules) { rs.Hairpin = false }},
			run: func(t *testing.T, r *rig) { r.from6(udp6(t, clientA, 1, mappedA, 2, nil)) }},
		{reason: DropHeadroom, run: func(t *testing.T, r *rig) {
			b := udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil)
			w := r.workers[0]
			addr, _ := w.frames.Pop()
			copy(w.umem.Frame(addr), b) // where no port of ours puts a packet: at the very start
			w.main.n = 0
			w.main.add(w.umem, ring.Desc{Addr: addr, Len: uint32(len(b))}, viaPort)
			w.counters.RxPackets[IPv4]++
			w.process(&w.main)
		}},
		{reason: DropNoFrame, setup: setup{frames: 130}, run: func(t *testing.T, r *rig) {
			mapped := r.mappedUDP(t, serverA)
			w := r.workers[0]
			var taken []uint64
			for w.frames.Len() > 1 {
				f, _ := w.frames.Pop()
				taken = append(taken, f)
			}
			r.from4(udp4(t, serverA, 4001, mappedA, mapped, make([]byte, 1400)))
			for _, f := range taken {
				w.frames.Push(f)
			}
		}},

		{reason: DropNoRoute, setup: route(nexthop.Hop{State: nexthop.NoRoute}), run: toElsewhere},
		{reason: DropRouteProhibited, setup: route(nexthop.Hop{State: nexthop.Prohibit}), run: toElsewhere},
		{reason: DropRouteElsewhere, setup: route(nexthop.Hop{State: nexthop.Elsewhere}), run: toElsewhere},
		{reason: DropRouteLocal, setup: route(nexthop.Hop{State: nexthop.Local}), run: toElsewhere},
		{reason: DropNeighbourFailed, setup: route(nexthop.Hop{State: nexthop.Unresolved, Failed: true}), run: toElsewhere},
		{reason: DropParkTimeout, setup: route(nexthop.Hop{State: nexthop.Unresolved}), run: func(t *testing.T, r *rig) {
			toElsewhere(t, r)
			r.now += parkTicks + 1
			r.poll()
		}},
		{reason: DropParkFull, n: 8, setup: func() setup {
			s := route(nexthop.Hop{State: nexthop.Unresolved})
			s.frames, s.lossless = 1024, true
			return s
		}(), run: func(t *testing.T, r *rig) {
			for range parkSize/8 + 1 {
				var some [][]byte
				for range 8 {
					some = append(some, udp6(t, clientA, 4000, elsewhere, 4001, nil))
				}
				r.from6(some...)
			}
			r.check()
		}},

		{reason: DropNoKernelPort, setup: setup{noKernel: true}, run: func(t *testing.T, r *rig) {
			r.in4[0].Inject(udp4(t, serverA, 1, mappedA, 2, nil))
			r.passAll()
		}},
		{reason: DropKernelPortFull, setup: setup{frames: 1024}, run: func(t *testing.T, r *rig) {
			r.kernel[0].SetTransmit(0)
			for range kernelRing + 1 {
				r.in4[0].Inject(udp4(t, serverA, 1, mappedA, 2, nil))
				r.passAll()
			}
		}},
		{reason: DropTXFull, n: 44, run: func(t *testing.T, r *rig) {
			r.in4[0].SetTransmit(0)
			for range 5 {
				var some [][]byte
				for range 60 {
					some = append(some, udp6(t, clientA, 4000, serverA, 4001, nil))
				}
				r.from6(some...)
			}
		}},
	}
}

// routingHeader is a packet with a type 0 routing header and a segment left.
func routingHeader(t testing.TB) []byte {
	ip := ip6(clientA, via6(serverA), layers.IPProtocolIPv6Routing)
	header := append([]byte{17, 2, 0, 1, 0, 0, 0, 0}, make([]byte, 16)...)
	return build(t, ether(layers.EthernetTypeIPv6), ip, gopacket.Payload(append(header, make([]byte, 8)...)))
}

// rechecksummed gives a changed IPv4 header its checksum back.
func rechecksummed(b []byte) []byte {
	h := b[ethernetHeader : ethernetHeader+20]
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	h[10], h[11] = byte(^sum>>8), byte(^sum)
	return b
}

// overflowHandover gives worker 0 more packets of worker 1's clients than the
// ring between them holds, while worker 1 is busy elsewhere.
func overflowHandover(t *testing.T, r *rig) {
	foreign := 0
	hi, lo := hiLo(clientA)
	for port := 1; foreign < handoverRing+20; port++ {
		if r.table.Owner(conntrack.Addr6{Hi: hi, Lo: lo}, uint16(port)) != 1 {
			continue
		}
		foreign++
		if !r.in6[0].Inject(udp6(t, clientA, port, serverA, 2, nil)) {
			t.Fatal("the port is full")
		}
		r.workers[0].Poll(r.now)
	}
	for range 2 * handoverRing / BurstSize { // packets one way, free frames the other
		r.poll()
	}
}

func perClient(l conntrack.ClientLimits) setup {
	return setup{table: func(c *conntrack.Config) { c.PerClient = l }}
}

// fillClientBucket lets so many clients of one bucket of the table of clients
// open sessions that it has no place for the last.
func fillClientBucket(t *testing.T, r *rig) {
	bucket, clients := -1, 0
	for n := 1; clients <= conntrack.ClientsPerBucket; n++ {
		client := netip.MustParseAddr(clientA).As16()
		client[6], client[7], client[8] = byte(n>>16), byte(n>>8), byte(n)
		a := netip.AddrFrom16(client).String()
		hi, lo := hiLo(a)
		at := r.table.ClientBucket(conntrack.Addr6{Hi: hi, Lo: lo})
		if bucket < 0 {
			bucket = at
		}
		if at == bucket {
			clients++
			r.from6(udp6(t, a, 1, serverA, 2, nil))
		}
	}
}

func TestEveryDropReason(t *testing.T) {
	provoked := map[DropReason]bool{}
	for _, c := range dropCases(t) {
		provoked[c.reason] = true
		t.Run(c.reason.String(), func(t *testing.T) {
			r := newRig(t, c.setup)
			c.run(t, r)
			if n := r.drops(c.reason); n != max(c.n, 1) {
				t.Errorf("%d packets dropped as %s, want %d", n, c.reason, max(c.n, 1))
			}
			for other := NotDropped + 1; other < dropReasons; other++ {
				if c.reason == DropSYNStoreFull && other == DropSYNStored {
					continue // what filled the store
				}
				if n := r.drops(other); other != c.reason && n > 0 {
					t.Errorf("%d packets dropped as %s", n, other)
				}
			}
		})
	}
	EachReason(func(r DropReason, row Reason) {
		if !provoked[r] {
			t.Errorf("no case provokes %s", r)
		}
		if row.Name == "" || row.Step == "" || row.Sentence == "" {
			t.Errorf("reason %d has an incomplete row: %+v", r, row)
		}
	})
}

// An operator looks a reason up in the documents.
func TestReasonsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	EachReason(func(r DropReason, _ Reason) {
		if !strings.Contains(string(text), "`"+r.String()+"`") {
			t.Errorf("docs/operations.md does not mention `%s`", r)
		}
	})
}
