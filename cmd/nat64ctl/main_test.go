package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

var update = flag.Bool("update", false, "write testdata/*.golden anew; read the difference before you commit it")

// serve answers for d on a socket of the test's own.
func serve(t *testing.T, d control.Daemon) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	s, err := control.Start(path, "", d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return path
}

// ctl runs nat64ctl once.
func ctl(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs, time.Now, nil)
	return code, out.String(), errs.String()
}

// golden compares with a file that a person has read.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%swant\n%s", name, got, want)
	}
}

func TestOutput(t *testing.T) {
	path := serve(t, controltest.New())
	for name, args := range map[string]string{
		"status":          "status",
		"stats":           "stats",
		"drops":           "drops",
		"drops-all":       "drops --all",
		"sessions":        "sessions",
		"sessions-tcp":    "sessions tcp",
		"sessions-none":   "sessions client=2001:db8:ffff::/48",
		"bib":             "bib list",
		"json-status":     "--json status",
		"json-stats":      "--json stats",
		"json-drops":      "--json drops",
		"json-sessions":   "sessions --json server=198.51.100.1",
		"json-bib":        "bib --json list",
		"servers":         "servers",
		"json-servers":    "servers --json",
		"flush":           "flush --handoff",
		"help-servers":    "servers --help",
		"help-flush":      "flush --help",
		"help":            "--help",
		"help-status":     "status --help",
		"help-stats":      "stats --help",
		"help-drops":      "--help drops",
		"help-sessions":   "sessions -h",
		"help-bib":        "bib --help",
		"help-set":        "set --help",
		"help-trace":      "trace --help",
		"help-top":        "top --help",
		"help-capture":    "capture --help",
		"help-reload":     "reload --help",
		"set":             "set",
		"set-all":         "set --all",
		"set-one":         "set lowest_ipv6_mtu",
		"json-set":        "set --json",
		"sessions-filter": "sessions --proto tcp --mapped 192.0.2.1 --limit 1 state=established",
	} {
		code, stdout, stderr := ctl(append([]string{"--socket", path}, strings.Fields(args)...)...)
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d, %s", args, code, stderr)
		}
		golden(t, name, stdout)
	}
}

// TestNothingToShow: a translator that has just started.
func TestNothingToShow(t *testing.T) {
	d := controltest.New()
	d.StatusValue = control.Status{Version: "v0.1.0", UptimeS: 0.2, Handoff: control.HandoffStatus{Enabled: true, Servers: 2, CachedEntries: 12345}}
	d.StatsValue = func() control.Stats { return control.Stats{} }
	d.DropsValue = nil
	path := serve(t, d)
	for _, name := range []string{"status", "stats", "drops"} {
		_, stdout, stderr := ctl("--socket", path, name)
		golden(t, "empty-"+name, stdout+stderr)
	}
}

func TestBIBChanges(t *testing.T) {
	path := serve(t, controltest.New())
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"bib add tcp [2001:db8::9]:22 192.0.2.1:2222", 0, "added tcp 192.0.2.1:2222 for [2001:db8::9]:22\n", ""},
		{"bib add tcp [2001:db8::9]:22 192.0.2.1:2222", 1, "", "nat64ctl: tcp 192.0.2.1:2222 belongs to [2001:db8::9]:22 already\n"},
		{"bib remove tcp 192.0.2.1:2222", 0, "removed tcp 192.0.2.1:2222\n", ""},
		{"bib remove tcp 192.0.2.1:2222", 1, "", "nat64ctl: tcp 192.0.2.1:2222 has no static mapping\n"},
		{"bib --json add icmp [2001:db8::9]:1 192.0.2.1:2", 0, `{"client":"[2001:db8::9]:1","mapped":"192.0.2.1:2","protocol":"icmp"}` + "\n", ""},
		{"bib --json remove icmp 192.0.2.1:2", 0, `{"mapped":"192.0.2.1:2","protocol":"icmp"}` + "\n", ""},
		{"bib add sctp [2001:db8::9]:22 192.0.2.1:2222", 2, "", `nat64ctl: protocol "sctp" is unknown; give tcp, udp or icmp` + "\n"},
		{"bib add tcp 2001:db8::9 192.0.2.1:2222", 2, "", `nat64ctl: "2001:db8::9" is no IPv6 address and port; give one such as [2001:db8::5]:80` + "\n"},
		{"bib add tcp [2001:db8::9]:22 192.0.2.1", 2, "", `nat64ctl: "192.0.2.1" is no IPv4 address and port; give one such as 192.0.2.1:8080` + "\n"},
		{"bib add tcp [2001:db8::9]:22", 2, "", "nat64ctl: give bib list, bib add PROTOCOL CLIENT MAPPED or bib remove PROTOCOL MAPPED (see nat64ctl bib --help)\n"},
		{"bib", 2, "", "nat64ctl: give bib list, bib add PROTOCOL CLIENT MAPPED or bib remove PROTOCOL MAPPED (see nat64ctl bib --help)\n"},
	} {
		code, stdout, stderr := ctl(append([]string{"--socket", path}, strings.Fields(test.args)...)...)
		if code != test.code || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%s: %d\n%s%s", test.args, code, stdout, stderr)
		}
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                           "no command; give one of status, stats, drops, sessions, bib, servers, flush, set, trace, capture, top, reload (see nat64ctl --help)",
		"statsu":                     `command "statsu" is unknown; give one of status, stats, drops, sessions, bib, servers, flush, set, trace, capture, top, reload`,
		"servers now":                `servers takes no "now" (see nat64ctl servers --help)`,
		"set a b c":                  "give set KEY VALUE, set KEY, or set [--all] (see nat64ctl set --help)",
		"set a --all":                "give set KEY VALUE, set KEY, or set [--all] (see nat64ctl set --help)",
		"reload now":                 `reload takes no "now" (see nat64ctl reload --help)`,
		"trace":                      "give a FILTER, such as client=2001:db8::1, dropped or count=10 (see nat64ctl trace --help)",
		"trace tpc":                  `filter proto: "tpc" is unknown; give tcp, udp, icmp or a protocol number (see nat64ctl trace --help)`,
		"trace client=192.0.2.1":     `filter client: "192.0.2.1" is no IPv6 address or prefix (see nat64ctl trace --help)`,
		"capture":                    "give a FILE, or - for standard output (see nat64ctl capture --help)",
		"capture - port=0":           `filter port: "0" is no port; give a number from 1 to 65535 (see nat64ctl capture --help)`,
		"capture - shade=dark":       `filter "shade" is unknown; give proto, client, server, mapped, port, drop, side or count (see nat64ctl capture --help)`,
		"flush handoff":              `flush takes no "handoff" (see nat64ctl flush --help)`,
		"top":                        "top needs a terminal; stats --watch does without one",
		"top --json":                 "top is for people; programs take stats --watch --json",
		"--sockets x status":         "flag provided but not defined: --sockets (see nat64ctl --help)",
		"set limits.sessions -1 2":   "give set KEY VALUE, set KEY, or set [--all] (see nat64ctl set --help)",
		"status now":                 `status takes no "now" (see nat64ctl status --help)`,
		"status --watch":             "flag provided but not defined: --watch (see nat64ctl status --help)",
		"stats all":                  `stats takes no "all" (see nat64ctl stats --help)`,
		"drops all":                  `drops takes no "all" (see nat64ctl drops --help)`,
		"sessions sctp":              `filter proto: "sctp" is unknown; give tcp, udp, icmp (see nat64ctl sessions --help)`,
		"sessions colour=blue":       `filter "colour" is unknown; give proto, client, mapped, server, state, origin or limit (see nat64ctl sessions --help)`,
		"sessions --client 10.0.0.1": `invalid value "10.0.0.1" for flag --client: filter client: "10.0.0.1" is no IPv6 address or prefix (see nat64ctl sessions --help)`,
	} {
		code, stdout, stderr := ctl(strings.Fields(args)...)
		if code != commandline.Usage || stdout != "" || stderr != "nat64ctl: "+want+"\n" {
			t.Errorf("%q: %d %s%s", args, code, stdout, stderr)
		}
	}
}

// TestNobodyAnswers: one line that names the socket and says what to do.
func TestNobodyAnswers(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "connect: no such file or directory; start nat64d, or name its control_socket with --socket",
		stale:                      "connect: connection refused; nat64d was killed: start it again",
	} {
		for _, command := range []string{"status", "stats", "stats --watch", "drops", "sessions", "bib list", "bib remove tcp 192.0.2.1:1"} {
			code, stdout, stderr := ctl(append([]string{"--socket", path}, strings.Fields(command)...)...)
			if code != commandline.Failure || stdout != "" || stderr != "nat64ctl: no answer on "+path+": "+want+"\n" {
				t.Errorf("%s: %d %s%s", command, code, stdout, stderr)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"status", "--version"}} {
		code, stdout, _ := ctl(args...)
		if code != 0 || stdout != "nat64ctl "+commandline.Version(version)+"\n" {
			t.Errorf("%v: %d %s", args, code, stdout)
		}
	}
}

// watchRun runs `stats --watch` through the given readings, the first of which
// is taken at once and the others when their second has come. The clock ends the
// run when it is read for the last time, before the last line is printed.
func watchRun(t *testing.T, readings []control.Stats, elapsed []time.Duration, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	second := make(chan time.Time, len(readings))
	for range readings[1:] {
		second <- time.Time{}
	}
	clock := time.Unix(1000, 0)
	now := func() time.Time {
		clock = clock.Add(elapsed[0])
		if elapsed = elapsed[1:]; len(elapsed) == 0 {
			cancel()
		}
		return clock
	}
	d := controltest.New()
	d.StatsValue = func() control.Stats {
		s := readings[0]
		readings = readings[1:]
		return s
	}
	var out, errs bytes.Buffer
	code := run(ctx, append([]string{"--socket", serve(t, d), "stats", "--watch"}, args...), &out, &errs, now, second)
	if code != commandline.OK || len(readings) > 0 {
		t.Errorf("exit code %d, %d readings left: %s", code, len(readings), errs.String())
	}
	return out.String()
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	w := bufio.NewWriter(&out)
	tab := newTable(w, "NAME", ">N")
	for i := range 2*batch + 1 {
		name := "a"
		if i == batch {
			name = "longer" // in the second batch: widens it, and what follows
		}
		if err := tab.row(name, count(uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(tab.rows) >= batch {
		t.Errorf("%d rows are held", len(tab.rows))
	}
	if err := tab.close(); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	lines := strings.Split(out.String(), "\n")
	for i, want := range map[int]string{0: "NAME    N", 1: "a       0", batch - 1: "a     998", batch: "a         999", batch + 1: "longer  1,000", 2*batch + 1: "a       2,000"} {
		if lines[i] != want {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
}

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		count(0): "0", count(999): "999", count(1000): "1,000", count(1234567): "1,234,567",
		count(18446744073709551615): "18,446,744,073,709,551,615",
		octets(0):                   "0 B", octets(1023): "1023 B", octets(1024): "1.0 KiB", octets(1<<20 - 1): "1.0 MiB",
		octets(1536 << 20): "1.5 GiB", octets(18446744073709551615): "16.0 EiB",
		span(0): "0.0s", span(59.94): "59.9s", span(61.2): "1m1s", span(7440): "2h4m", span(93784): "1d2h3m", span(86400): "1d0s",
		percent(1, 3): "33.3 %", percent(0, 0): "0.0 %",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestWatch(t *testing.T) {
	// The third reading came two seconds after the second; before the last one
	// nat64d was started anew.
	readings := []control.Stats{controltest.ExampleStats(1), controltest.ExampleStats(2), controltest.ExampleStats(4), controltest.ExampleStats(1)}
	seconds := []time.Duration{time.Second, time.Second, 2 * time.Second, time.Second}
	golden(t, "watch", watchRun(t, readings, seconds))
}

func TestWatchJSON(t *testing.T) {
	readings := []control.Stats{controltest.ExampleStats(1), controltest.ExampleStats(2)}
	out := watchRun(t, readings, []time.Duration{time.Second, time.Second}, "--json")
	var s control.Stats
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.RX != readings[1].RX {
		t.Errorf("%s: %v", out, err)
	}
}
