package xsk

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Verdicts of the filter program (linux/bpf.h).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func testConfig() FilterConfig {
	all := []PortRange{{1024, 65535}}
	return FilterConfig{
		Pool6: []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/40")},
		Pool4: []Pool4{
			{Prefix: netip.MustParsePrefix("192.0.2.1/32"), TCP: all, UDP: append([]PortRange{{9, 9}}, all...), ICMP: all},
			{Prefix: netip.MustParsePrefix("198.51.100.0/24"), TCP: []PortRange{{0, 79}, {8000, 8001}}, UDP: []PortRange{{65535, 65535}}},
			{Prefix: netip.MustParsePrefix("198.51.100.7/32"), TCP: []PortRange{{443, 443}}, ICMP: []PortRange{{7, 7}}},
		},
		Statics: []Static{
			{TCP, netip.MustParseAddrPort("192.0.2.1:80")},
			{ICMP, netip.MustParseAddrPort("192.0.2.1:77")},
			{UDP, netip.MustParseAddrPort("203.0.113.9:53")},
		},
	}
}

// loadForTest loads the filter and gives it a socket for queue 0, which is the
// queue of test runs.
func loadForTest(t *testing.T, cfg FilterConfig, serve6, serve4, socket bool) *filter {
	t.Helper()
	needsRoot(t)
	f, err := loadFilterProgram(cfg, 1, testMAC, serve6, serve4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	})
	if !socket {
		return f
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := f.xdp.Register(0, fd); err != nil {
		t.Fatal(err)
	}
	return f
}

// run returns whether the program takes the frame, after checking that it left
// it as it was.
func run(t *testing.T, f *filter, frame []byte) bool {
	t.Helper()
	verdict, after, err := f.xdp.Program.Test(frame)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frame, after) {
		t.Fatalf("the filter changed the frame\nfrom %x\nto   %x", frame, after)
	}
	if verdict != xdpPass && verdict != xdpRedirect {
		t.Fatalf("verdict %d for %x", verdict, frame)
	}
	return verdict == xdpRedirect
}

type verdictCase struct {
	name  string
	frame []byte
	ours  bool
}

// Addresses of the tests: pool is a pool4 address, host a server out there.
const (
	pool = "192.0.2.1"
	host = "203.0.113.77"
)

func ipv6Cases() []verdictCase {
	padded := ipv6Frame("64:ff9b::1", transport(1, 2))
	bad := bytes.Clone(padded)
	bad[14] = 0x40
	vlan := ethernet(testMAC, 0x8100, append([]byte{0, 5}, padded[12:]...))
	elsewhere := bytes.Clone(padded)
	elsewhere[5] ^= 1
	broadcast := append([]byte{255, 255, 255, 255, 255, 255}, padded[6:]...)
	return []verdictCase{
		{"IPv6 into the first prefix", padded, true},
		{"IPv6 last address of the prefix", ipv6Frame("64:ff9b::ffff:ffff", nil), true},
		{"IPv6 beyond the prefix", ipv6Frame("64:ff9b:0:0:0:1::", nil), false},
		{"IPv6 into the /40", ipv6Frame("2001:db8:6f:1::1", nil), true},
		{"IPv6 beside the /40", ipv6Frame("2001:db8:164::1", nil), false},
		{"IPv6 elsewhere", ipv6Frame("2001:db9::1", nil), false},
		{"IPv6 multicast", ipv6Frame("ff02::1", nil), false},
		{"IPv6 header cut short", padded[:14+39], false},
		{"IPv6 header and no more", padded[:14+40], true},
		{"IPv6 of version 4", bad, false},
		{"IPv6 in a VLAN", vlan, false},
		{"IPv6 to another host's MAC", elsewhere, false},
		{"IPv6 to the broadcast MAC", broadcast, false},
		{"ARP", ethernet(testMAC, 0x0806, make([]byte, 46)), false},
		{"Ethernet header only", ethernet(testMAC, 0x0800, nil), false},
	}
}

// TestAllIP: what a forwarder gets, whatever the rest of the configuration and
// the side say.
func TestAllIP(t *testing.T) {
	f := loadForTest(t, FilterConfig{AllIP: true}, false, false, true)
	elsewhere := ipv6Frame("2001:db9::1", nil)
	elsewhere[5] ^= 1
	for _, c := range []verdictCase{
		{"IPv6", ipv6Frame("2001:db9::1", nil), true},
		{"IPv4", ipv4Packet{src: host, dst: "198.51.100.250", proto: 47}.frame(), true},
		{"IPv4, nothing of it", ethernet(testMAC, 0x0800, nil), true},
		{"ARP", ethernet(testMAC, 0x0806, make([]byte, 46)), false},
		{"to another station", elsewhere, false},
	} {
		if got := run(t, f, c.frame); got != c.ours {
			t.Errorf("%s: ours = %v, want %v", c.name, got, c.ours)
		}
	}
}

func ipv4Cases() []verdictCase {
	v4 := func(proto byte, payload []byte) ipv4Packet {
		return ipv4Packet{src: host, dst: pool, proto: proto, payload: payload}
	}
	options := v4(6, transport(443, 5000))
	options.options = 40
	toPrefix := func(dst string, proto byte, port uint16) []byte {
		return ipv4Packet{src: host, dst: dst, proto: proto, payload: transport(1, port)}.frame()
	}
	padding := v4(17, transport(53, 5000))
	padding.shorter = 17 // the ports are padding by the packet's own account
	badIHL := v4(6, transport(443, 5000)).frame()
	badIHL[14] = 0x44
	longIHL := v4(6, transport(443, 5000)).frame()
	longIHL[14] = 0x4f
	version := v4(6, transport(443, 5000)).frame()
	version[14] = 0x65
	return []verdictCase{
		{"TCP lowest port", v4(6, transport(443, 1024)).frame(), true},
		{"TCP highest port", v4(6, transport(443, 65535)).frame(), true},
		{"TCP below the range", v4(6, transport(5000, 1023)).frame(), false},
		{"TCP static port", v4(6, transport(443, 80)).frame(), true},
		{"UDP to the TCP static port", v4(17, transport(443, 80)).frame(), false},
		{"UDP port 9", v4(17, transport(443, 9)).frame(), true},
		{"TCP port 9", v4(6, transport(443, 9)).frame(), false},
		{"TCP with 40 octets of options", options.frame(), true},
		{"SCTP", v4(132, transport(443, 5000)).frame(), false},
		{"GRE", v4(47, transport(443, 5000)).frame(), false},
		{"TCP to another address", toPrefix("192.0.2.2", 6, 5000), false},
		{"TCP in the /24", toPrefix("198.51.100.200", 6, 8001), true},
		{"TCP in the /24, other port", toPrefix("198.51.100.200", 6, 443), false},
		{"TCP in the /32 inside the /24, its own port", toPrefix("198.51.100.7", 6, 443), true},
		{"TCP in the /32 inside the /24, the /24's port", toPrefix("198.51.100.7", 6, 79), true},
		{"UDP in the /24", toPrefix("198.51.100.7", 17, 65535), true},
		{"static outside the pool", toPrefix("203.0.113.9", 17, 53), true},
		{"beside the static outside the pool", toPrefix("203.0.113.9", 17, 54), false},
		{"ports cut off", v4(6, transport(443, 5000)).frame()[:14+20+3], false},
		{"ports and no more", v4(6, transport(443, 5000)).frame()[:14+20+4], true},
		{"ports in the padding", padding.frame(), false},
		{"header length below 20", badIHL, false},
		{"header longer than the packet", longIHL, false},
		{"version 6 as IPv4", version, false},
	}
}

func icmpCases() []verdictCase {
	v4 := func(payload []byte) []byte {
		return ipv4Packet{src: host, dst: pool, proto: 1, payload: payload}.frame()
	}
	sent := func(proto byte, payload []byte) ipv4Packet { // what we sent and a router quotes
		return ipv4Packet{src: pool, dst: host, proto: proto, payload: payload}
	}
	fragment, options, notOurs := sent(6, transport(5000, 443)), sent(17, transport(5000, 53)), sent(6, transport(5000, 443))
	fragment.fragment = 100
	options.options = 8
	notOurs.src = "192.0.2.2"
	short := sent(6, transport(5000, 443)).bytes()[:27]
	cases := []verdictCase{
		{"echo reply", v4(echo(0, 5000)), true},
		{"echo reply to the host's ping", v4(echo(0, 100)), false},
		{"echo reply to a static identifier", v4(echo(0, 77)), true},
		{"echo request", v4(echo(8, 5000)), false},
		{"echo request to a static identifier", v4(echo(8, 77)), true},
		{"timestamp", v4(echo(13, 5000)), false},
		{"redirect", v4(icmpError(5, sent(6, transport(5000, 443)).bytes())), false},
		{"ICMP cut short", v4(echo(0, 5000))[:14+20+7], false},
		{"error quoting the host's TCP", v4(icmpError(3, sent(6, transport(1000, 443)).bytes())), false},
		{"error quoting static TCP", v4(icmpError(3, sent(6, transport(80, 9999)).bytes())), true},
		{"error quoting UDP with options", v4(icmpError(3, options.bytes())), true},
		{"error quoting a later fragment", v4(icmpError(11, fragment.bytes())), false},
		{"error quoting another host's packet", v4(icmpError(3, notOurs.bytes())), false},
		{"error quoting our echo request", v4(icmpError(11, sent(1, echo(8, 5000)).bytes())), true},
		{"error quoting our echo reply", v4(icmpError(11, sent(1, echo(0, 77)).bytes())), true},
		{"error quoting the host's echo request", v4(icmpError(11, sent(1, echo(8, 99)).bytes())), false},
		{"error quoting an ICMP error", v4(icmpError(3, sent(1, echo(3, 5000)).bytes())), false},
		{"error quoting GRE", v4(icmpError(3, sent(47, transport(5000, 443)).bytes())), false},
		{"error with a quote cut short", v4(icmpError(3, short)), false},
		{"error with half a quoted header", v4(icmpError(3, short[:12])), false},
		{"error without a quote", v4(icmpError(3, nil)), false},
	}
	for _, icmpType := range []byte{3, 4, 11, 12} {
		cases = append(cases, verdictCase{"error quoting our TCP", v4(icmpError(icmpType, sent(6, transport(5000, 443)).bytes())), true})
	}
	return cases
}

// fragmentCases are the worker's, whatever they are: only a datagram's first
// fragment shows whose it is, and it may come last.
func fragmentCases() []verdictCase {
	frag := func(dst string, fragment uint16, proto byte, payload []byte) []byte {
		return ipv4Packet{src: host, dst: dst, proto: proto, id: 1, fragment: fragment, payload: payload}.frame()
	}
	const more = 0x2000
	data := make([]byte, 64)
	return []verdictCase{
		{"last fragment", frag(pool, 185, 17, data), true},
		{"middle fragment", frag(pool, more|100, 6, data), true},
		{"first fragment to a port of ours", frag(pool, more, 17, transport(53, 5000)), true},
		{"first fragment to a port of the host's", frag(pool, more, 17, transport(53, 80)), true},
		{"first fragment of a ping to the host", frag(pool, more, 1, echo(8, 5000)), true},
		{"first fragment without ports", frag(pool, more, 17, []byte{1, 2}), true},
		{"fragment of a protocol of the host's", frag(pool, 185, 47, data), true},
		{"fragment to the address of a static mapping", frag("203.0.113.9", 185, 17, data), true},
		{"fragment to another address", frag("192.0.2.2", 185, 17, data), false},
		{"do not fragment is no fragment", frag(pool, 0x4000, 17, transport(53, 80)), false},
		{"nor is the reserved flag", frag(pool, 0x8000, 17, transport(53, 80)), false},
	}
}

func TestFilterVerdicts(t *testing.T) {
	f := loadForTest(t, testConfig(), true, true, true)
	ref := newReference(testConfig(), testMAC, true, true)
	for _, cases := range [][]verdictCase{ipv6Cases(), ipv4Cases(), icmpCases(), fragmentCases()} {
		for _, c := range cases {
			if got := run(t, f, c.frame); got != c.ours {
				t.Errorf("%s: ours = %v, want %v\n%x", c.name, got, c.ours, c.frame)
			}
			if got := ref.ours(c.frame); got != c.ours {
				t.Errorf("%s: the reference says %v, want %v", c.name, got, c.ours)
			}
		}
	}
}

// With exclusive pools everything to their addresses is ours, but for what the
// control channel needs and the protocols kept for the host.
func TestFilterExclusive(t *testing.T) {
	cfg := testConfig()
	cfg.Exclusive, cfg.ControlPort, cfg.KernelProtocols = true, 64064, []uint8{47}
	f, ref := loadForTest(t, cfg, true, true, true), newReference(cfg, testMAC, true, true)
	to := func(dst string, proto byte, payload []byte) []byte {
		return ipv4Packet{src: host, dst: dst, proto: proto, payload: payload}.frame()
	}
	sent := func(proto byte, payload []byte) []byte {
		return icmpError(3, ipv4Packet{src: pool, dst: host, proto: proto, payload: payload}.bytes())
	}
	for _, c := range []verdictCase{
		{"TCP in the range", to(pool, 6, transport(443, 5000)), true},
		{"SSH", to(pool, 6, transport(443, 22)), true},
		{"TCP to the control port's number", to(pool, 6, transport(443, 64064)), true},
		{"UDP outside the range", to(pool, 17, transport(53, 53)), true},
		{"UDP to the control port", to(pool, 17, transport(64064, 64064)), false},
		{"UDP without ports", to(pool, 17, []byte{1, 2}), true},
		{"echo request", to(pool, 1, echo(8, 5000)), true},
		{"echo reply to the host's ping", to(pool, 1, echo(0, 100)), true},
		{"timestamp", to(pool, 1, echo(13, 5000)), true},
		{"redirect", to(pool, 1, icmpError(5, nil)), true},
		{"error about the host's TCP", to(pool, 1, sent(6, transport(22, 5000))), true},
		{"error about the control channel", to(pool, 1, sent(17, transport(64064, 64064))), false},
		{"error about nothing", to(pool, 1, icmpError(3, nil)), true},
		{"GRE, which is kept", to(pool, 47, transport(1, 2)), false},
		{"error about GRE", to(pool, 1, sent(47, transport(1, 2))), false},
		{"SCTP", to(pool, 132, transport(1, 2)), true},
		{"another address", to("192.0.2.2", 6, transport(443, 5000)), false},
	} {
		if got := run(t, f, c.frame); got != c.ours {
			t.Errorf("%s: ours = %v, want %v", c.name, got, c.ours)
		}
		if got := ref.ours(c.frame); got != c.ours {
			t.Errorf("%s: the reference says %v, want %v", c.name, got, c.ours)
		}
	}
}

func TestFilterServesOnlyItsSide(t *testing.T) {
	six, four := ipv6Frame("64:ff9b::1", transport(1, 2)), ipv4Packet{src: host, dst: pool, proto: 6, payload: transport(1, 5000)}.frame()
	for _, tt := range []struct{ serve6, serve4 bool }{{true, false}, {false, true}, {true, true}} {
		f := loadForTest(t, testConfig(), tt.serve6, tt.serve4, true)
		if got := run(t, f, six); got != tt.serve6 {
			t.Errorf("%+v: an IPv6 packet is ours: %v", tt, got)
		}
		if got := run(t, f, four); got != tt.serve4 {
			t.Errorf("%+v: an IPv4 packet is ours: %v", tt, got)
		}
	}
}

// Between two instances the kernel must not answer for the NAT's connections,
// and must go on answering for its own.
func TestFilterDropsWithoutSocket(t *testing.T) {
	f := loadForTest(t, testConfig(), true, true, false)
	for _, c := range []struct {
		frame []byte
		want  uint32
	}{
		{ipv6Frame("64:ff9b::1", nil), xdpDrop},
		{ipv4Packet{src: host, dst: pool, proto: 6, payload: transport(1, 5000)}.frame(), xdpDrop},
		{ipv4Packet{src: host, dst: pool, proto: 6, payload: transport(1, 22)}.frame(), xdpPass},
	} {
		got, _, err := f.xdp.Program.Test(c.frame)
		if err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("verdict %d for %x, want %d", got, c.frame, c.want)
		}
	}
}

// TestFilterAgainstReference compares program and reference on packets that
// are variations of the table's: fields exchanged for other interesting
// values, octets changed, ends cut off.
func TestFilterAgainstReference(t *testing.T) {
	handoff := testConfig()
	handoff.OtherProtocols, handoff.KernelProtocols = true, []uint8{47, 50}
	t.Run("plain", func(t *testing.T) { compareWithReference(t, testConfig()) })
	t.Run("handoff", func(t *testing.T) { compareWithReference(t, handoff) })
	exclusive := handoff
	exclusive.Exclusive, exclusive.ControlPort = true, 5000
	t.Run("exclusive", func(t *testing.T) { compareWithReference(t, exclusive) })
	exclusive.ControlPort, exclusive.KernelProtocols = 0, nil
	t.Run("exclusive without control port", func(t *testing.T) { compareWithReference(t, exclusive) })
}

func compareWithReference(t *testing.T, cfg FilterConfig) {
	f := loadForTest(t, cfg, true, true, true)
	ref := newReference(cfg, testMAC, true, true)
	var frames [][]byte
	for _, cases := range [][]verdictCase{ipv6Cases(), ipv4Cases(), icmpCases(), fragmentCases()} {
		for _, c := range cases {
			frames = append(frames, c.frame)
		}
	}
	rng := rand.New(rand.NewPCG(64, 46))
	taken := 0
	const rounds = 30000
	for range rounds {
		frame := vary(rng, bytes.Clone(frames[rng.IntN(len(frames))]))
		want := ref.ours(frame)
		if got := run(t, f, frame); got != want {
			t.Fatalf("ours = %v, the reference says %v\n%x", got, want, frame)
		}
		if want {
			taken++
		}
	}
	if taken < rounds/10 || taken > rounds*9/10 {
		t.Errorf("%d of %d packets are ours: the variations test one side only", taken, rounds)
	}
}

func vary(rng *rand.Rand, frame []byte) []byte {
	for range rng.IntN(3) {
		if len(frame) < 42 {
			break
		}
		switch rng.IntN(6) {
		case 0: // a port or an identifier
			ports := []uint16{0, 7, 9, 53, 77, 79, 80, 443, 1023, 1024, 5000, 8001, 65535}
			at := []int{34, 36, 38, len(frame) - 20, len(frame) - 18}[rng.IntN(5)]
			binary.BigEndian.PutUint16(frame[at:], ports[rng.IntN(len(ports))])
		case 1: // an address
			addrs := []string{pool, host, "198.51.100.7", "198.51.100.8", "203.0.113.9", "192.0.2.2"}
			a := netip.MustParseAddr(addrs[rng.IntN(len(addrs))]).As4()
			copy(frame[[]int{26, 30}[rng.IntN(2)]:], a[:])
		case 2: // the protocol
			frame[23] = []byte{1, 6, 17, 47, 58}[rng.IntN(5)]
		case 3: // fragmentation
			binary.BigEndian.PutUint16(frame[20:], []uint16{0, 0x2000, 0x2001, 185, 0x4000}[rng.IntN(5)])
			binary.BigEndian.PutUint16(frame[18:], uint16(rng.IntN(4)))
		case 4: // any octet but those of the MAC
			frame[12+rng.IntN(len(frame)-12)] = byte(rng.Uint32())
		case 5:
			frame = frame[:14+rng.IntN(len(frame)-13)]
		}
	}
	return frame
}
