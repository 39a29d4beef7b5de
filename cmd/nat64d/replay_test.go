package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/commandline"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// capture is a file of packets at times counted from the first one.
type capture []struct {
	at     time.Duration
	packet []byte
}

func (c capture) write(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriterNanos(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	for _, p := range c {
		info := gopacket.CaptureInfo{Timestamp: start.Add(p.at), CaptureLength: len(p.packet), Length: len(p.packet)}
		if err := w.WritePacket(info, p.packet); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func serialize(t *testing.T, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var (
	mac     = net.HardwareAddr{2, 0, 0, 0, 9, 9}
	client  = net.ParseIP("2001:db8::17")
	server4 = net.ParseIP("203.0.113.5").To4()
	server6 = net.ParseIP("64:ff9b::203.0.113.5")
)

func query(t *testing.T, hopLimit uint8) []byte {
	ip := &layers.IPv6{Version: 6, HopLimit: hopLimit, NextHeader: layers.IPProtocolUDP, SrcIP: client, DstIP: server6}
	u := &layers.UDP{SrcPort: 40000, DstPort: 5300}
	u.SetNetworkLayerForChecksum(ip)
	return serialize(t, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, ip, u, gopacket.Payload("question"))
}

func answer(t *testing.T, port layers.UDPPort) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: server4, DstIP: net.IPv4(192, 0, 2, 1)}
	u := &layers.UDP{SrcPort: 5300, DstPort: port}
	u.SetNetworkLayerForChecksum(ip)
	return serialize(t, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4}, ip, u, gopacket.Payload("answer"))
}

const replayConfig = `{"ipv6_interface": "six", "ipv4_interface": "four", "pool4": [{"address": "192.0.2.1", "ports": "1024-65535"}],
 "timeouts": {"udp": "2s"}, "handoff": {"enabled": false}}`

// runReplay returns stdout and both output files.
func runReplay(t *testing.T, in6, in4 capture, flags ...string) (stdout string, out6, out4 []byte) {
	t.Helper()
	dir := t.TempDir()
	cfg := filepath.Join(dir, "nat64d.json")
	if err := os.WriteFile(cfg, []byte(replayConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	f6, f4 := filepath.Join(dir, "six.pcap"), filepath.Join(dir, "four.pcap")
	var out, errs bytes.Buffer
	args := append([]string{"replay", "--config", cfg, "--ipv6-in", in6.write(t, "6.pcap"), "--ipv4-in", in4.write(t, "4.pcap"),
		"--ipv6-out", f6, "--ipv4-out", f4}, flags...)
	if code := dispatch(args, &out, &errs); code != commandline.OK {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	for path, dst := range map[string]*[]byte{f6: &out6, f4: &out4} {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		*dst = data
	}
	return out.String(), out6, out4
}

func packets(t *testing.T, file []byte) (all []gopacket.Packet) {
	t.Helper()
	r, err := pcapgo.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for {
		data, _, err := r.ReadPacketData()
		if err != nil {
			return all
		}
		all = append(all, gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default))
	}
}

func TestReplay(t *testing.T) {
	in6 := capture{{0, query(t, 64)}, {1500 * time.Millisecond, query(t, 1)}}
	_, _, first := runReplay(t, in6, capture{})
	sent := packets(t, first)
	if len(sent) != 1 {
		t.Fatalf("%d packets were sent to the server, want 1", len(sent))
	}
	u := sent[0].TransportLayer().(*layers.UDP)
	if dst := sent[0].NetworkLayer().NetworkFlow().Dst().String(); dst != "203.0.113.5" || string(u.Payload) != "question" {
		t.Fatalf("sent %s", sent[0])
	}
	// With the port known, the server can answer: one second later, and long
	// after the session has expired.
	in4 := capture{{time.Second, answer(t, u.SrcPort)}, {time.Minute, answer(t, u.SrcPort)}}
	stdout, out6, out4 := runReplay(t, in6, in4, "--drops")
	if !bytes.Equal(first, out4[:len(first)]) {
		t.Error("the same input gave another output")
	}
	got := packets(t, out6)
	if len(got) != 2 {
		t.Fatalf("%d packets were sent to the client, want the answer and an ICMPv6 error", len(got))
	}
	back := got[0].TransportLayer().(*layers.UDP)
	if got[0].NetworkLayer().NetworkFlow().Dst().String() != client.String() || back.DstPort != 40000 || string(back.Payload) != "answer" {
		t.Errorf("the answer became %s", got[0])
	}
	if e, ok := got[1].Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); !ok || e.TypeCode != layers.CreateICMPv6TypeCode(3, 0) {
		t.Errorf("the packet with hop limit 1 was answered by %s", got[1])
	}
	for _, want := range []string{"received on IPv6  2", "received on IPv4  2", "passed on, IPv4 0", "parked 0", "dropped  2", "hop_limit 1", "no_mapping 1"} {
		if !strings.Contains(strings.Join(strings.Fields(stdout), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("the output lacks %q:\n%s", want, stdout)
		}
	}
}

func TestReplayIsRepeatable(t *testing.T) {
	var in6 capture
	for i := range 50 {
		in6 = append(in6, capture{{time.Duration(i) * 100 * time.Millisecond, query(t, uint8(1+i%3))}}...)
	}
	_, a6, a4 := runReplay(t, in6, capture{})
	_, b6, b4 := runReplay(t, in6, capture{})
	if !bytes.Equal(a6, b6) || !bytes.Equal(a4, b4) {
		t.Error("two runs over the same captures differ")
	}
}

// A capture that is given as an output, too, by whatever name, is left alone.
func TestReplayOverwritesNoInput(t *testing.T) {
	in6, in4 := capture{{0, query(t, 64)}}.write(t, "6.pcap"), capture{}.write(t, "4.pcap")
	dir := t.TempDir()
	link, fresh, other := filepath.Join(dir, "link"), filepath.Join(dir, "fresh"), filepath.Join(dir, "other")
	if err := os.Symlink(in6, link); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(in6)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, out6, out4 string
		want             bool
	}{
		{"four files", fresh, other, true},
		{"the same again", fresh, other, true},
		{"an input", in6, other, false},
		{"the other side's input", other, in6, false},
		{"an input by another name", fresh, link, false},
		{"one output for both", fresh, fresh, false},
		{"one output for both, new", filepath.Join(dir, "new"), filepath.Join(dir, ".", "x", "..", "new"), false},
		{"nothing kept", os.DevNull, os.DevNull, true},
	} {
		err := replayFiles{in6: in6, in4: in4, out6: tc.out6, out4: tc.out4}.distinct()
		if (err == nil) != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
		for _, f := range []string{fresh, other} {
			if err := os.WriteFile(f, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var stderr bytes.Buffer
	args := []string{"--config", "none.json", "--ipv6-in", in6, "--ipv4-in", in4, "--ipv6-out", link, "--ipv4-out", other}
	if code := replayCommand(args, &bytes.Buffer{}, &stderr); code != commandline.Usage || !strings.Contains(stderr.String(), "overwritten") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if after, err := os.ReadFile(in6); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the capture was changed: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.json")
	if err := os.WriteFile(good, []byte(replayConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.json")
	if err := os.WriteFile(broken, []byte(`{"pool5": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "none.pcap")
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, commandline.Usage, "", "no command"},
		{[]string{"--help"}, commandline.OK, "Usage:", ""},
		{[]string{"run", "--help"}, commandline.OK, "--config FILE ", ""},
		{[]string{"run", "--version"}, commandline.OK, "nat64d ", ""},
		{[]string{"--version"}, commandline.OK, "nat64d ", ""},
		{[]string{"fly"}, commandline.Usage, "", `command "fly" is unknown`},
		{[]string{"check"}, commandline.Usage, "", "--config FILE is missing"},
		{[]string{"check", "--config", good}, commandline.OK, "good.json: ok", ""},
		{[]string{"check", "--config", good, "more"}, commandline.Usage, "", `unexpected argument "more"`},
		{[]string{"check", "--config", broken}, commandline.Usage, "", "pool5: unknown key"},
		{[]string{"check", "--config", missing}, commandline.Usage, "", "no such file"},
		{[]string{"run", "--config", good, "--profile", "heat"}, commandline.Usage, "", "give cpu, mem"},
		{[]string{"run", "--confg", good}, commandline.Usage, "", "not defined: --confg (nat64d run --help)"},
		{[]string{"replay", "--config", good}, commandline.Usage, "", "--ipv4-in FILE is missing"},
		{[]string{"replay", "--config", good, "--ipv6-in", missing, "--ipv4-in", missing, "--ipv6-out", missing + "x", "--ipv4-out", missing + "y"},
			commandline.Failure, "", "none.pcap"},
	} {
		var out, errs bytes.Buffer
		code := dispatch(c.args, &out, &errs)
		if code != c.code || !strings.Contains(out.String(), c.stdout) || !strings.Contains(errs.String(), c.stderr) {
			t.Errorf("nat64d %q: exit code %d, stdout %q, stderr %q", c.args, code, out.String(), errs.String())
		}
		one := strings.Count(errs.String(), "\n") == 1 || slices.Contains(c.args, broken) // which has a line for each problem
		if c.code != commandline.OK && (!one || out.Len() > 0) {
			t.Errorf("nat64d %q: an error is one line on stderr, and nothing else: %q, %q", c.args, out.String(), errs.String())
		}
	}
}

// Fragments wait by the packets' clock, and what waits at the end of the
// captures is not forgotten but dropped by name.
func TestReplayFragments(t *testing.T) {
	b := query(t, 64)
	piece := func(id byte, at int, more byte) []byte {
		upper := b[14+40:]
		end := len(upper)
		if more == 1 {
			end = at + 8
		}
		f := append(bytes.Clone(b[:14+40]), 17, 0, 0, byte(at)|more, 0, 0, 0, id)
		f = append(f, upper[at:end]...)
		f[14+6], f[14+5] = 44, byte(len(f)-54)
		return f
	}
	in6 := capture{
		{0, piece(1, 8, 0)}, {1900 * time.Millisecond, piece(1, 0, 1)}, // in time, in reverse
		{3 * time.Second, piece(2, 8, 0)}, {6 * time.Second, piece(2, 0, 1)}, // the first too late
		{7 * time.Second, piece(3, 8, 0)}, // alone at the end
	}
	stdout, _, out4 := runReplay(t, in6, nil, "--drops")
	if !strings.Contains(stdout, "fragment_no_first 2 ") || strings.Count(stdout, "fragment_") != 1 {
		t.Errorf("replay printed\n%s", stdout)
	}
	if n := bytes.Count(out4, []byte{203, 0, 113, 5}); n != 3 {
		t.Errorf("%d packets left, want both fragments of the first datagram and one of the second", n)
	}
}
