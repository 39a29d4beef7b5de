package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/commandline"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// newWire keeps the test in a network namespace of its own with a veth pair,
// near and far, that has addresses.
func newWire(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and AF_XDP")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Set(home), home.Close(), own.Close()); err != nil {
			t.Error(err) // and the thread stays locked, to end with its goroutine
			return
		}
		runtime.UnlockOSThread()
	})
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}); err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{"near": "198.18.0.1/24", "far": "198.18.1.1/24"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		a, err := netlink.ParseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(netlink.AddrAdd(l, a), netlink.LinkSetUp(l)); err != nil {
			t.Fatal(err)
		}
	}
}

// mac is an interface's Ethernet address.
func mac(t *testing.T, name string) string {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr.String()
}

// measured is what a test looks at of the JSON of measure.
type measured struct {
	Directions map[string]struct {
		Sent, Received, Lost *uint64
		RatePPS              float64 `json:"rate_pps"`
		Latency              struct {
			Count    int64
			P50, P99 float64
		} `json:"latency_us"`
	}
	Interrupted bool
	Interfaces  []struct {
		Interface string
		XDPMode   string `json:"xdp_mode"`
	}
}

func (m *measured) check(t *testing.T, name string, sent uint64) {
	t.Helper()
	d, ok := m.Directions[name]
	if !ok || d.Sent == nil || d.Received == nil || d.Lost == nil {
		t.Fatalf("no figures of %s: %+v", name, m)
	}
	if *d.Sent != sent || *d.Received != sent || *d.Lost != 0 || d.Latency.Count != int64(sent) || d.Latency.P50 <= 0 || d.Latency.P99 < d.Latency.P50 {
		t.Errorf("%s: sent %d, received %d, lost %d, %+v", name, *d.Sent, *d.Received, *d.Lost, d)
	}
}

// TestMeasureCommand: from the command line to the JSON, both directions.
func TestMeasureCommand(t *testing.T) {
	newWire(t)
	var stdout, stderr bytes.Buffer
	args := []string{
		"--tx", "near", "--rx", "far", "--dst", "198.18.1.0/30", "--dst-mac", mac(t, "far"), "--return-mac", mac(t, "near"),
		"--flows", "100", "--rate", "5k", "--packets", "1000", "--direction", "both", "--json", "--imix", "aab", "--verify",
	}
	if code := runMeasure(t.Context(), args, &stdout, &stderr); code != commandline.OK || stderr.Len() > 0 {
		t.Fatalf("exit code %d, %s", code, &stderr)
	}
	var m measured
	if err := json.Unmarshal(stdout.Bytes(), &m); err != nil {
		t.Fatalf("%v in %s", err, &stdout)
	}
	m.check(t, "forward", 1000)
	m.check(t, "return", 1000)
	if m.Interrupted || len(m.Interfaces) != 2 || m.Interfaces[0].Interface != "near" || m.Interfaces[1].XDPMode == "" {
		t.Errorf("%s", &stdout)
	}
}

// TestSIGINT: a signal ends the program cleanly, with the result so far.
func TestSIGINT(t *testing.T) {
	newWire(t)
	program := filepath.Join(t.TempDir(), "pktgen")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "measure", "--tx", "near", "--rx", "far", "--dst", "198.18.1.1", "--dst-mac", mac(t, "far"), "--rate", "1k", "--duration", "0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	far, err := netlink.LinkByName("far")
	if err != nil {
		t.Fatal(err)
	}
	for before := far.Attrs().Statistics.RxPackets; ; time.Sleep(20 * time.Millisecond) { // until it sends
		if far, err = netlink.LinkByName("far"); err != nil {
			t.Fatal(err)
		}
		if far.Attrs().Statistics.RxPackets > before+50 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("nothing was sent: %s", &stderr)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v, %s", err, &stderr)
	}
	for _, want := range []string{"forward", "received", "lost 0 (0 %)", "interrupted: this is the result so far"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the output does not say %q: %s", want, &stdout)
		}
	}
	if far, err = netlink.LinkByName("far"); err != nil {
		t.Fatal(err)
	}
	if x := far.Attrs().Xdp; x != nil && x.Attached {
		t.Error("the XDP program is still there")
	}
}

// TestMistakes: what is wrong is said in one line that names the flag; exit
// code 2 for the command line, 1 for the world.
func TestMistakes(t *testing.T) {
	newWire(t)
	for args, want := range map[string]string{
		"send":                                                    "2 --interface IF is missing",
		"send --interface near --rate x":                          `2 --rate: "x" is neither`,
		"send --interface near --rate -1":                         "2 --rate",
		"send --interface near --dst x":                           `2 --dst: "x" is neither`,
		"send --interface near --size 20":                         "2 --size 20: frames of these flows have 60 to",
		"send --interface near --imix h":                          "2 --imix",
		"send --interface near --flows 1M":                        "2 --flows",
		"send --interface near --mode fast":                       "2 --mode",
		"send --interface near --cpus a":                          "2 --cpus",
		"send --interface near --imix a --size 80":                "2 give one of them",
		"send --interface near --protocol sctp":                   "2 --protocol",
		"send --interface near --src-ports 2-1":                   "2 --src-ports",
		"send --interface near --dst-mac 02:00":                   "2 --dst-mac",
		"send --interface near --order wild":                      "2 --order",
		"send --interface near --dst 64:ff9b::1":                  "2 has no IPv6 address",
		"send --interface near --dst 203.0.113.1":                 "1 route to 203.0.113.1",
		"measure --tx near":                                       "2 --rx IF",
		"measure --tx near --rx far --direction up":               "2 --direction",
		"measure --tx near --rx nowhere0 --dst 198.18.0.9":        "1 nowhere0",
		"rfc8219 --tx near":                                       "2 --rx IF",
		"rfc8219 --tx near --rx far --tests speed":                `2 --tests: "speed"`,
		"rfc8219 --tx near --rx far --tests pdv":                  "2 --stream-rate",
		"rfc8219 --tx near --rx far --sizes 80,x":                 `2 --sizes: "x"`,
		"rfc8219 --tx near --rx far --max-rate max":               "2 --max-rate",
		"rfc8219 --tx near --rx far --loss 1":                     "2 --loss",
		"rfc8219 --tx near --rx far --repetitions 0":              "2 --repetitions",
		"rfc8219 --tx near --rx far --learn-rate max":             "2 --learn-rate",
		"rfc9693 --tx near --rx far":                              "2 --empty COMMAND is missing",
		"rfc9693 --tx near --rx far --empty true --tests x":       `2 --tests: "x"`,
		"rfc9693 --tx near --rx far --empty true --safe-rate max": "2 --safe-rate",
		"receive --interface near --match all":                    "2 --match",
		"receive --interface nowhere0":                            "1 nowhere0",
		"replay --interface near --pcap /nowhere.pcap":            "1 /nowhere.pcap",
		"replay --interface near --pcap /dev/null --speed 0":      "2 --speed",
		"replay --interface near --pcap /dev/null --rate max":     "1 /dev/null",
	} {
		line := strings.Fields(args)
		if !strings.Contains(args, "--dst") && (line[0] == "send" || line[0] == "measure" || strings.HasPrefix(line[0], "rfc")) {
			line = append(line, "--dst", "198.18.0.9")
		}
		if line[0] == "measure" || !strings.Contains(args, "--dst-mac") && line[0] == "send" && !strings.Contains(args, "203.0.113") {
			line = append(line, "--dst-mac", "02:00:00:00:00:01")
		}
		var stdout, stderr bytes.Buffer
		code := dispatch(line, &stdout, &stderr)
		what := want[2:]
		if code != int(want[0]-'0') || !strings.Contains(stderr.String(), what) || strings.Count(stderr.String(), "\n") != 1 || stdout.Len() > 0 {
			t.Errorf("%s: exit code %d, %q, want %q", args, code, &stderr, want)
		}
	}
}
