package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"handoff64/handoff/server"
	"handoff64/tools/lab"
)

// Lines of handoffd's log.
var (
	stamp       = `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}`
	initialized = regexp.MustCompile(`^` + stamp + ` Initialized \d+\.\d+\.\d+\.\d+$`)
	createdLine = regexp.MustCompile(`^(` + stamp + `) (Created|Deleted) (\d+\.\d+\.\d+\.\d+:\d+) (\[[0-9a-f:]+\]:\d+)$`)
)

// Whoever runs the server sees who its clients are: in the log, now and at any
// time in the past.
func TestHandoffLogAndLookup(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adopted()
	from := tuples([]netip.Addr{w.Client()}, 40_000, 20)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	seen := w.meetAll(w.client, from, netip.MustParseAddrPort(w.embedded(7)))
	text, err := os.ReadFile(h.EventLog())
	w.must(err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if !initialized.MatchString(lines[0]) || !strings.HasSuffix(lines[0], " "+lab.Pool4.String()) {
		t.Errorf("the first line is %q", lines[0])
	}
	when := make(map[string]string) // by mapped address, then the client
	for _, line := range lines[1:] {
		m := createdLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("a line of no form: %q", line)
		}
		when[m[3]+" "+m[4]] = m[1]
	}
	for client, mapped := range seen {
		at := when[mapped.String()+" "+client.String()]
		if at == "" {
			t.Errorf("no line says that %s was created for %s:\n%s", mapped, client, text)
			continue
		}
		for _, args := range [][]string{nil, {"--at", at}, {"--at", strings.Replace(at, " ", "T", 1) + "Z"}, {"--at", time.Now().UTC().Format(time.RFC3339Nano)}} {
			got, err := h.Lookup(w.ctx, mapped.String(), args...)
			if err != nil || got != client.String() {
				t.Errorf("lookup %s %v: %q (%v), want %s", mapped, args, got, err, client)
			}
		}
		if got, err := h.Lookup(w.ctx, mapped.String(), "--at", "2019-03-18T10:06:28Z"); err == nil {
			t.Errorf("lookup %s long before: %q", mapped, got)
		}
	}
	if got, err := h.Lookup(w.ctx, lab.Pool4.String()+":1"); err == nil {
		t.Errorf("somebody is behind a port that nobody has: %q", got)
	}
	// The same from what it left.
	w.must(h.Stop())
	for client, mapped := range seen {
		if got, err := h.Lookup(w.ctx, mapped.String()); err != nil || got != client.String() {
			t.Errorf("lookup %s without a server: %q (%v), want %s", mapped, got, err, client)
		}
	}
}

func TestHandoffLogAsJSON(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.Handoffd("server", built)
	h.Args = []string{"--log-format", "json"}
	w.must(h.Start(w.ctx))
	w.becomes(w.d, w.Server(), "handoff")
	w.must(h.Stop())
	text, err := os.ReadFile(h.EventLog())
	w.must(err)
	kinds := make(map[string]int)
	for line := range strings.Lines(string(text)) {
		var event struct {
			Time          time.Time
			Event         string
			NAT64, Client netip.Addr
			MappedPort    uint16 `json:"mapped_port"`
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kinds[event.Event]++
		if event.Time.IsZero() || event.NAT64 != lab.Pool4 || event.Event == "Created" && (event.Client != w.Client() || event.MappedPort == 0) {
			t.Errorf("%q", line)
		}
	}
	if kinds["Initialized"] != 1 || kinds["Created"] == 0 {
		t.Errorf("events: %v", kinds)
	}
}

// The server's owner asks who it was, with real programs in play.
func TestHandoffProgramCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	w := plain(t)
	h := w.adopted()
	url := "http://" + w.web() + "/octets?n=3000000"
	for range 3 {
		out := w.output(w.client, "curl", "--silent", "--show-error", "--globoff", "--output", "/dev/null",
			"--write-out", "%{http_code} %{size_download} %{local_port}", url)
		var code, size, port int
		if n, err := fmt.Sscan(out, &code, &size, &port); n != 3 || err != nil || code != 200 || size != 3_000_000 {
			t.Fatalf("curl printed %q", out)
		}
		client := netip.AddrPortFrom(w.Client(), uint16(port)).String()
		rows, err := h.Entries(w.ctx)
		w.must(err)
		i := slices.IndexFunc(rows, func(r server.Row) bool { return netip.AddrPortFrom(r.Client, r.ClientPort).String() == client })
		if i < 0 {
			t.Fatalf("curl's %s is not in the table", client)
		}
		mapped := netip.AddrPortFrom(rows[i].NAT64, rows[i].MappedPort).String()
		if got, err := h.Lookup(w.ctx, mapped); err != nil || got != client {
			t.Errorf("lookup %s: %q (%v), want %s", mapped, got, err, client)
		}
	}
}

// A server that speaks handoff answers echo requests itself (minimal mode).
func TestHandoffPing(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.adopted()
	p := w.pinger(w.client, "ip6", 0)
	for _, size := range []int{0, 56, 1000, 1400} {
		a, err := p.Ping(w.ctx, lab.Embed(w.Server()), size, 0)
		w.must(err)
		if !a.Reply() || a.From != lab.Embed(w.Server()) {
			t.Errorf("ping of %d octets: %+v", size, a)
		}
	}
	if s := w.stats().Handoff; s.Queries < 4 {
		t.Errorf("the echoes did not go over the control channel: %+v", s)
	}
}

func TestHandoffProgramPing(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	w := plain(t)
	w.adopted()
	out := w.output(w.client, "ping", "-6", "-c", "5", "-i", "0.1", "-s", "1200", lab.Embed(w.Server()).String())
	if !strings.Contains(out, "5 received") {
		t.Errorf("ping printed:\n%s", out)
	}
}

// faults are the expert infos with which the dissector marks a payload.
var faults = []string{"unknown_format", "cut_message", "cut_packet", "bad_packet", "octets_after_packet", "bad_length", "bad_identifier",
	"too_long", "duplicate", "no_authenticator", "packet_among_groups", "entry_outside_group", "empty_group", "too_deep"}

// What both ends say to each other is what Wireshark's dissector understands:
// every type of message occurs, and none is malformed.
func TestHandoffCaptureDissected(t *testing.T) {
	t.Parallel()
	need(t, "tshark")
	// Keys that rotate while the test runs make type 5 appear.
	w := plain(t, handoffSet("key_rotation", "1s"))
	captured := w.record(w.server, "eth0")
	f := w.plainFlows(9000, 2)
	w.adopted()
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 20)
	w.must(w.d.Kill())
	w.lose()
	w.must(w.d.Start(w.ctx))
	w.flowsGoOn(f, bothWays, "from the server's table")
	time.Sleep(1500 * time.Millisecond) // longer than a key lives
	w.unchanged(udp, "after the loss")
	w.knock(w.Server())
	w.must(f.Finish())

	file := captured()
	var marks []string
	for _, name := range faults {
		marks = append(marks, "nat64handoff."+name)
	}
	// Behind an embedded packet tshark goes on with what it guesses from ports,
	// and calls that malformed where it guesses wrong.
	filter := "nat64handoff && (_ws.malformed && !nat64handoff.packet || " + strings.Join(marks, " || ") + ")"
	if out := w.tshark(file, "-Y", filter); out != "" {
		t.Errorf("faults in what was sent:\n%s", out)
	}
	seen := make(map[string]int)
	for _, kind := range strings.FieldsFunc(w.tshark(file, "-Y", "nat64handoff", "-T", "fields", "-e", "nat64handoff.type"), func(r rune) bool { return r == ',' || r == '\n' }) {
		seen[kind]++
	}
	for _, kind := range []string{"1", "4", "5", "6", "7", "8"} {
		if seen[kind] == 0 {
			t.Errorf("no message of type %s among %v", kind, seen)
		}
	}
	for _, filter := range []string{
		"nat64handoff.entries > 1",                                        // notifications that were gathered
		"udp.dstport == 9 && nat64handoff.packet == 6",                    // the server asks whether the NAT64 receives
		"nat64handoff.entry.client == " + w.Client().String() + " && tcp", // an entry with its packet
		"nat64handoff.hint && nat64handoff.packet == 6",                   // a question
	} {
		if w.tshark(file, "-Y", filter) == "" {
			t.Errorf("nothing fits %s", filter)
		}
	}
}

// tshark reads a capture with the dissector and nobody's preferences.
func (w *world) tshark(file string, args ...string) string {
	w.t.Helper()
	script, err := filepath.Abs("../../dissector/nat64handoff.lua")
	w.must(err)
	cmd := exec.CommandContext(w.ctx, "tshark", append([]string{"-X", "lua_script:" + script, "-r", file}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+w.t.TempDir(), "XDG_CONFIG_HOME=", "WIRESHARK_CONFIG_DIR=")
	out, err := cmd.Output()
	w.must(err)
	return string(out)
}
