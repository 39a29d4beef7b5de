package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
)

// answersTo is the ICMP error that the case of a drop reason in dropCases has
// for an answer. Reasons that are not here are passed over in silence;
// docs/conformance.md says why.
var answersTo = map[DropReason]string{
	DropSourceRoute:     "3/5 to " + serverA,
	DropSegmentsLeft:    "4/0 to " + clientA + " at 43",
	DropProtocol:        "1/4 to " + clientA,
	DropDenied:          "1/1 to " + clientA,
	DropWellKnownPrefix: "1/1 to " + clientA,
	DropNoMapping:       "3/3 to " + serverA,
	DropFiltered:        "3/13 to " + elsewhere,
	DropTableFull:       "1/3 to " + clientB,
	DropClientSessions:  "1/3 to " + clientA,
	DropClientPorts:     "1/3 to " + clientA,
	DropClientsFull:     "1/3 to 2001:db8:0:26:4600::a",
	DropPortsExhausted:  "1/3 to " + clientB,
	DropHopLimit:        "3/0 to " + clientA,
	DropTTL:             "11/0 to " + serverA,
	DropTooBig6:         "2/0 to " + clientA + " at 1300",
	DropTooBig4:         "3/4 to " + serverA + " at 1260",
	DropUDPZeroChecksum: "1/1 to " + clientA,
	DropHairpinOff:      "1/1 to " + clientA,
	DropNoRoute:         "1/0 to " + clientA,
	DropRouteProhibited: "1/1 to " + clientA,
	DropRouteElsewhere:  "1/0 to " + clientA,
	DropRouteLocal:      "1/1 to " + clientA,
	DropNeighbourFailed: "1/3 to " + clientA,
	DropParkTimeout:     "1/3 to " + clientA,
}

// errorsAmong reads the ICMP errors among packets that came out, as
// "type/code to ADDRESS", with the pointer or MTU behind it unless zero.
func errorsAmong(t *testing.T, frames [][]byte) (found []string) {
	t.Helper()
	for _, b := range frames {
		p := decode(t, b)
		l := p.Layer(layers.LayerTypeICMPv6)
		if l == nil {
			l = p.Layer(layers.LayerTypeICMPv4)
		}
		if l == nil {
			continue
		}
		h := l.LayerContents()
		rest := l.LayerPayload()
		if len(h) < 8 {
			h = append(slices.Clone(h), rest[:4]...)
		}
		if _, v6 := p.NetworkLayer().(*layers.IPv6); v6 && h[0] >= 128 || !v6 && (h[0] == 0 || h[0] == 8) {
			continue
		}
		s := fmt.Sprintf("%d/%d to %s", h[0], h[1], p.NetworkLayer().NetworkFlow().Dst())
		n := binary.BigEndian.Uint32(h[4:])
		if h[0] == 12 {
			n >>= 24
		}
		if n != 0 {
			s += fmt.Sprintf(" at %d", n)
		}
		found = append(found, s)
	}
	return found
}

// TestAnswersToDrops provokes every reason and looks at what the sender is told.
func TestAnswersToDrops(t *testing.T) {
	for _, c := range dropCases(t) {
		t.Run(c.reason.String(), func(t *testing.T) {
			r := newRig(t, c.setup)
			c.run(t, r)
			expectErrors(t, r, answersTo[c.reason])
		})
	}
}

func expectErrors(t *testing.T, r *rig, want string) {
	t.Helper()
	r.from6() // what a last round without packets sent
	got := errorsAmong(t, r.came)
	if len(got) == 0 && want == "" {
		return
	}
	if len(got) != 1 || got[0] != want {
		t.Errorf("answered %q, want %q (see answersTo)", got, want)
	}
}

// TestAnswersInDetail: what one reason says about different packets.
func TestAnswersInDetail(t *testing.T) {
	full := setup{table: func(c *conntrack.Config) { c.Sessions = 1 }}
	dropZero := setup{rules: func(rs *Rules) { rs.Translation.UDPZeroCompute = false }}
	handoff := setup{rules: func(rs *Rules) { rs.Handoff = true }}
	hop := func(s nexthop.State) setup { return route(nexthop.Hop{State: s}) }
	static := func(t *testing.T, r *rig, proto conntrack.Proto) {
		s := conntrack.Static{Proto: proto, ClientPort: 80, Mapped: addr4(mappedA), MappedPort: 80}
		s.Client.Hi, s.Client.Lo = hiLo(clientB)
		if err := r.table.AddStatic(s); err != nil {
			t.Fatal(err)
		}
	}
	sourceRouted := func(typ layers.IPProtocol, l gopacket.SerializableLayer, payload ...byte) []byte {
		ip := ip4(serverA, mappedA, typ)
		ip.Options = []layers.IPv4Option{{OptionType: 137, OptionLength: 7, OptionData: []byte{4, 10, 0, 0, 1}}, {OptionType: 0}}
		if u, ok := l.(*layers.UDP); ok {
			u.SetNetworkLayerForChecksum(ip)
		}
		return build(t, ether(layers.EthernetTypeIPv4), ip, l, gopacket.Payload(payload))
	}
	for _, c := range []struct {
		name  string
		setup setup
		want  string
		run   func(t *testing.T, r *rig)
	}{
		{"route blackhole", hop(nexthop.Blackhole), "", toElsewhere},
		{"route unreachable", hop(nexthop.Unreachable), "1/3 to " + clientA, toElsewhere},
		{"route throw", hop(nexthop.NoRoute), "1/0 to " + clientA, toElsewhere},
		{"table full from IPv4, UDP", full, "3/1 to " + serverA, func(t *testing.T, r *rig) {
			static(t, r, conntrack.UDP)
			r.mappedUDP(t, serverA)
			r.from4(udp4(t, serverA, 9, mappedA, 80, nil))
		}},
		{"table full from IPv4, SYN", full, "3/1 to " + serverA, func(t *testing.T, r *rig) {
			static(t, r, conntrack.TCP)
			r.mappedUDP(t, serverA)
			r.from4(tcp4(t, serverA, 9, mappedA, 80, "S"))
		}},
		{"no mapping, echo request", setup{}, "3/1 to " + serverA, send4(echo4(t, 8, serverA, mappedA, 1, 1, nil))},
		{"no mapping, echo reply", setup{}, "", send4(echo4(t, 0, serverA, mappedA, 1, 1, nil))},
		{"no mapping, TCP", setup{}, "", send4(tcp4(t, serverA, 9, mappedA, 9, "A"))},
		{"protocol from IPv4", setup{}, "3/2 to " + serverA, send4(with4(t, func(ip *layers.IPv4) { ip.Protocol = 47 }))},
		{"UDP without checksum from IPv4", dropZero, "3/13 to " + serverA, func(t *testing.T, r *rig) {
			b := udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil)
			r.from4(patched(b, 26, 0, 0))
		}},
		{"source route, echo", setup{}, "3/5 to " + serverA, send4(sourceRouted(1, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}))},
		{"source route, ICMP error", setup{}, "", send4(sourceRouted(1, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 1)}, make([]byte, 28)...))},
		{"source route, for others", setup{}, "", send4(rechecksummedTo(sourceRouted(17, &layers.UDP{}), "192.0.2.200"))},
		{"segments left, ICMPv6 error", setup{}, "", send6(extended(t, 43, []byte{58, 2, 0, 1}, 20, errorHeader))},
		{"segments left behind options", setup{}, "4/0 to " + clientA + " at 51", send6(extended(t, 60, []byte{43, 0, 1, 4, 0, 0, 0, 0, 17, 2, 0, 1}, 20, make([]byte, 8)))},
		{"segments left, for others", setup{}, "", send6(patched(routingHeader(t), 24, 0x20, 1))},
		{"nine headers", setup{}, "4/8 to " + clientA + " at 104", send6(extended(t, 60, chain(9, 17), 0, make([]byte, 8)))},
		{"nine headers, ICMPv6 error", setup{}, "", send6(extended(t, 60, chain(9, 58), 0, errorHeader))},
		{"hop-by-hop options second", setup{}, "4/1 to " + clientA + " at 40", send6(extended(t, 60, []byte{0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0}, 0, make([]byte, 8)))},
		{"no next header", setup{}, "1/4 to " + clientA, send6(extended(t, 59, nil, 0, nil))},
		{"protocol behind options", handoff, "4/1 to " + clientA + " at 40", send6(extended(t, 60, []byte{132, 0, 1, 4, 0, 0, 0, 0}, 12, nil))},
		{"protocol behind a fragment header", handoff, "4/1 to " + clientA + " at 40", send6(extended(t, 44, []byte{132, 0, 0, 0, 0, 0, 0, 1}, 12, nil))},
		{"authentication header", handoff, "4/1 to " + clientA + " at 6", send6(extended(t, 51, []byte{17, 4, 0, 0}, 20, make([]byte, 8)))},
		{"mobility header", setup{}, "1/4 to " + clientA, send6(extended(t, 135, []byte{59, 0, 5, 0, 0, 0, 0, 0}, 0, nil))},
		{"hop limit 0", setup{}, "3/0 to " + clientA, send6(with6(t, func(ip *layers.IPv6) { ip.HopLimit = 0 }))},
		{"hop limit 1, ICMPv6 error", setup{}, "", func(t *testing.T, r *rig) {
			out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, r.mappedUDP(t, serverA), nil))
			b := errorFrom6(t, clientA, via6(serverA), 1, 4, 0, out6[0][ethernetHeader:])
			r.from6(patched(b, 7, 1))
		}},
		{"denied, echo request", setup{}, "1/1 to " + clientA, send6(echo6(t, clientA, "169.254.1.1", 1, 1, nil))},
		{"link-layer multicast, IPv6", setup{}, "", send6(toGroup(with6(t, func(ip *layers.IPv6) { ip.HopLimit = 1 })))},
		{"link-layer broadcast, IPv4", setup{}, "", send4(toGroup(with4(t, func(*layers.IPv4) {})))},
		{"errors switched off", setup{rules: func(rs *Rules) { rs.ICMPErrorsPerSecond = 0 }}, "", send4(with4(t, func(*layers.IPv4) {}))},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.setup)
			c.run(t, r)
			var dropped uint64
			for _, n := range r.workers[0].counters.Drops {
				dropped += n
			}
			if dropped != 1 {
				t.Errorf("%d packets dropped, want 1", dropped)
			}
			expectErrors(t, r, c.want)
		})
	}
}

// errorHeader begins an ICMPv6 error.
var errorHeader = []byte{1, 4, 0, 0, 0, 0, 0, 0, 0x60, 0, 0, 0}

// extended is an IPv6 packet of clientA: headers, filled up with zeros, then
// an upper layer.
func extended(t testing.TB, first layers.IPProtocol, headers []byte, zeros int, upper []byte) []byte {
	payload := slices.Concat(headers, make([]byte, zeros), upper)
	return build(t, ether(layers.EthernetTypeIPv6), ip6(clientA, via6(serverA), first), gopacket.Payload(payload))
}

// chain is n headers of destination options, the upper layer last.
func chain(n int, last byte) []byte {
	h := []byte(strings.Repeat("\x3c\x00\x01\x04\x00\x00\x00\x00", n))
	h[8*(n-1)] = last
	return h
}

// toGroup addresses the frame to all stations.
func toGroup(b []byte) []byte {
	return append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, b[6:]...)
}

// rechecksummedTo gives an IPv4 packet another destination.
func rechecksummedTo(b []byte, dst string) []byte {
	b = slices.Clone(b)
	h := b[ethernetHeader:]
	h = h[:int(h[0]&15)*4]
	copy(h[16:], netip.MustParseAddr(dst).AsSlice())
	h[10], h[11] = 0, 0
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return b
}

// TestAnswersAreDocumented: the table of answers has a row for every reason.
func TestAnswersAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "\n## Answers to dropped packets\n")
	if !found {
		t.Fatal("docs/conformance.md has no section on answers")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	EachReason(func(r DropReason, _ Reason) {
		if !strings.Contains(table, "`"+r.String()+"`") {
			t.Errorf("docs/conformance.md, Answers to dropped packets, has no row for %s", r)
		}
	})
}
