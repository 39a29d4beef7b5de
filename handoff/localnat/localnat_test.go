package localnat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

var pair = Pair{
	Client: [16]byte(net.ParseIP("2001:db8:1::10")), Server: [16]byte(net.ParseIP("64:ff9b::c000:20a")),
	Address: [4]byte{100, 64, 0, 7}, Own: [4]byte{192, 0, 2, 10},
}

// serialized is what an independent library makes of layers, with lengths and
// checksums.
func serialized(t *testing.T, all ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ipv6 is a packet between client and server, to the server if that is asked for.
func ipv6(t *testing.T, toServer bool, hops uint8, proto layers.IPProtocol, upper ...gopacket.SerializableLayer) []byte {
	src, dst := pair.Client[:], pair.Server[:]
	if !toServer {
		src, dst = dst, src
	}
	ip := &layers.IPv6{Version: 6, TrafficClass: 0x28, HopLimit: hops, NextHeader: proto, SrcIP: src, DstIP: dst}
	return serialized(t, append([]gopacket.SerializableLayer{ip}, over(ip, upper)...)...)
}

// ipv4 is the same of the other side.
func ipv4(t *testing.T, toServer bool, ttl uint8, id uint16, df bool, proto layers.IPProtocol, upper ...gopacket.SerializableLayer) []byte {
	src, dst := pair.Address[:], pair.Own[:]
	if !toServer {
		src, dst = dst, src
	}
	ip := &layers.IPv4{Version: 4, IHL: 5, TOS: 0x28, TTL: ttl, Id: id, Protocol: proto, SrcIP: src, DstIP: dst}
	if df {
		ip.Flags = layers.IPv4DontFragment
	}
	return serialized(t, append([]gopacket.SerializableLayer{ip}, over(ip, upper)...)...)
}

// over has the upper layers' checksums cover the IP header.
func over(ip gopacket.NetworkLayer, upper []gopacket.SerializableLayer) []gopacket.SerializableLayer {
	for _, u := range upper {
		if c, ok := u.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			c.SetNetworkLayerForChecksum(ip)
		}
	}
	return upper
}

// same are upper layers of both IP versions that stand for each other: as the
// client has them, and with port as local programs have them.
type same struct {
	name       string
	v6, v4     layers.IPProtocol
	in6, in4   func(port uint16) []gopacket.SerializableLayer // from the client
	out4, out6 func(port uint16) []gopacket.SerializableLayer // from the server
}

func protocols() []same {
	data := gopacket.Payload(bytes.Repeat([]byte("octets "), 20))
	udp := func(from, to uint16) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{&layers.UDP{SrcPort: layers.UDPPort(from), DstPort: layers.UDPPort(to)}, data}
	}
	tcp := func(from, to uint16) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{&layers.TCP{SrcPort: layers.TCPPort(from), DstPort: layers.TCPPort(to), Seq: 1, Ack: 2, ACK: true, PSH: true, Window: 512}, data}
	}
	all := []same{
		{"UDP", layers.IPProtocolUDP, layers.IPProtocolUDP,
			func(p uint16) []gopacket.SerializableLayer { return udp(p, 53) }, func(p uint16) []gopacket.SerializableLayer { return udp(p, 53) },
			func(p uint16) []gopacket.SerializableLayer { return udp(53, p) }, func(p uint16) []gopacket.SerializableLayer { return udp(53, p) }},
		{"TCP", layers.IPProtocolTCP, layers.IPProtocolTCP,
			func(p uint16) []gopacket.SerializableLayer { return tcp(p, 22) }, func(p uint16) []gopacket.SerializableLayer { return tcp(p, 22) },
			func(p uint16) []gopacket.SerializableLayer { return tcp(22, p) }, func(p uint16) []gopacket.SerializableLayer { return tcp(22, p) }},
		{"echo", layers.IPProtocolICMPv6, layers.IPProtocolICMPv4,
			echo6(layers.ICMPv6TypeEchoRequest, data), echo4(layers.ICMPv4TypeEchoRequest, data), echo4(layers.ICMPv4TypeEchoReply, data), echo6(layers.ICMPv6TypeEchoReply, data)},
	}
	for _, number := range []layers.IPProtocol{layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolSCTP, 253} {
		as := func(uint16) []gopacket.SerializableLayer { return []gopacket.SerializableLayer{data} }
		all = append(all, same{fmt.Sprintf("protocol %d", number), number, number, as, as, as, as})
	}
	return all
}

func echo6(kind uint8, data gopacket.Payload) func(uint16) []gopacket.SerializableLayer {
	return func(id uint16) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}, &layers.ICMPv6Echo{Identifier: id, SeqNumber: 7}, data}
	}
}

func echo4(kind uint8, data gopacket.Payload) func(uint16) []gopacket.SerializableLayer {
	return func(id uint16) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: 7}, data}
	}
}

// TestProtocolsBothWays: octet for octet what another library makes of the same
// packet on the other side, with the client's own port and with a mapped one.
func TestProtocolsBothWays(t *testing.T) {
	nat := New()
	for _, p := range protocols() {
		for _, mapped := range []uint16{0, 4711} {
			const own = 50_001
			seen := uint16(own)
			if mapped != 0 {
				seen = mapped
			}
			t.Run(fmt.Sprintf("%s, port %d", p.name, mapped), func(t *testing.T) {
				in := ipv6(t, true, 64, p.v6, p.in6(own)...)
				var q packet.Parsed
				if s := packet.Parse6(in, 0, &q); s != packet.Good {
					t.Fatalf("the packet to translate is %v", s)
				}
				got, s := nat.ToLocal(in, &q, &pair, mapped, 0)
				if s != xlat.OK {
					t.Fatal(s)
				}
				id := binary.BigEndian.Uint16(got[4:])
				if want := ipv4(t, true, 63, id, false, p.v4, p.in4(seen)...); !bytes.Equal(got, want) {
					t.Errorf("to the server\n got %x\nwant %x", got, want)
				}

				out := append(make([]byte, Headroom), ipv4(t, false, 64, 1, true, p.v4, p.out4(seen)...)...)
				if s := packet.Parse4(out, Headroom, &q); s != packet.Good {
					t.Fatalf("the answer to translate is %v", s)
				}
				back := uint16(0)
				if mapped != 0 {
					back = own
				}
				got, s = nat.ToClient(out, &q, &pair, back, 0)
				if s != xlat.OK {
					t.Fatal(s)
				}
				if want := ipv6(t, false, 63, p.v6, p.out6(own)...); !bytes.Equal(got, want) {
					t.Errorf("to the client\n got %x\nwant %x", got, want)
				}
			})
		}
	}
}

// TestSegmentSizes: a SYN announces no more than the bound, and its checksum is
// right.
func TestSegmentSizes(t *testing.T) {
	syn := func(port, mss uint16) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{&layers.TCP{
			SrcPort: layers.TCPPort(port), DstPort: 22, Seq: 1, SYN: true, Window: 512,
			Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, mss)}},
		}}
	}
	for _, c := range []struct{ announced, bound, want uint16 }{{1440, 1300, 1300}, {1000, 1300, 1000}, {1440, 0, 1440}} {
		in := ipv6(t, true, 64, layers.IPProtocolTCP, syn(50_001, c.announced)...)
		var q packet.Parsed
		if s := packet.Parse6(in, 0, &q); s != packet.Good {
			t.Fatal(s)
		}
		got, s := New().ToLocal(in, &q, &pair, 0, c.bound)
		if s != xlat.OK {
			t.Fatal(s)
		}
		if want := ipv4(t, true, 63, binary.BigEndian.Uint16(got[4:]), false, layers.IPProtocolTCP, syn(50_001, c.want)...); !bytes.Equal(got, want) {
			t.Errorf("%d bound by %d\n got %x\nwant %x", c.announced, c.bound, got, want)
		}
	}
}

// TestPieces: the fragments together are the packet, and none is too long.
func TestPieces(t *testing.T) {
	data := make([]byte, 4000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	pkt := ipv6(t, false, 63, layers.IPProtocolGRE, gopacket.Payload(data))
	var pieces [][]byte
	if !Pieces(make([]byte, 2048), pkt, 1280, func(f []byte) { pieces = append(pieces, bytes.Clone(f)) }) {
		t.Fatal("the packet was not cut")
	}
	var joined []byte
	for i, f := range pieces {
		p := gopacket.NewPacket(f, layers.LayerTypeIPv6, gopacket.Default)
		fragment, ok := p.Layer(layers.LayerTypeIPv6Fragment).(*layers.IPv6Fragment)
		if !ok || len(f) > 1280 || int(fragment.FragmentOffset)*8 != len(joined) || fragment.MoreFragments != (i+1 < len(pieces)) {
			t.Fatalf("piece %d of %d octets: %+v", i, len(f), fragment)
		}
		joined = append(joined, fragment.Payload...)
	}
	if !bytes.Equal(joined, data) {
		t.Errorf("the pieces are %d octets, not the %d that were cut", len(joined), len(data))
	}
}

// TestNothingAllocates in steady state.
func TestNothingAllocates(t *testing.T) {
	nat := New()
	original := ipv6(t, true, 64, layers.IPProtocolUDP, protocols()[0].in6(50_001)...)
	answer := append(make([]byte, Headroom), ipv4(t, false, 64, 1, true, layers.IPProtocolUDP, protocols()[0].out4(50_001)...)...)
	in, out := make([]byte, len(original)), make([]byte, len(answer))
	var q packet.Parsed
	allocs := testing.AllocsPerRun(100, func() {
		copy(in, original)
		packet.Parse6(in, 0, &q)
		nat.ToLocal(in, &q, &pair, 4711, 1300)
		copy(out, answer)
		packet.Parse4(out, Headroom, &q)
		nat.ToClient(out, &q, &pair, 50_001, 1300)
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a packet each way", allocs)
	}
}
