package packet

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// octets reads hexadecimal digits with spaces.
func octets(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

const (
	src6 = "20010db8000000000000000000000017"
	dst6 = "0064ff9b0000000000000000c6336407"
	udp6 = "9c40 01bb 000c abcd 61626364"                             // UDP, 4 octets
	tcp6 = "9c40 01bb 11223344 55667788 5018 faf0 abcd 0000 61626364" // TCP with data
)

// ipv6 is an IPv6 packet with a payload.
func ipv6(next byte, payload ...string) []byte {
	body := octets(strings.Join(payload, ""))
	b := octets("6b812345 0000 00 40" + src6 + dst6)
	b[6] = next
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	return append(b, body...)
}

// ipv4 is an IPv4 packet with options and a payload, its checksum right. frag
// is the word of flags and offset.
func ipv4(proto byte, frag uint16, options string, payload ...string) []byte {
	opt, body := octets(options), octets(strings.Join(payload, ""))
	b := octets("45b8 0000 cafe 0000 40 00 0000 c6336407 cb007101")
	b[0] += byte(len(opt) / 4)
	b[9] = proto
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(opt)+len(body)))
	binary.BigEndian.PutUint16(b[6:], frag)
	b = append(b, opt...)
	binary.BigEndian.PutUint16(b[10:], ^uint16(slowSum(b)))
	return append(b, body...)
}

// change is b with other octets at an offset.
func change(b []byte, at int, digits string) []byte {
	b = slices.Clone(b)
	copy(b[at:], octets(digits))
	return b
}

// base6 and base4 are what all good packets of the two makers have in common.
func base6(p Parsed) Parsed {
	p.TTL, p.TOS = 64, 0xb8
	p.SrcHi, p.SrcLo, p.DstHi, p.DstLo = 0x20010db8<<32, 0x17, 0x0064ff9b<<32, 0xc6336407
	return p
}

func base4(p Parsed) Parsed {
	p.TTL, p.TOS, p.ID = 64, 0xb8, 0xcafe
	p.Src4, p.Dst4 = 0xc6336407, 0xcb007101
	return p
}

const (
	tcpCut = "9c40 01bb 11223344 55667788 5018 faf0"               // 16 octets of it
	pad60  = "1100 0104 00000000"                                  // options header, UDP follows
	pad6c  = "2c00 0104 00000000"                                  // options header, fragment header follows
	rh0    = "1102 0000 00000000 20010db8000000000000000000000099" // routing header, used up
	rh1    = "1102 0001 00000000 20010db8000000000000000000000099" // routing header, one segment left
)

func TestParse6(t *testing.T) {
	udp := Parsed{L4: 40, End: 52, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}
	for _, tc := range []struct {
		name string
		pkt  []byte
		want Parsed
	}{
		{"UDP", ipv6(17, udp6), udp},
		{"UDP and padding behind it", append(ipv6(17, udp6), 0, 0, 0), udp},
		{"UDP shorter than the packet", ipv6(17, udp6, "ffff"), Parsed{L4: 40, End: 54, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"TCP", ipv6(6, tcp6), Parsed{L4: 40, End: 64, Kind: KindTCP, Proto: 6, TCPFlags: 0x18, SrcPort: 40000, DstPort: 443}},
		{"echo request", ipv6(58, "80 00 abcd 1234 0001"), Parsed{L4: 40, End: 48, Kind: KindEchoRequest, Proto: 58, ICMPType: 128, SrcPort: 0x1234, DstPort: 0x1234}},
		{"echo reply", ipv6(58, "81 00 abcd 1234 0001"), Parsed{L4: 40, End: 48, Kind: KindEchoReply, Proto: 58, ICMPType: 129, SrcPort: 0x1234, DstPort: 0x1234}},
		{"packet too big", ipv6(58, "02 00 abcd 0000 0500"), Parsed{L4: 40, End: 48, Kind: KindICMPError, Proto: 58, ICMPType: 2}},
		{"unknown ICMPv6 error", ipv6(58, "64 07 abcd 0000 0500"), Parsed{L4: 40, End: 48, Kind: KindICMPOther, Proto: 58, ICMPType: 100, ICMPCode: 7}},
		{"neighbour solicitation", ipv6(58, "87 00 abcd 0000 0000"), Parsed{L4: 40, End: 48, Kind: KindICMPOther, Proto: 58, ICMPType: 135}},
		{"ICMPv4 in IPv6", ipv6(1, "08 00 abcd 1234 0001"), Parsed{L4: 40, End: 48, Kind: KindOther, Proto: 1}},
		{"SCTP", ipv6(132, "0000"), Parsed{L4: 40, End: 42, Kind: KindOther, Proto: 132}},
		{"no next header", ipv6(59), Parsed{L4: 40, End: 40, Kind: KindOther, Proto: 59}},
		{"hop-by-hop options", ipv6(0, pad60, udp6), Parsed{L4: 48, End: 60, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"destination options", ipv6(60, pad60, udp6), Parsed{L4: 48, End: 60, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"routing header used up", ipv6(43, rh0, udp6), Parsed{L4: 64, End: 76, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"first fragment", ipv6(44, "11 00 0001 deadcafe", "9c40 01bb 0400 abcd"), Parsed{
			L4: 48, End: 56, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, FragHeader: 40, MoreFrags: true, ID: 0xdeadcafe}},
		{"first fragment behind options", ipv6(60, pad6c, "11 00 0001 deadcafe", "9c40 01bb 0400 abcd"), Parsed{
			L4: 56, End: 64, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, FragHeader: 48, MoreFrags: true, ID: 0xdeadcafe}},
		{"middle fragment", ipv6(44, "11 00 0069 deadcafe", "0011223344556677"), Parsed{
			L4: 48, End: 56, Kind: KindFragment, Proto: 17, FragHeader: 40, FragOffset: 104, MoreFrags: true, ID: 0xdeadcafe}},
		{"last fragment", ipv6(44, "11 00 0068 deadcafe", "0011"), Parsed{
			L4: 48, End: 50, Kind: KindFragment, Proto: 17, FragHeader: 40, FragOffset: 104, ID: 0xdeadcafe}},
		{"atomic fragment", ipv6(44, "11 00 0000 deadcafe", udp6), Parsed{
			L4: 48, End: 60, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, FragHeader: 40, ID: 0xdeadcafe}},
		{"eight extension headers", ipv6(60, strings.Repeat("3c00 0104 00000000", 7), pad60, udp6), Parsed{
			L4: 104, End: 116, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Parsed{Kind: 99, ID: 99, Src4: 99} // what an earlier packet left
			if s := Parse6(tc.pkt, 0, &got); s != Good || got != base6(tc.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", s, got, base6(tc.want))
			}
			const front = 270
			moved := append(make([]byte, front), tc.pkt...)
			want := base6(tc.want)
			want.L3, want.L4, want.End = front, want.L4+front, want.End+front
			if want.FragHeader != 0 {
				want.FragHeader += front
			}
			if s := Parse6(moved, front, &got); s != Good || got != want {
				t.Errorf("behind %d octets: %v\ngot  %+v\nwant %+v", front, s, got, want)
			}
		})
	}
}

func TestParse6Refuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		pkt  []byte
		want Status
	}{
		{"nothing", nil, Truncated},
		{"39 octets", ipv6(17, udp6)[:39], Truncated},
		{"payload cut off", ipv6(17, udp6)[:51], Truncated},
		{"IPv4", change(ipv6(17, udp6), 0, "45"), BadVersion},
		{"7 octets of UDP", ipv6(17, "9c40 01bb 0008 ab"), Truncated},
		{"UDP length 7", ipv6(17, "9c40 01bb 0007 abcd"), BadHeaderLength},
		{"UDP length beyond the packet", ipv6(17, "9c40 01bb 0009 abcd"), BadHeaderLength},
		{"19 octets of TCP", ipv6(6, tcpCut, "abcd00"), Truncated},
		{"TCP data offset 4", ipv6(6, strings.Replace(tcp6, "5018", "4018", 1)), BadHeaderLength},
		{"TCP data offset beyond the packet", ipv6(6, strings.Replace(tcp6, "5018", "7018", 1)), BadHeaderLength},
		{"7 octets of ICMPv6", ipv6(58, "80 00 abcd 1234 00"), Truncated},
		{"segments left", ipv6(43, rh1, udp6), SegmentsLeft},
		{"half an options header", ipv6(60, "1100 0104"), BadExtensionHeader},
		{"options header beyond the packet", ipv6(60, "1101 0104 00000000"), BadExtensionHeader},
		{"hop-by-hop options behind others", ipv6(60, "0000 0104 00000000", pad60, udp6), MisplacedHopByHop},
		{"nine extension headers", ipv6(60, strings.Repeat("3c00 0104 00000000", 8), pad60, udp6), TooManyHeaders},
		{"a later fragment behind eight headers", ipv6(60, strings.Repeat("3c00 0104 00000000", 7), "2c00 0104 00000000", "11 00 0068 deadcafe", "0011"), TooManyHeaders},
		{"two fragment headers", ipv6(44, "2c 00 0000 deadcafe", "11 00 0000 deadcafe", udp6), BadExtensionHeader},
		{"options behind a fragment header", ipv6(44, "3c 00 0001 deadcafe", pad60, "9c40 01bb 0400 abcd"), BadExtensionHeader},
		{"options behind an atomic fragment's header", ipv6(44, "3c 00 0000 deadcafe", pad60, udp6), BadExtensionHeader},
		{"half a fragment header", ipv6(44, "11 00 0000"), BadExtensionHeader},
		{"fragment of 7 octets with more to come", ipv6(44, "11 00 0069 deadcafe", "00112233445566"), BadFragment},
		{"empty fragment", ipv6(44, "11 00 0068 deadcafe"), BadFragment},
		{"fragment beyond 65535 octets", ipv6(44, "11 00 fff8 deadcafe", "0011223344556677"), LongFragment},
		{"first fragment that cuts TCP", ipv6(44, "06 00 0001 deadcafe", tcpCut), TinyFragment},
		{"first fragment that cuts TCP options", ipv6(44, "06 00 0001 deadcafe", strings.Replace(tcp6, "5018", "7018", 1)), TinyFragment},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Parsed
			if s := Parse6(tc.pkt, 0, &p); s != tc.want {
				t.Errorf("%v, want %v", s, tc.want)
			}
		})
	}
}

// TestSegmentsLeftPointer: the worker's error points at the fourth octet of
// the routing header.
func TestSegmentsLeftPointer(t *testing.T) {
	var p Parsed
	pkt := ipv6(60, "2b00 0104 00000000", rh1, udp6)
	if s := Parse6(pkt, 0, &p); s != SegmentsLeft || p.L4 != 48 || p.SrcLo != 0x17 || int(p.End) != len(pkt) {
		t.Errorf("%v, %+v", s, p)
	}
}

// TestSourceRouteKind: whether a source-routed packet may be answered depends
// on what is in it.
func TestSourceRouteKind(t *testing.T) {
	for want, pkt := range map[Kind][]byte{
		KindUDP:         ipv4(17, 0, "01830704c0000209", udp6),
		KindICMPError:   ipv4(1, 0, "01830704c0000209", "03 04 abcd 0000 0578"),
		KindEchoRequest: ipv4(1, 0, "01830704c0000209", "08 00 abcd 1234 0001"),
		KindFragment:    ipv4(17, 0x000d, "01830704c0000209", "0011"),
	} {
		var p Parsed
		if s := Parse4(pkt, 0, &p); s != SourceRoute || p.Kind != want {
			t.Errorf("%v, kind %d, want %v and kind %d", s, p.Kind, SourceRoute, want)
		}
	}
}

// TestReadOn6: what lies behind the header that a packet was refused for, and
// which octet names that header.
func TestReadOn6(t *testing.T) {
	const icmp = "01 04 abcd 00000000 60000000"
	options := func(next string) string { return next + "00 0104 00000000" }
	for _, tc := range []struct {
		name    string
		pkt     []byte
		status  Status
		l4      int
		named   int // -1: what is behind cannot be read
		kind    Kind
		upperAt int
	}{
		{"routing, UDP", ipv6(43, rh1, udp6), SegmentsLeft, 40, 6, KindUDP, 64},
		{"options, routing, UDP", ipv6(60, options("2b"), rh1, udp6), SegmentsLeft, 48, 40, KindUDP, 72},
		{"routing, ICMPv6 error", ipv6(43, "3a"+rh1[2:], icmp), SegmentsLeft, 40, 6, KindICMPError, 64},
		{"routing, options, ICMPv6 error", ipv6(43, "3c"+rh1[2:], options("3a"), icmp), SegmentsLeft, 40, 6, KindICMPError, 72},
		{"routing, later fragment", ipv6(43, "2c"+rh1[2:], "11 00 0068 deadcafe", "0011"), SegmentsLeft, 40, 6, KindFragment, 72},
		{"routing, UDP cut", ipv6(43, rh1, "9c40"), SegmentsLeft, 40, 6, KindOther, 64},
		{"routing, ICMPv6 cut", ipv6(43, "3a"+rh1[2:], "0104"), SegmentsLeft, 40, -1, 0, 0},
		{"routing, header cut", ipv6(43, "3c"+rh1[2:], "1101"), SegmentsLeft, 40, -1, 0, 0},
		{"misplaced, UDP", ipv6(60, options("00"), options("11"), udp6), MisplacedHopByHop, 48, 40, KindUDP, 56},
		{"misplaced twice", ipv6(60, options("00"), options("00"), options("11"), udp6), MisplacedHopByHop, 48, -1, 0, 0},
		{"nine headers", ipv6(60, strings.Repeat(options("3c"), 8), options("3a"), icmp), TooManyHeaders, 104, 96, KindICMPError, 112},
		{"eighteen headers", ipv6(60, strings.Repeat(options("3c"), 17), options("3a"), icmp), TooManyHeaders, 104, -1, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Parsed
			b := append(make([]byte, 14), tc.pkt...)
			if s := Parse6(b, 14, &p); s != tc.status || int(p.L4) != 14+tc.l4 {
				t.Fatalf("%v at %d, want %v at %d", s, p.L4, tc.status, 14+tc.l4)
			}
			at := int(p.L4)
			if ok := ReadOn6(b, &p); ok != (tc.named >= 0) {
				t.Fatalf("read on: %v", ok)
			}
			if tc.named < 0 {
				return
			}
			if named := PointerTo6(b, 14, at); named != tc.named || p.Kind != tc.kind || int(p.L4) != 14+tc.upperAt {
				t.Errorf("named by %d, kind %d at %d, want %d, %d at %d", named, p.Kind, p.L4, tc.named, tc.kind, 14+tc.upperAt)
			}
		})
	}
}

func TestParse4(t *testing.T) {
	for _, tc := range []struct {
		name string
		pkt  []byte
		want Parsed
	}{
		{"UDP", ipv4(17, 0, "", udp6), Parsed{L4: 20, End: 32, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"UDP, padded to the least Ethernet frame", append(ipv4(17, 0x4000, "", udp6), make([]byte, 14)...), Parsed{L4: 20, End: 32, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, DF: true}},
		{"TCP", ipv4(6, 0x4000, "", tcp6), Parsed{L4: 20, End: 44, Kind: KindTCP, Proto: 6, TCPFlags: 0x18, SrcPort: 40000, DstPort: 443, DF: true}},
		{"echo request", ipv4(1, 0, "", "08 00 abcd 1234 0001"), Parsed{L4: 20, End: 28, Kind: KindEchoRequest, Proto: 1, ICMPType: 8, SrcPort: 0x1234, DstPort: 0x1234}},
		{"echo reply", ipv4(1, 0, "", "00 00 abcd 1234 0001"), Parsed{L4: 20, End: 28, Kind: KindEchoReply, Proto: 1, SrcPort: 0x1234, DstPort: 0x1234}},
		{"unreachable", ipv4(1, 0, "", "03 04 abcd 0000 0578"), Parsed{L4: 20, End: 28, Kind: KindICMPError, Proto: 1, ICMPType: 3, ICMPCode: 4}},
		{"source quench", ipv4(1, 0, "", "04 00 abcd 0000 0000"), Parsed{L4: 20, End: 28, Kind: KindICMPError, Proto: 1, ICMPType: 4}},
		{"redirect", ipv4(1, 0, "", "05 01 abcd 0000 0000"), Parsed{L4: 20, End: 28, Kind: KindICMPError, Proto: 1, ICMPType: 5, ICMPCode: 1}},
		{"timestamp", ipv4(1, 0, "", "0d 00 abcd 0000 0000"), Parsed{L4: 20, End: 28, Kind: KindICMPOther, Proto: 1, ICMPType: 13}},
		{"ICMPv6 in IPv4", ipv4(58, 0, "", "80 00 abcd 1234 0001"), Parsed{L4: 20, End: 28, Kind: KindOther, Proto: 58}},
		{"GRE", ipv4(47, 0, "", "0000"), Parsed{L4: 20, End: 22, Kind: KindOther, Proto: 47}},
		{"options", ipv4(17, 0, "94040000 01010100", udp6), Parsed{L4: 28, End: 40, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"garbage behind the end of options", ipv4(17, 0, "00ffffff", udp6), Parsed{L4: 24, End: 36, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"option of length 1", ipv4(17, 0, "94010000", udp6), Parsed{L4: 24, End: 36, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"option beyond the header", ipv4(17, 0, "94050000", udp6), Parsed{L4: 24, End: 36, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"option type without length", ipv4(17, 0, "01010194", udp6), Parsed{L4: 24, End: 36, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"source route used up", ipv4(17, 0, "01830708c0000209", udp6), Parsed{L4: 28, End: 40, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443}},
		{"first fragment", ipv4(17, 0x2000, "", "9c40 01bb 0400 abcd"), Parsed{L4: 20, End: 28, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, MoreFrags: true}},
		{"middle fragment", ipv4(17, 0x200d, "", "0011223344556677"), Parsed{L4: 20, End: 28, Kind: KindFragment, Proto: 17, MoreFrags: true, FragOffset: 104}},
		{"last fragment", ipv4(17, 0x000d, "", "0011"), Parsed{L4: 20, End: 22, Kind: KindFragment, Proto: 17, FragOffset: 104}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Parsed{Kind: 99, FragHeader: 99, SrcHi: 99}
			if s := Parse4(tc.pkt, 0, &got); s != Good || got != base4(tc.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", s, got, base4(tc.want))
			}
		})
	}
}

func TestParse4Refuses(t *testing.T) {
	good := ipv4(17, 0, "", udp6)
	for _, tc := range []struct {
		name string
		pkt  []byte
		want Status
	}{
		{"nothing", nil, Truncated},
		{"19 octets", good[:19], Truncated},
		{"payload cut off", good[:31], Truncated},
		{"options cut off", ipv4(17, 0, "01010100", udp6)[:22], Truncated},
		{"IPv6", change(good, 0, "65"), BadVersion},
		{"header length 4", change(good, 0, "44"), BadHeaderLength},
		{"total length below the header's", change(good, 2, "0013"), BadHeaderLength},
		{"checksum", change(good, 8, "3f"), BadHeaderChecksum},
		{"checksum with options", change(ipv4(17, 0, "01010100", udp6), 8, "3f"), BadHeaderChecksum},
		{"loose source route", ipv4(17, 0, "01830704c0000209", udp6), SourceRoute},
		{"strict source route", ipv4(17, 0, "01890704c0000209", udp6), SourceRoute},
		{"source route without a pointer", ipv4(17, 0, "01018302", udp6), SourceRoute},
		{"source route beyond the header", ipv4(17, 0, "830b04c0", udp6), SourceRoute},
		{"source route without a length", ipv4(17, 0, "01010189", udp6), SourceRoute},
		{"source route and UDP cut off", ipv4(17, 0, "01830704c0000209", "9c40"), Truncated},
		{"source route in an empty fragment", ipv4(17, 0x000d, "01830704c0000209"), BadFragment},
		{"UDP length beyond the packet", ipv4(17, 0, "", "9c40 01bb 0009 abcd"), BadHeaderLength},
		{"fragment of 7 octets with more to come", ipv4(17, 0x200d, "", "00112233445566"), BadFragment},
		{"empty fragment", ipv4(17, 0x000d, ""), BadFragment},
		{"fragment beyond 65535 octets", ipv4(17, 0x1fff, "", "0011223344556677"), LongFragment},
		{"first fragment that cuts TCP", ipv4(6, 0x2000, "", tcpCut), TinyFragment},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Parsed
			if s := Parse4(tc.pkt, 0, &p); s != tc.want {
				t.Errorf("%v, want %v", s, tc.want)
			}
		})
	}
}

// TestParseQuoted: a quote may be cut behind 8 octets of its upper layer, and
// is not judged any more.
func TestParseQuoted(t *testing.T) {
	cut := func(b []byte, n int) []byte { return b[:n] }
	for _, tc := range []struct {
		name   string
		v6     bool
		pkt    []byte
		status Status
		want   Parsed
	}{
		{"IPv4 UDP, 8 octets", false, cut(ipv4(17, 0, "", udp6), 28), Good, base4(Parsed{L4: 20, End: 28, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv4 checksum wrong", false, change(ipv4(17, 0, "", udp6), 10, "0000"), Good, base4(Parsed{L4: 20, End: 32, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv4 shorter than the quote", false, append(ipv4(17, 0, "", udp6), 0, 0, 0), Good, base4(Parsed{L4: 20, End: 32, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv4 source route", false, ipv4(17, 0, "01830704c0000209", udp6), Good, base4(Parsed{L4: 28, End: 40, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv4 TCP without flags", false, cut(ipv4(6, 0, "", tcp6), 33), Good, base4(Parsed{L4: 20, End: 33, Kind: KindTCP, Proto: 6, SrcPort: 40000, DstPort: 443})},
		{"IPv4 TCP with flags", false, cut(ipv4(6, 0, "", tcp6), 34), Good, base4(Parsed{L4: 20, End: 34, Kind: KindTCP, Proto: 6, TCPFlags: 0x18, SrcPort: 40000, DstPort: 443})},
		{"IPv4 echo", false, ipv4(1, 0, "", "08 00 abcd 1234 0001"), Good, base4(Parsed{L4: 20, End: 28, Kind: KindEchoRequest, Proto: 1, ICMPType: 8, SrcPort: 0x1234, DstPort: 0x1234})},
		{"IPv4 first fragment, cut", false, cut(ipv4(17, 0x2000, "", "9c40 01bb 0400 abcd 00112233"), 29), Good, base4(Parsed{L4: 20, End: 29, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, MoreFrags: true})},
		{"IPv4 later fragment", false, ipv4(17, 0x000d, "", "0011"), Good, base4(Parsed{L4: 20, End: 22, Kind: KindFragment, Proto: 17, FragOffset: 104})},
		{"IPv4 7 octets", false, cut(ipv4(17, 0, "", udp6), 27), Truncated, Parsed{}},
		{"IPv4 header cut", false, cut(ipv4(17, 0, "", udp6), 19), Truncated, Parsed{}},
		{"IPv6 UDP, 8 octets", true, cut(ipv6(17, udp6), 48), Good, base6(Parsed{L4: 40, End: 48, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv6 segments left", true, ipv6(43, rh1, udp6), Good, base6(Parsed{L4: 64, End: 76, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443})},
		{"IPv6 first fragment, cut", true, cut(ipv6(44, "11 00 0001 deadcafe", "9c40 01bb 0400 abcd 00112233"), 57), Good, base6(Parsed{L4: 48, End: 57, Kind: KindUDP, Proto: 17, SrcPort: 40000, DstPort: 443, FragHeader: 40, MoreFrags: true, ID: 0xdeadcafe})},
		{"IPv6 error", true, ipv6(58, "01 04 abcd 0000 0000"), Good, base6(Parsed{L4: 40, End: 48, Kind: KindICMPError, Proto: 58, ICMPType: 1, ICMPCode: 4})},
		{"IPv6 options cut", true, cut(ipv6(60, "1101 0104 00000000 0000000000000000", udp6), 52), BadExtensionHeader, Parsed{}},
		{"IPv6 7 octets", true, cut(ipv6(17, udp6), 47), Truncated, Parsed{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parse := ParseQuoted4
			if tc.v6 {
				parse = ParseQuoted6
			}
			var got Parsed
			s := parse(append(slices.Clone(tc.pkt), 0xee, 0xee), 0, len(tc.pkt), &got)
			if s != tc.status || s == Good && got != tc.want {
				t.Errorf("%v\ngot  %+v\nwant %+v", s, got, tc.want)
			}
			if s := parse(tc.pkt, 0, len(tc.pkt)+1, &got); s != Truncated || got != (Parsed{}) {
				t.Errorf("an end beyond the memory: %v", s)
			}
			if s := parse(tc.pkt, 0, -1, &got); s != Truncated || got != (Parsed{}) {
				t.Errorf("an end in front of the memory: %v", s)
			}
		})
	}
}

// TestLongFrame: offsets have 16 bits, so longer memory is refused instead of
// misread.
func TestLongFrame(t *testing.T) {
	var p Parsed
	if s := Parse6(append(ipv6(17, udp6), make([]byte, 65536)...), 0, &p); s != Truncated {
		t.Errorf("IPv6: %v", s)
	}
	if s := Parse4(append(ipv4(17, 0, "", udp6), make([]byte, 65536)...), 0, &p); s != Truncated {
		t.Errorf("IPv4: %v", s)
	}
	if Parse6(ipv6(17, udp6), -1, &p) != Truncated || Parse4(ipv4(17, 0, "", udp6), -1, &p) != Truncated {
		t.Error("an offset in front of the memory was taken")
	}
}

func TestStatusRows(t *testing.T) {
	seen := map[string]bool{}
	for s := range Status(NumStatus) {
		if s.String() == "" || seen[s.String()] || (s.Section() == "") != (s == Good) {
			t.Errorf("status %d: %q, %q", s, s, s.Section())
		}
		seen[s.String()] = true
	}
	if beyond := Status(NumStatus); beyond.String() != "unknown" || beyond.Section() != "" || LongFragment != beyond-1 {
		t.Error("the table ends before the statuses do")
	}
}
