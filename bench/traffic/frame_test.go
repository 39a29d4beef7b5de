package traffic

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var testLink = Link{Dst: [6]byte{2, 0, 0, 0, 0, 1}, Src: [6]byte{2, 0, 0, 0, 0, 2}}

// testFlows are sixteen sources of one destination.
func testFlows(p Protocol, ipv6 bool) Flows {
	f := Flows{
		Protocol: p, Src: netip.MustParsePrefix("192.0.2.16/28"), Dst: netip.MustParsePrefix("198.51.100.7/32"),
		SrcPorts: Ports{40000, 40099}, DstPorts: Ports{9, 10},
	}
	if ipv6 {
		f.Src, f.Dst = netip.MustParsePrefix("2001:db8::10/124"), netip.MustParsePrefix("64:ff9b::c633:6407/128")
	}
	return f
}

var testStamp = Stamp{Trial: 0x11, Stream: 0x82, Sequence: 0x0102030405, Time: 0xa1a2a3a4a5}

// stampHex is testStamp on the wire: magic, trial and stream, sequence, time, and
// what completes the sum of these words, 1cf0b, to ffff.
const stampHex = "68360464 1182 0102030405 a1a2a3a4a5 30f3"

// TestFramesOctetByOctet: frames as they leave, checksums worked out by another program and
// once more by gopacket in TestAgainstGopacket.
func TestFramesOctetByOctet(t *testing.T) {
	for _, c := range []struct {
		name     string
		protocol Protocol
		ipv6     bool
		size     int
		flow     uint64
		want     string
	}{
		{"UDP over IPv6", UDP, true, 80, 0, `
			020000000001 020000000002 86dd
			60000000 001a 11 40  20010db8000000000000000000000010  0064ff9b0000000000000000c6336407
			9c40 0009 001a 0b6d ` + stampHex},
		{"UDP over IPv4", UDP, false, 60, 0, `
			020000000001 020000000002 0800
			45 00 002e 0000 4000 40 11 4e74 c0000210 c6336407
			9c40 0009 001a 7725 ` + stampHex},
		{"UDP over IPv6, the 201st flow, 4 octets more", UDP, true, 84, 200, `
			020000000001 020000000002 86dd
			60000000 001e 11 40  20010db8000000000000000000000012  0064ff9b0000000000000000c6336407
			9c40 0009 001e 0b63 ` + stampHex + ` 00000000`},
		{"TCP over IPv6", TCP, true, 92, 0, `
			020000000001 020000000002 86dd
			60000000 0026 06 40  20010db8000000000000000000000010  0064ff9b0000000000000000c6336407
			9c40 0009 00000001 00000001 50 18 ffff bb6b 0000 ` + stampHex},
		{"ping over IPv4", Echo, false, 60, 1, `
			020000000001 020000000002 0800
			45 00 002e 0000 4000 40 01 4e84 c0000210 c6336407
			08 00 5bbd 9c41 0001 ` + stampHex},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := NewBuilder(c.protocol, c.ipv6, testLink, Sizes{c.size})
			if err != nil {
				t.Fatal(err)
			}
			room := bytes.Repeat([]byte{0xee}, MaxFrame)
			n := b.Build(room, 0, NewProduct(testFlows(c.protocol, c.ipv6)).Tuple(c.flow), testStamp)
			want, err := hex.DecodeString(strings.Join(strings.Fields(c.want), ""))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(room[:n], want) {
				t.Errorf("got  %x\nwant %x", room[:n], want)
			}
		})
	}
}

// TestAgainstGopacket takes frames of all kinds and many flows and sizes apart
// with another implementation, which computes their checksums anew, and with
// our own.
func TestAgainstGopacket(t *testing.T) {
	sizes := Sizes{100, 333, 1514, 92}
	room := make([]byte, MaxFrame)
	for p := UDP; p <= EchoReply; p++ {
		for _, ipv6 := range []bool{true, false} {
			b, err := NewBuilder(p, ipv6, testLink, sizes)
			if err != nil {
				t.Fatal(err)
			}
			flows := NewProduct(testFlows(p, ipv6))
			for i := range flows.Len() {
				stamp := Stamp{Trial: uint8(i), Stream: uint8(i >> 3), Sequence: i * 0x123456789, Time: i * 0x987654321}
				n := b.Build(room, i, flows.Tuple(i), stamp)
				if n != sizes[i%4] {
					t.Fatalf("%d octets, want %d", n, sizes[i%4])
				}
				checkSelf(t, room[:n], p, ipv6, flows.Tuple(i), stamp)
				if i%50 == 0 {
					checkGopacket(t, room[:n], ipv6)
				}
			}
		}
	}
}

func checkSelf(t *testing.T, frame []byte, p Protocol, ipv6 bool, flow Tuple, stamp Stamp) {
	t.Helper()
	var parsed Packet
	if !Parse(frame, &parsed) || parsed.Protocol != p || parsed.IPv6 != ipv6 || parsed.Tuple != flow || parsed.End != len(frame) {
		t.Fatalf("%v over IPv6=%v is read as %+v, want %+v", p, ipv6, parsed, flow)
	}
	stamp.Sequence, stamp.Time = stamp.Sequence&mask40, stamp.Time&mask40
	if got, v := ReadStamp(frame[parsed.Payload:parsed.End]); v != Stamped || got != stamp {
		t.Fatalf("stamp %+v is read as %+v (%v)", stamp, got, v)
	}
	if !ChecksumsRight(frame, &parsed) {
		t.Fatalf("%v over IPv6=%v: wrong checksum in %x", p, ipv6, frame)
	}
	frame[len(frame)-1] ^= 0x40
	if ChecksumsRight(frame, &parsed) {
		t.Fatal("a changed octet is not noticed")
	}
	frame[len(frame)-1] ^= 0x40
}

func checkGopacket(t *testing.T, frame []byte, ipv6 bool) {
	t.Helper()
	in := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := in.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	var out []gopacket.SerializableLayer
	for _, l := range in.Layers() {
		if u, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := u.SetNetworkLayerForChecksum(in.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
		}
		s, ok := l.(gopacket.SerializableLayer)
		if !ok {
			t.Fatalf("%v cannot be written", l.LayerType())
		}
		out = append(out, s)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, out...); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf.Bytes(), frame) {
		t.Errorf("IPv6=%v: we wrote %x, gopacket %x", ipv6, frame, buf.Bytes())
	}
}

// TestZeroChecksum: UDP has no checksum of zero.
func TestZeroChecksum(t *testing.T) {
	b, err := NewBuilder(UDP, true, testLink, Sizes{80})
	if err != nil {
		t.Fatal(err)
	}
	flow := NewProduct(testFlows(UDP, true)).Tuple(0)
	room := make([]byte, MaxFrame)
	b.Build(room, 0, flow, testStamp)
	flow.DstPort += uint16(room[60])<<8 | uint16(room[61]) // now the sum is complete
	b.Build(room, 0, flow, testStamp)
	if room[60] != 0xff || room[61] != 0xff {
		t.Errorf("the checksum is %x", room[60:62])
	}
}

func TestBuilderRefuses(t *testing.T) {
	for _, c := range []struct {
		p     Protocol
		ipv6  bool
		sizes Sizes
	}{{UDP, true, Sizes{79}}, {UDP, false, Sizes{59}}, {TCP, true, Sizes{91}}, {UDP, true, nil}, {UDP, true, Sizes{MaxFrame + 1}}, {UDP, true, make(Sizes, 257)}} {
		if _, err := NewBuilder(c.p, c.ipv6, testLink, c.sizes); err == nil {
			t.Errorf("%v, IPv6=%v: sizes %v are taken", c.p, c.ipv6, c.sizes)
		}
	}
}

func TestBuildDoesNotAllocate(t *testing.T) {
	b, err := NewBuilder(UDP, true, testLink, Sizes{80, 594})
	if err != nil {
		t.Fatal(err)
	}
	flows, order, room := NewProduct(testFlows(UDP, true)), NewPermutation(3200, 1), make([]byte, MaxFrame)
	var parsed Packet
	i := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		n := b.Build(room, i, flows.Tuple(order.At(i)), testStamp)
		if !Parse(room[:n], &parsed) {
			t.Fatal("what was built cannot be read")
		}
		i++
	}); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

func BenchmarkBuild(b *testing.B) {
	builder, err := NewBuilder(UDP, true, testLink, Sizes{80})
	if err != nil {
		b.Fatal(err)
	}
	f := testFlows(UDP, true)
	f.Src, f.SrcPorts = netip.MustParsePrefix("2001:db8::/112"), Ports{1024, 65535}
	f.Count = 1_000_000
	flows, order, room := NewProduct(f), NewPermutation(f.Count, 1), make([]byte, MaxFrame)
	for i := range uint64(b.N) {
		builder.Build(room, i, flows.Tuple(order.At(i)), Stamp{Sequence: i})
	}
}
