package xlat

import (
	"net/netip"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// TestBuildErrorFixtures: the errors that the translator sends itself, each
// about the packet whose whole or cut form the fixture quotes.
func TestBuildErrorFixtures(t *testing.T) {
	hi, lo := words(netip.MustParseAddr("2001:db8:0:64::1"))
	dst := make([]byte, 2048)
	quoteOf := func(name string, headers, total int) []byte {
		pkt := load(t, name)[headers:]
		return append(pkt, make([]byte, max(0, total-len(pkt)))...) // the octets behind the cut
	}
	n := BuildError6(dst, quoteOf("6-own-hop-limit", 48, 0), packet.ICMPv6TimeExceeded, 0, 0, hi, lo)
	compare(t, dst[:n], load(t, "6-own-hop-limit"))
	n = BuildError6(dst, quoteOf("6-own-too-big", 48, 1448), packet.ICMPv6PacketTooBig, 0, 1400, hi, lo)
	compare(t, dst[:n], load(t, "6-own-too-big"))
	src := word(mapped4)
	n = BuildError4(dst, quoteOf("4-own-ttl", 28, 0), packet.ICMPv4TimeExceeded, 0, 0, src)
	compare(t, dst[:n], load(t, "4-own-ttl"))
	n = BuildError4(dst, quoteOf("4-own-fragmentation-needed", 28, 1428), packet.ICMPv4Unreachable, 4, 1380, src)
	compare(t, dst[:n], load(t, "4-own-fragmentation-needed"))
	n = BuildError4(dst, quoteOf("4-own-parameter-problem", 28, 0), packet.ICMPv4ParameterProblem, 0, 20, src)
	compare(t, dst[:n], load(t, "4-own-parameter-problem"))
}

// TestBuildErrorBounds: no size of packet or memory makes an error that is too
// long or wrong.
func TestBuildErrorBounds(t *testing.T) {
	g := newGenerator(6)
	v6 := reference.Packet{Src: g.octets(16), Dst: g.octets(16), Proto: 17, TTL: 9, Upper: g.octets(1500), Sent: 1500}.Encode()
	v4 := reference.Packet{Src: g.octets(4), Dst: g.octets(4), Proto: 17, TTL: 9, Upper: g.octets(1500), Sent: 1500}.Encode()
	for size := range 1500 {
		for _, room := range []int{47, 48, 300, 2048} {
			dst := make([]byte, room)
			n := BuildError6(dst, v6[:size], packet.ICMPv6TimeExceeded, 0, 0, 1, 2)
			if want := min(room, 1280, 48+size); size < 40 || room < 48 {
				if n != 0 {
					t.Fatalf("size %d, room %d: %d octets", size, room, n)
				}
			} else if n != want {
				t.Fatalf("size %d, room %d: %d octets, want %d", size, room, n, want)
			} else if err := reference.CheckSums(dst[:n]); err != nil {
				t.Fatal(err)
			}
			n = BuildError4(dst, v4[:size], packet.ICMPv4TimeExceeded, 0, 0, 1)
			if want := min(room, 576, 28+size); size < 20 {
				if n != 0 {
					t.Fatalf("IPv4 size %d, room %d: %d octets", size, room, n)
				}
			} else if n != want {
				t.Fatalf("IPv4 size %d, room %d: %d octets, want %d", size, room, n, want)
			} else if err := reference.CheckSums(dst[:n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := BuildError4(make([]byte, 27), v4, packet.ICMPv4TimeExceeded, 0, 0, 1); n != 0 {
		t.Errorf("27 octets of room: %d", n)
	}
}

func TestMayAnswer6(t *testing.T) {
	base := packet.Parsed{SrcHi: 0x20010db8 << 32, SrcLo: 1, DstHi: wellKnownHi, Proto: packet.ProtoUDP, Kind: packet.KindUDP}
	for _, tc := range []struct {
		name   string
		change func(p *packet.Parsed)
		want   bool
	}{
		{"UDP", func(*packet.Parsed) {}, true},
		{"echo request", func(p *packet.Parsed) {
			p.Proto, p.Kind, p.ICMPType = packet.ProtoICMPv6, packet.KindEchoRequest, 128
		}, true},
		{"error", func(p *packet.Parsed) { p.Proto, p.Kind, p.ICMPType = packet.ProtoICMPv6, packet.KindICMPError, 1 }, false},
		{"unknown error", func(p *packet.Parsed) {
			p.Proto, p.Kind, p.ICMPType = packet.ProtoICMPv6, packet.KindICMPOther, 127
		}, false},
		{"redirect", func(p *packet.Parsed) {
			p.Proto, p.Kind, p.ICMPType = packet.ProtoICMPv6, packet.KindICMPOther, 137
		}, false},
		{"later fragment of ICMPv6", func(p *packet.Parsed) {
			p.Proto, p.Kind, p.ICMPType = packet.ProtoICMPv6, packet.KindFragment, 200
		}, false},
		{"later fragment of UDP", func(p *packet.Parsed) { p.Kind = packet.KindFragment }, true},
		{"later fragment of options", func(p *packet.Parsed) { p.Kind, p.Proto = packet.KindFragment, packet.ProtoDestOptions }, false},
		{"to multicast", func(p *packet.Parsed) { p.DstHi = 0xff02 << 48 }, false},
		{"from multicast", func(p *packet.Parsed) { p.SrcHi = 0xff02 << 48 }, false},
		{"from nobody", func(p *packet.Parsed) { p.SrcHi, p.SrcLo = 0, 0 }, false},
		{"from loopback", func(p *packet.Parsed) { p.SrcHi, p.SrcLo = 0, 1 }, false},
	} {
		p := base
		tc.change(&p)
		if got := MayAnswer6(&p); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestMayAnswer4(t *testing.T) {
	base := packet.Parsed{Src4: word(server4), Dst4: word(mapped4), Proto: packet.ProtoUDP, Kind: packet.KindUDP}
	for _, tc := range []struct {
		name   string
		change func(p *packet.Parsed)
		want   bool
	}{
		{"UDP", func(*packet.Parsed) {}, true},
		{"echo request", func(p *packet.Parsed) { p.Proto, p.Kind = packet.ProtoICMP, packet.KindEchoRequest }, true},
		{"first fragment", func(p *packet.Parsed) { p.MoreFrags = true }, true},
		{"later fragment", func(p *packet.Parsed) { p.Kind, p.FragOffset = packet.KindFragment, 8 }, false},
		{"error", func(p *packet.Parsed) { p.Proto, p.Kind = packet.ProtoICMP, packet.KindICMPError }, false},
		{"unknown ICMP", func(p *packet.Parsed) { p.Proto, p.Kind, p.ICMPType = packet.ProtoICMP, packet.KindICMPOther, 31 }, false},
		{"to multicast", func(p *packet.Parsed) { p.Dst4 = 0xe0000001 }, false},
		{"to broadcast", func(p *packet.Parsed) { p.Dst4 = 0xffffffff }, false},
		{"from multicast", func(p *packet.Parsed) { p.Src4 = 0xe0000001 }, false},
		{"from broadcast", func(p *packet.Parsed) { p.Src4 = 0xffffffff }, false},
		{"from this network", func(p *packet.Parsed) { p.Src4 = 5 }, false},
		{"from loopback", func(p *packet.Parsed) { p.Src4 = 0x7f000001 }, false},
	} {
		p := base
		tc.change(&p)
		if got := MayAnswer4(&p); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
