package config

import (
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the messages of testdata/broken anew; read the difference before you commit it")

// fourCPUs is the machine that the tests pretend to run on.
var fourCPUs = [][2]uint16{{0, 3}}

func messages(ps []Problem) string {
	var b strings.Builder
	for _, p := range ps {
		b.WriteString(p.Error() + "\n")
	}
	return b.String()
}

func load(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestBroken holds every broken file to the exact lines that a person gets.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.json")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d broken files, want at least 30 (%v)", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			c, problems := parse(filepath.Base(file), load(t, file), fourCPUs)
			if c != nil || len(problems) == 0 {
				t.Fatalf("accepted as %+v", c)
			}
			got, golden := messages(problems), strings.TrimSuffix(file, ".json")+".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(load(t, golden)); got != want {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}

func TestMinimal(t *testing.T) {
	c, problems := parse("minimal.json", load(t, "testdata/good/minimal.json"), fourCPUs)
	if problems != nil {
		t.Fatal(messages(problems))
	}
	want := defaults()
	want.IPv6Interface, want.IPv4Interface, want.Poll = "eth1", "eth0", "adaptive"
	want.Pool4 = []Pool4{{netip.MustParsePrefix("192.0.2.1/32"), [][2]uint16{{1024, 65535}}}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestFull(t *testing.T) {
	c, problems := parse("full.json", load(t, "testdata/good/full.json"), fourCPUs)
	if problems != nil {
		t.Fatal(messages(problems))
	}
	p4 := netip.MustParseAddrPort
	want := &Config{
		IPv6Interface: "eth1", IPv4Interface: "eth1",
		Pool6: []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/48")},
		Pool4: []Pool4{
			{netip.MustParsePrefix("192.0.2.1/32"), [][2]uint16{{1024, 65535}}},
			{netip.MustParsePrefix("198.51.100.0/28"), [][2]uint16{{5, 5}, {1024, 2047}, {4096, 8191}}},
		},
		Workers:       Workers{Count: 2, CPUs: []int{2, 3}},
		Poll:          "adaptive",
		XDP:           XDP{Mode: "generic", ZeroCopy: "off", BusyPoll: "on", FrameSize: 4096, FramesPerQueue: 4096, RingSize: 1024},
		MTU:           MTU{IPv6: 3822},
		LowestIPv6MTU: 1400,
		TCPMSSClamp:   1220,
		Filtering:     "address-dependent", WellKnownPrefix: "strict",
		DenyIPv4:        []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("203.0.113.7/32")},
		ICMPErrorSource: "destination",
		ICMPSource:      ICMPSource{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.254")},
		UDPZeroChecksum: "drop", TrafficClass: "zero",
		LocalTraffic: true, Exclusive: true,
		PortBlocks: PortBlocks{Size: 256, Grace: 90 * time.Second},
		StaticBIB: []StaticBIB{
			{"tcp", p4("[2001:db8::5]:80"), p4("192.0.2.1:80")},
			{"udp", p4("[2001:db8::5]:80"), p4("192.0.2.1:80")},
			{"icmp", p4("[2001:db8::5]:0"), p4("198.51.100.15:0")},
		},
		Timeouts: Timeouts{
			UDP: 2 * time.Minute, ICMP: time.Minute, TCPEstablished: 3 * time.Hour,
			TCPTransitory: 5 * time.Minute, TCPIncomingSYN: 6500 * time.Millisecond, Fragment: 2500 * time.Millisecond,
		},
		Limits: Limits{Sessions: 1000, SessionsPerClient: 500, PortsPerClient: 200, Fragments: 100},
		Handoff: Handoff{
			ServerPort: 64064, ClientPort: 64064, KeyFile: "/var/lib/nat64d/handoff.keys", KeyRotation: 24 * time.Hour,
			CacheEntries: 1 << 20, BatchDelay: 10 * time.Millisecond, StrangerPacketsPerSecond: 1000,
		},
		ControlSocket: "/run/nat64/one.sock",
		Log:           Log{Level: slog.LevelDebug, Format: "json", Sessions: true, IPFIX: "192.0.2.9:4739"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestWarnings(t *testing.T) {
	for _, name := range []string{"warned", "handoff"} {
		c, problems := parse(name+".json", load(t, "testdata/good/"+name+".json"), fourCPUs)
		if problems != nil {
			t.Fatal(messages(problems))
		}
		if got, want := messages(c.Warnings), string(load(t, "testdata/good/"+name+".txt")); got != want {
			t.Errorf("got:\n%swant:\n%s", got, want)
		}
	}
}

// TestPollFollowsCPUs: dedicated CPUs are there to be spun on.
func TestPollFollowsCPUs(t *testing.T) {
	const form = `{"ipv6_interface":"a","ipv4_interface":"b","pool4":[{"address":"192.0.2.1"}],"workers":%}`
	for workers, want := range map[string]Config{
		`{"cpus":[1,3]}`: {Poll: "busy", Workers: Workers{Count: 2, CPUs: []int{1, 3}}},
		`{"count":3}`:    {Poll: "adaptive", Workers: Workers{Count: 3}},
		`{}`:             {Poll: "adaptive"},
	} {
		c, problems := parse("x", []byte(strings.Replace(form, "%", workers, 1)), fourCPUs)
		if problems != nil {
			t.Errorf("workers %s: %s", workers, messages(problems))
		} else if c.Poll != want.Poll || !reflect.DeepEqual(c.Workers, want.Workers) {
			t.Errorf("workers %s: got poll %s, %+v", workers, c.Poll, c.Workers)
		}
	}
}
