package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"handoff64/tools/lab"
)

// Tests of this file's kind let other people's programs and stacks judge what
// nat64d does, and Wireshark what is on the wire: with every link captured, it
// must find no wrong checksum and no malformed packet in any of them.

// dissected are the protocols that Wireshark looks into. What lies inside UDP
// and TCP in these tests is noise more often than not, which it would read as
// a broken packet of whoever owns the port.
var dissected = []string{"frame", "pkt_comment", "eth", "ethertype", "arp", "_ws.malformed", "_ws.expert", "_ws.short", "_ws.unreassembled", "ip", "ipv6", "ipv6.fraghdr", "ipv6.hopopts", "ipv6.dstopts", "ipv6.routing", "icmp", "icmpv6", "icmp_extension", "tcp", "udp", "udplite", "data"}

// wrong is the filter for what must not be there. Linux fills in a TCP checksum
// of all ones where another sender has zero (skb_checksum_help), which is the
// same number, but not to Wireshark: whether it fits the packet is left to the
// checker of this package.
const wrong = `!(tcp.checksum == 0xffff) && (_ws.malformed || ip.checksum.status == "Bad" || tcp.checksum.status == "Bad" || udp.checksum.status == "Bad" || ` +
	`icmp.checksum.status == "Bad" || icmpv6.checksum.status == "Bad" || udp.checksum.zero || _ws.expert.group == "Checksum" || _ws.expert.group == "Malformed")`

// tsharkSettings is a configuration folder that switches every other protocol
// off, made once.
var tsharkSettings = sync.OnceValues(func() (dir string, err error) {
	all, err := exec.Command("tshark", "-G", "protocols").Output()
	if err != nil {
		return "", fmt.Errorf("list of tshark's protocols: %w", err)
	}
	var disabled strings.Builder
	for line := range strings.Lines(string(all)) {
		// Name, short name and filter name, between tabs.
		columns := strings.Split(strings.TrimSpace(line), "\t")
		if len(columns) >= 3 && !slices.Contains(dissected, columns[2]) {
			fmt.Fprintln(&disabled, columns[2])
		}
	}
	dir = filepath.Dir(built.Nat64d) // goes when the tests have run
	return dir, os.WriteFile(filepath.Join(dir, "disabled_protos"), []byte(disabled.String()), 0o644)
})

// tsharkVerdict returns the packets of a capture with which something is wrong.
func tsharkVerdict(file string) (string, error) {
	dir, err := tsharkSettings()
	if err != nil {
		return "", err
	}
	args := []string{"-n", "-r", file, "-Y", wrong}
	for _, p := range []string{"ip", "tcp", "udp"} {
		args = append(args, "-o", p+".check_checksum:TRUE")
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("tshark %s: %w: %s", file, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// judged is build with every link of the network captured at both ends that
// AF_XDP does not take packets from, and Wireshark as a judge of each capture.
// Where tshark is not installed the checker of this package is left, and
// TestProgramTshark is what is listed as not run.
func judged(t *testing.T, o lab.Options, configure ...func(map[string]any)) *world {
	t.Helper()
	w := build(t, o, configure...)
	if o.Routers {
		for _, host := range w.Hosts() {
			if strings.HasPrefix(host, "client") || strings.HasPrefix(host, "server") {
				w.watchLink(host, "eth0")
			}
		}
	}
	w.judge = func(file string) {
		t.Helper()
		if _, err := exec.LookPath("tshark"); err != nil {
			return
		}
		switch bad, err := tsharkVerdict(file); {
		case err != nil:
			t.Error(err)
		case bad != "":
			t.Errorf("tshark finds fault with %s:\n%s", filepath.Base(file), bad[:min(len(bad), 2000)])
		}
	}
	return w
}

// watchLink adds a capture to those that are checked at the end.
func (w *world) watchLink(host, ifname string) {
	w.t.Helper()
	c, err := w.Host(host).StartCapture(ifname, filepath.Join(w.t.TempDir(), host+"-"+ifname+".pcap"), 20_000)
	w.must(err)
	w.captures = append(w.captures, c)
}

// The judge is only worth something if it notices.
func TestProgramTshark(t *testing.T) {
	t.Parallel()
	need(t, "tshark")
	needRoot(t)
	cases := []struct {
		name   string
		change func([]byte)
		bad    bool
	}{
		{"nothing changed", func([]byte) {}, false},
		{"IPv4 header", func(b []byte) { b[14+8]-- }, true},
		{"payload of UDP", func(b []byte) { b[14+20+8]++ }, true},
		{"UDP longer than it is", func(b []byte) { binary.BigEndian.PutUint16(b[38:], 400) }, true},
		{"IPv4 header longer than it is", func(b []byte) { b[14]++ }, true},
	}
	var frames [][]byte
	for _, tc := range cases {
		frame := goodFrame(t)
		tc.change(frame)
		frames = append(frames, frame)
	}
	file := filepath.Join(t.TempDir(), "cases.pcap")
	if err := writePcap(file, frames...); err != nil {
		t.Fatal(err)
	}
	verdict, err := tsharkVerdict(file)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool) // numbers of packets, which begin the lines
	for line := range strings.Lines(verdict) {
		named[strings.Fields(line)[0]] = true
	}
	for i, tc := range cases {
		if got := named[strconv.Itoa(i+1)]; got != tc.bad {
			t.Errorf("%s: found wrong is %t; tshark says:\n%s", tc.name, got, verdict)
		}
	}
}

// goodFrame is a UDP datagram with right checksums.
func goodFrame(t *testing.T) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{192, 0, 2, 2}}
	udp := &layers.UDP{SrcPort: 1000, DstPort: 2000}
	err := udp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{SrcMAC: []byte{2, 0, 0, 0, 0, 1}, DstMAC: []byte{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	err = errors.Join(err, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload("payload!")))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

func writePcap(file string, frames ...[]byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := pcapgo.NewWriter(f)
	err = w.WriteFileHeader(1<<16, layers.LinkTypeEthernet)
	for _, frame := range frames {
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(frame), Length: len(frame)}
		err = errors.Join(err, w.WritePacket(info, frame))
	}
	return errors.Join(err, f.Close())
}
