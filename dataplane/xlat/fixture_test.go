package xlat

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"handoff64/dataplane/fixture"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
)

// The fixtures in testdata are packets from their IP header on, all of one
// small network:
//
//	client 2001:db8::17 ── NAT64 ── server 198.51.100.7, seen as 64:ff9b::c633:6407
//	port 40000, echo 1234  │  pool4 203.0.113.1, port 5123, echo 9abc    port 443
//	                       └ router 192.0.2.254 (64:ff9b::c000:2fe)
//
// NAME-64 and NAME-46 are pairs: 6-NAME-64.hex becomes 4-NAME-64.hex,
// 4-NAME-46.hex becomes 6-NAME-46.hex.
var (
	client6 = netip.MustParseAddr("2001:db8::17")
	server6 = netip.MustParseAddr("64:ff9b::c633:6407")
	router6 = netip.MustParseAddr("64:ff9b::c000:2fe")
	mapped4 = netip.MustParseAddr("203.0.113.1")
	server4 = netip.MustParseAddr("198.51.100.7")
)

const (
	clientPort, mappedPort, serverPort = 40000, 5123, 443
	clientID, mappedID                 = 0x1234, 0x9abc
)

func words(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

func word(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// flow64 is the fixtures' session for a packet of the client.
func flow64(p *packet.Parsed) *Flow64 {
	f := &Flow64{Src: word(mapped4), Dst: word(server4), SrcPort: mappedPort, DstPort: serverPort}
	if p.Kind == packet.KindEchoRequest || p.Kind == packet.KindEchoReply {
		f.SrcPort, f.DstPort = mappedID, mappedID
		f.Delta = EchoDelta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, f)
		return f
	}
	f.Delta = Delta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, p.DstPort, f)
	return f
}

// flow46 is the fixtures' session for a packet of the server.
func flow46(p *packet.Parsed) *Flow46 {
	f := &Flow46{SrcPort: serverPort, DstPort: clientPort}
	f.SrcHi, f.SrcLo = words(server6)
	f.DstHi, f.DstLo = words(client6)
	if p.Kind == packet.KindEchoRequest || p.Kind == packet.KindEchoReply {
		f.SrcPort, f.DstPort = clientID, clientID
		f.Delta = EchoDelta46(p.DstPort, f)
		return f
	}
	f.Delta = Delta46(p.Src4, p.Dst4, p.SrcPort, p.DstPort, f)
	return f
}

// errorFlow46 is the fixtures' session for an error about a packet of the client.
func errorFlow46(inner *packet.Parsed) *ErrorFlow46 {
	f := &ErrorFlow46{InnerSrcPort: clientPort, InnerDstPort: serverPort}
	if inner.Proto == packet.ProtoICMP {
		f.InnerSrcPort, f.InnerDstPort = clientID, clientID
	}
	f.SrcHi, f.SrcLo = words(router6)
	f.DstHi, f.DstLo = words(client6)
	f.InnerSrcHi, f.InnerSrcLo = words(client6)
	f.InnerDstHi, f.InnerDstLo = words(server6)
	return f
}

// errorFlow64 is the fixtures' session for an error about a packet of the server.
func errorFlow64(inner *packet.Parsed) *ErrorFlow64 {
	f := &ErrorFlow64{
		Src: word(mapped4), Dst: word(server4),
		InnerSrc: word(server4), InnerDst: word(mapped4),
		InnerSrcPort: serverPort, InnerDstPort: mappedPort,
	}
	if inner.Proto == packet.ProtoICMPv6 {
		f.InnerSrcPort, f.InnerDstPort = mappedID, mappedID
	}
	return f
}

// fixtureOptions are those of all fixtures but the ones that say otherwise.
func fixtureOptions() *Options {
	return &Options{TrafficClassFromTOS: true, UDPZeroCompute: true, ID: 0xbeef, MTU6: 1500, MTU4: 1500}
}

// headroom and slack around a packet in its frame, filled with a mark that
// nothing may change.
const (
	headroom = 256 + packet.EthernetLen
	slack    = 64
	mark     = 0xa5
)

// frame puts a packet into a frame.
func frame(pkt []byte) []byte {
	b := bytes.Repeat([]byte{mark}, headroom+len(pkt)+slack)
	copy(b[headroom:], pkt)
	return b
}

// translate64 runs an IPv6 packet through the functions a worker would call,
// and checks that what is around the packet did not change.
func translate64(t testing.TB, pkt []byte, o *Options) ([]byte, Status) {
	t.Helper()
	b := frame(pkt)
	var p, inner packet.Parsed
	if s := packet.Parse6(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("packet refused when parsed: %v", s)
	}
	var start, end int
	var s Status
	if p.Kind == packet.KindICMPError {
		if s := packet.ParseQuoted6(b, int(p.L4)+packet.ICMPLen, int(p.End), &inner); s != packet.Good {
			t.Fatalf("quote refused when parsed: %v", s)
		}
		start, end, s = Error6to4(b, &p, &inner, errorFlow64(&inner), o)
	} else {
		start, s = V6ToV4(b, &p, flow64(&p), o)
		end = int(p.End)
	}
	return judgeFrame(t, b, pkt, start, end, headroom, s)
}

// translate46 is translate64 for an IPv4 packet.
func translate46(t testing.TB, pkt []byte, o *Options) ([]byte, Status) {
	t.Helper()
	b := frame(pkt)
	var p, inner packet.Parsed
	if s := packet.Parse4(b[:headroom+len(pkt)], headroom, &p); s != packet.Good {
		t.Fatalf("packet refused when parsed: %v", s)
	}
	var start, end int
	var s Status
	if p.Kind == packet.KindICMPError {
		if s := packet.ParseQuoted4(b, int(p.L4)+packet.ICMPLen, int(p.End), &inner); s != packet.Good {
			t.Fatalf("quote refused when parsed: %v", s)
		}
		start, end, s = Error4to6(b, &p, &inner, errorFlow46(&inner), o)
	} else {
		start, s = V4ToV6(b, &p, flow46(&p), o)
		end = int(p.End)
	}
	return judgeFrame(t, b, pkt, start, end, start, s)
}

// judgeFrame checks a frame after translation: a refused packet lies there
// untouched, a translated one has changed nothing in front of first or behind
// the packet.
func judgeFrame(t testing.TB, b, pkt []byte, start, end, first int, s Status) ([]byte, Status) {
	t.Helper()
	if s != OK {
		if !bytes.Equal(b, frame(pkt)) {
			t.Errorf("%v, but the packet was changed", s)
		}
		return nil, s
	}
	for i, octet := range b {
		if (i < min(first, headroom) || i >= headroom+len(pkt)) && octet != mark {
			t.Fatalf("octet %d outside the packet [%d, %d) was written", i, start, end)
		}
	}
	return b[start:end], OK
}

func load(t testing.TB, name string) []byte {
	t.Helper()
	pkt, err := fixture.Load(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	return pkt
}

// compare shows both packets, 16 octets a line, with the differing lines
// marked; far into the packet only those.
func compare(t testing.TB, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	var s strings.Builder
	for i := 0; i < max(len(got), len(want)); i += 16 {
		g, w := got[min(i, len(got)):min(i+16, len(got))], want[min(i, len(want)):min(i+16, len(want))]
		sign := ' '
		if !bytes.Equal(g, w) {
			sign = '!'
		} else if i >= 128 {
			continue
		}
		s.WriteString(strings.TrimRight(string(sign)+" "+pad48(g)+"| "+pad48(w), " ") + "\n")
	}
	t.Errorf("got %d octets, want %d\n  %-48s| %s\n%s", len(got), len(want), "got", "want", s.String())
}

func pad48(b []byte) string {
	s := ""
	for i := range b {
		s += hex.EncodeToString(b[i:i+1]) + " "
	}
	return s + strings.Repeat(" ", 48-len(s))
}

// refused are the packets that must not be translated, and why.
var refused = map[string]Status{
	"6-udp-zero-checksum": UDPZeroIPv6, "6-sctp": UnsupportedProtocol, "6-sctp-fragment-last": UnsupportedProtocol,
	"6-mld": UnsupportedProtocol, "6-echo-fragment-first": FragmentedICMP, "6-echo-fragment-last": FragmentedICMP,
	"6-icmp-1-5": ICMPCodeUnmapped, "6-icmp-1-6": ICMPCodeUnmapped, "6-icmp-4-2": ICMPCodeUnmapped, "6-icmp-4-3": ICMPCodeUnmapped,
	"6-icmp-4-0-at-2": ICMPPointerUnmapped, "6-icmp-4-0-at-3": ICMPPointerUnmapped, "6-icmp-4-0-at-40": ICMPPointerUnmapped,
	"6-icmp-4-0-at-16777216": ICMPPointerUnmapped, "6-icmp-100": UnsupportedProtocol, "6-icmp-bad-checksum": ICMPChecksum,
	"6-quote-fragment-last": InnerFragment, "6-quote-echo-fragment": FragmentedICMP, "6-quote-error": InnerError, "6-quote-sctp": InnerUnsupported,

	"4-udp-zero-checksum-fragment": UDPZeroFragment, "4-gre": UnsupportedProtocol, "4-gre-fragment-last": UnsupportedProtocol,
	"4-timestamp": UnsupportedProtocol, "4-echo-fragment-first": FragmentedICMP, "4-echo-fragment-last": FragmentedICMP,
	"4-icmp-3-14": ICMPCodeUnmapped, "4-icmp-3-16": ICMPCodeUnmapped, "4-icmp-12-1": ICMPCodeUnmapped,
	"4-icmp-12-0-at-4": ICMPPointerUnmapped, "4-icmp-12-0-at-6": ICMPPointerUnmapped, "4-icmp-12-0-at-7": ICMPPointerUnmapped,
	"4-icmp-12-0-at-10": ICMPPointerUnmapped, "4-icmp-12-0-at-11": ICMPPointerUnmapped, "4-icmp-12-0-at-20": ICMPPointerUnmapped,
	"4-icmp-4-0": ICMPTypeUnmapped, "4-icmp-5-1": ICMPTypeUnmapped, "4-icmp-bad-checksum": ICMPChecksum,
	"4-quote-fragment-last": InnerFragment, "4-quote-echo-fragment": FragmentedICMP, "4-quote-error": InnerError, "4-quote-gre": InnerUnsupported,
}

// elsewhere are fixtures that tests of their own use.
var elsewhere = map[string]bool{
	"6-segments-left": true, "4-source-route": true, // TestRefusedWhenParsed
	"4-udp-large-46": true, "6-udp-large-46-1": true, "6-udp-large-46-2": true, // TestFragment6Fixture
	"6-own-hop-limit": true, "6-own-too-big": true, // TestBuildErrorFixtures
	"4-own-ttl": true, "4-own-fragmentation-needed": true, "4-own-parameter-problem": true,
}

// TestFixtures takes every file in testdata to its partner or its refusal, and
// finds files that nothing uses.
func TestFixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	pairs := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".hex")
		want, refuse := refused[name]
		switch {
		case elsewhere[name]:
		case refuse:
			t.Run(name, func(t *testing.T) { testRefused(t, name, want) })
		case strings.HasPrefix(name, "6-") && strings.HasSuffix(name, "-64"),
			strings.HasPrefix(name, "4-") && strings.HasSuffix(name, "-46"):
			pairs++
			t.Run(name, func(t *testing.T) { testPair(t, name) })
		case strings.HasPrefix(name, "4-") && strings.HasSuffix(name, "-64"),
			strings.HasPrefix(name, "6-") && strings.HasSuffix(name, "-46"):
			if _, err := os.Stat("testdata/" + partner(name) + ".hex"); err != nil {
				t.Errorf("%s has no partner: %v", name, err)
			}
		default:
			t.Errorf("no test uses %s", file)
		}
	}
	for name := range refused {
		load(t, name) // fails for a row without its file
	}
	if pairs < 100 {
		t.Errorf("only %d pairs found", pairs)
	}
}

// partner is the name of the other packet of a pair.
func partner(name string) string {
	if name[0] == '6' {
		return "4" + name[1:]
	}
	return "6" + name[1:]
}

func testPair(t *testing.T, name string) {
	in, want := load(t, name), load(t, partner(name))
	o := fixtureOptions()
	o.TrafficClassFromTOS = !strings.Contains(name, "class-zero")
	translate := translate64
	if name[0] == '4' {
		translate = translate46
	}
	got, s := translate(t, in, o)
	if s != OK {
		t.Fatalf("refused: %v", s)
	}
	compare(t, got, want)
	for _, pkt := range [][]byte{in, want} {
		if err := reference.CheckSums(pkt); err != nil {
			t.Errorf("the fixture is wrong: %v", err)
		}
	}
}

func testRefused(t *testing.T, name string, want Status) {
	translate := translate64
	if name[0] == '4' {
		translate = translate46
	}
	if _, s := translate(t, load(t, name), fixtureOptions()); s != want {
		t.Errorf("status %v, want %v", s, want)
	}
}

// TestRefusedByConfiguration: the packets that translate by default.
func TestRefusedByConfiguration(t *testing.T) {
	o := fixtureOptions()
	o.UDPZeroCompute = false
	if _, s := translate46(t, load(t, "4-udp-zero-checksum-46"), o); s != UDPZeroChecksum {
		t.Errorf("UDP without a checksum: %v, want %v", s, UDPZeroChecksum)
	}
	if _, s := translate46(t, load(t, "4-udp-zero-checksum-fragment"), o); s != UDPZeroChecksum {
		t.Errorf("the same in fragments: %v, want %v", s, UDPZeroChecksum)
	}
}

func TestRefusedWhenParsed(t *testing.T) {
	var p packet.Parsed
	if s := packet.Parse6(load(t, "6-segments-left"), 0, &p); s != packet.SegmentsLeft || p.L4 != packet.IPv6Len {
		t.Errorf("segments left: %v, L4 %d", s, p.L4)
	}
	if s := packet.Parse4(load(t, "4-source-route"), 0, &p); s != packet.SourceRoute {
		t.Errorf("source route: %v", s)
	}
}

// TestNoHeadroom: a packet at the front of its memory is refused, untouched.
func TestNoHeadroom(t *testing.T) {
	for _, name := range []string{"4-udp-46", "4-udp-fragment-last-46", "4-icmp-11-0-46"} {
		pkt := load(t, name)
		b := bytes.Clone(pkt)
		var p, inner packet.Parsed
		if s := packet.Parse4(b, 0, &p); s != packet.Good {
			t.Fatal(s)
		}
		var s Status
		if p.Kind == packet.KindICMPError {
			packet.ParseQuoted4(b, int(p.L4)+packet.ICMPLen, int(p.End), &inner)
			_, _, s = Error4to6(b, &p, &inner, errorFlow46(&inner), fixtureOptions())
		} else {
			_, s = V4ToV6(b, &p, flow46(&p), fixtureOptions())
		}
		if s != NoHeadroom || !bytes.Equal(b, pkt) {
			t.Errorf("%s: %v, changed %v", name, s, !bytes.Equal(b, pkt))
		}
	}
}
