package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

var quiet = slog.New(slog.DiscardHandler)

// start serves d on a socket of the test's own.
func start(t *testing.T, d control.Daemon, metrics string) (*control.Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	s, err := control.Start(path, metrics, d, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s, path
}

func TestRoundTrip(t *testing.T) {
	d := controltest.New()
	_, path := start(t, d, "")
	c, ctx := control.NewClient(path), t.Context()
	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, d.Status()) {
		t.Errorf("status %+v, %v", got, err)
	}
	if got, err := c.Stats(ctx); err != nil || !reflect.DeepEqual(got, d.Stats()) {
		t.Errorf("stats %+v, %v", got, err)
	}
	if got, err := c.Drops(ctx); err != nil || !reflect.DeepEqual(got, d.DropReasons()) {
		t.Errorf("drops %+v, %v", got, err)
	}
	var got []control.Session
	err := c.Sessions(ctx, control.SessionFilter{}, func(s control.Session) error { got = append(got, s); return nil })
	if err != nil || !reflect.DeepEqual(got, controltest.ExampleSessions()) {
		t.Errorf("sessions %+v, %v", got, err)
	}
}

// TestExampleAddsUp: tests that show figures show ones that could be real.
func TestExampleAddsUp(t *testing.T) {
	s := controltest.ExampleStats(3)
	in := s.RX.IPv6.Packets + s.RX.IPv4.Packets + s.Generated
	out := s.Translated.V6ToV4 + s.Translated.V4ToV6 + s.Translated.Hairpin + s.Passed.IPv6 + s.Passed.IPv4 + s.Parked
	for _, n := range s.Drops {
		out += n
	}
	if in != out {
		t.Errorf("rx + generated = %d, everything else = %d", in, out)
	}
}

// TestFields holds the JSON to the names that scripts depend on.
func TestFields(t *testing.T) {
	for name, test := range map[string]struct {
		value any
		paths string
	}{
		"status": {controltest.New().Status(), "version uptime_s ready interfaces.ipv6.name interfaces.ipv6.xdp_mode " +
			"interfaces.ipv6.zero_copy interfaces.ipv6.queues interfaces.ipv4.name workers.0.cpu workers.0.queue pool6.0 pool4.0 " +
			"sessions.used sessions.capacity bib.used handoff.enabled handoff.servers handoff.cached_entries"},
		"stats": {controltest.ExampleStats(1), "rx.ipv6.packets rx.ipv4.bytes tx.ipv6.packets tx.ipv4.bytes translated.v6_to_v4 " +
			"translated.v4_to_v6 translated.hairpin drops.hop_limit sessions.created sessions.expired handoff.notifications " +
			"handoff.queries handoff.replies handoff.entries_cached handoff.entries_purged handoff.tunnelled handoff.invalid " +
			"passed.ipv6 passed.ipv4 parked generated"},
		"drop":    {controltest.New().DropReasons()[0], "name count step sentence section"},
		"session": {controltest.ExampleSessions()[0], "protocol client server6 mapped server4 state origin idle_s expires_s"},
		"bib":     {control.BIBEntry{}, "protocol client mapped static sessions"},
	} {
		b, err := json.Marshal(test.value)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(test.paths) {
			if !hasPath(b, path) {
				t.Errorf("%s has no %s: %s", name, path, b)
			}
		}
	}
	b, _ := json.Marshal(controltest.ExampleSessions()[0])
	if want := `{"protocol":"tcp","client":"[2001:db8::1]:40000","server6":"[64:ff9b::c633:6401]:80","mapped":"192.0.2.1:1234",` +
		`"server4":"198.51.100.1:80","state":"ESTABLISHED","origin":"nat64","idle_s":0.3,"expires_s":7439.7}`; string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func hasPath(b []byte, path string) bool {
	var v any
	if json.Unmarshal(b, &v) != nil {
		return false
	}
	for part := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[part]
			if !ok {
				return false
			}
			v = next
		case []any:
			v = x[0]
		default:
			return false
		}
	}
	return true
}

func TestFilter(t *testing.T) {
	_, path := start(t, controltest.New(), "")
	for _, test := range []struct {
		set  []string
		want string // protocols of the sessions chosen
	}{
		{[]string{"proto", "tcp"}, "tcp"},
		{[]string{"protocol", "ICMP"}, "icmp"},
		{[]string{"client", "2001:db8::1"}, "tcp"},
		{[]string{"client", "2001:db8::/64"}, "tcp udp"},
		{[]string{"client", "2001:db8::/32", "proto", "udp"}, "udp"},
		{[]string{"mapped", "192.0.2.1"}, "tcp udp"},
		{[]string{"mapped", "192.0.2.1:1234"}, "tcp"},
		{[]string{"mapped", "192.0.2.1:1235"}, ""},
		{[]string{"server", "198.51.100.1"}, "tcp icmp"},
		{[]string{"server", "198.51.100.1:0"}, "icmp"},
		{[]string{"server", "64:ff9b::c633:6401"}, "tcp icmp"},
		{[]string{"server", "[64:ff9b::c633:6401]:80"}, "tcp"},
		{[]string{"state", "established"}, "tcp"},
		{[]string{"origin", "handoff"}, "udp"},
		{[]string{"limit", "2"}, "tcp udp"},
		{[]string{"limit", "1", "proto", "icmp"}, "icmp"},
	} {
		var f control.SessionFilter
		for i := 0; i < len(test.set); i += 2 {
			if err := f.Set(test.set[i], test.set[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		err := control.NewClient(path).Sessions(t.Context(), f, func(s control.Session) error {
			got = append(got, s.Protocol)
			return nil
		})
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("%v chooses %v (%v), want %s", test.set, got, err, test.want)
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	for _, kv := range [][2]string{
		{"proto", "sctp"}, {"client", "192.0.2.1"}, {"client", "x"}, {"mapped", "2001:db8::1"}, {"mapped", "192.0.2.1:x"},
		{"server", ""}, {"origin", "elsewhere"}, {"limit", "0"}, {"limit", "many"}, {"colour", "blue"},
	} {
		var f control.SessionFilter
		if err := f.Set(kv[0], kv[1]); err == nil || !strings.Contains(err.Error(), "filter") {
			t.Errorf("%s=%s: %v", kv[0], kv[1], err)
		}
	}
}

func TestBIB(t *testing.T) {
	_, path := start(t, controltest.New(), "")
	c, ctx := control.NewClient(path), t.Context()
	client, mapped := controltest.Addr("[2001:db8::9]:22"), controltest.Addr("192.0.2.1:2222")
	if err := c.AddBIB(ctx, "tcp", client, mapped); err != nil {
		t.Fatal(err)
	}
	if err := c.AddBIB(ctx, "tcp", client, mapped); err == nil || err.Error() != "tcp 192.0.2.1:2222 belongs to [2001:db8::9]:22 already" {
		t.Errorf("adding it again: %v", err)
	}
	count := func() (n int) {
		if err := c.BIB(ctx, func(control.BIBEntry) error { n++; return nil }); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := count(); n != 3 {
		t.Errorf("%d entries after adding one to two", n)
	}
	if err := c.RemoveBIB(ctx, "tcp", mapped); err != nil {
		t.Error(err)
	}
	if err := c.RemoveBIB(ctx, "tcp", mapped); err == nil || err.Error() != "tcp 192.0.2.1:2222 has no static mapping" {
		t.Errorf("removing it again: %v", err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d entries at the end", n)
	}
	if err := c.AddBIB(ctx, "sctp", client, mapped); err == nil {
		t.Error("sctp was accepted")
	}
}

// TestHTTP checks what a client other than ours gets.
func TestHTTP(t *testing.T) {
	_, path := start(t, controltest.New(), "")
	h := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", path)
	}}}
	for _, test := range []struct {
		method, path, body string
		code               int
		contains           string
	}{
		{"GET", "/v1/status", "", 200, `"ready":true`},
		{"GET", "/v1/nothing", "", 404, `{"error":"GET /v1/nothing is not part`},
		{"DELETE", "/v1/status", "", 404, `{"error":`},
		{"PUT", "/v1/bib/add", "{}", 404, `{"error":`},
		{"GET", "/v1/bib/add", "", 404, `{"error":`},
		{"GET", "/v1/sessions?limit=x", "", 400, `{"error":"filter limit: `},
		{"GET", "/v1/sessions?shade=dark", "", 400, `{"error":"filter \"shade\" is unknown`},
		{"POST", "/v1/bib/add", "{", 400, `{"error":"reading the mapping: `},
		{"POST", "/v1/bib/add", `{"protocol":"tcp","colour":1}`, 400, `unknown field`},
		{"POST", "/v1/bib/add", strings.Repeat(" ", 1<<20), 400, `too large`},
		{"POST", "/v1/bib/remove", `{"protocol":"tcp","mapped":"192.0.2.9:1"}`, 409, `has no static mapping`},
	} {
		req, _ := http.NewRequest(test.method, "http://x"+test.path, strings.NewReader(test.body))
		resp, err := h.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", test.method, test.path, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != test.code || !strings.Contains(string(b), test.contains) {
			t.Errorf("%s %s: %d %s", test.method, test.path, resp.StatusCode, b)
		}
	}
}

// TestStreamsLargeTable: a large table arrives while neither side holds
// more than a sliver of them.
func TestStreamsLargeTable(t *testing.T) {
	const sessions = 200000
	d := controltest.New()
	one := controltest.ExampleSessions()[0]
	d.SessionsFunc = func(yield func(control.Session) bool) {
		for range sessions {
			if !yield(one) {
				return
			}
		}
	}
	_, path := start(t, d, "")
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n, most := 0, uint64(0)
	err := control.NewClient(path).Sessions(t.Context(), control.SessionFilter{}, func(control.Session) error {
		if n++; n%(sessions/10) == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
		return nil
	})
	if err != nil || n != sessions {
		t.Fatalf("%d sessions, %v", n, err)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d octets", grown)
	}
}

// TestReaderLeaves: the daemon's walk ends when nobody reads any more.
func TestReaderLeaves(t *testing.T) {
	ended := make(chan struct{})
	d := controltest.New()
	one := controltest.ExampleSessions()[0]
	d.SessionsFunc = func(yield func(control.Session) bool) {
		defer close(ended)
		for yield(one) {
		}
	}
	_, path := start(t, d, "")
	enough := errors.New("enough")
	err := control.NewClient(path).Sessions(t.Context(), control.SessionFilter{}, func(control.Session) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	<-ended // the test's own deadline ends a walk that does not
}

// TestCutOffIsNoEnd: a table that could not be sent whole is an error to the
// reader, not a short table.
func TestCutOffIsNoEnd(t *testing.T) {
	d := controltest.New()
	one := controltest.ExampleSessions()[0]
	d.SessionsFunc = func(yield func(control.Session) bool) {
		for range 10000 {
			yield(one)
		}
		panic(http.ErrAbortHandler)
	}
	_, path := start(t, d, "")
	err := control.NewClient(path).Sessions(t.Context(), control.SessionFilter{}, func(control.Session) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "reading the answer of nat64d to /v1/sessions") {
		t.Errorf("got %v", err)
	}
}

func TestSocketMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		old := syscall.Umask(umask)
		_, path := start(t, controltest.New(), "")
		syscall.Umask(old)
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("umask %03o: %v, %v", umask, info.Mode(), err)
		}
	}
}

func TestSocketLifetime(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	// A killed instance leaves its socket behind, with nobody listening.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	s, err := control.Start(path, "", controltest.New(), quiet)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	if _, err := control.Start(path, "", controltest.New(), quiet); err == nil || !strings.Contains(err.Error(), "another nat64d answers there") {
		t.Errorf("over a live socket: %v", err)
	}
	if _, err := control.NewClient(path).Status(t.Context()); err != nil {
		t.Errorf("the first instance no longer answers: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays behind: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Start(file, "", controltest.New(), quiet); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file is gone: %v", err)
	}
	if _, err := control.Start(filepath.Join(dir, "none", "s"), "", controltest.New(), quiet); err == nil || !strings.Contains(err.Error(), "none/s") {
		t.Errorf("in a folder that does not exist: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	d := controltest.New()
	s, path := start(t, d, "127.0.0.1:0")
	resp, err := http.Get(fmt.Sprintf("http://%s/metrics", s.MetricsAddr()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s, %v: %s", resp.Status, err, b)
	}
	for _, line := range strings.Split(`nat64_build_info{version="v0.1.0"} 1
nat64_ready 1
nat64_uptime_seconds 93784.5
nat64_rx_packets_total{side="ipv6"} 1e+06
nat64_rx_packets_total{side="ipv4"} 2e+06
nat64_rx_bytes_total{side="ipv4"} 716800
nat64_tx_packets_total{side="ipv6"} 1.9876e+06
nat64_tx_bytes_total{side="ipv6"} 900
nat64_translated_packets_total{direction="v6_to_v4"} 987553
nat64_translated_packets_total{direction="v4_to_v6"} 1.987599e+06
nat64_translated_packets_total{direction="hairpin"} 12
nat64_passed_packets_total{side="ipv6"} 45
nat64_passed_packets_total{side="ipv4"} 12456
nat64_generated_packets_total 18
nat64_parked_packets 1
nat64_dropped_packets_total{reason="hop_limit"} 12345
nat64_dropped_packets_total{reason="bad_header_checksum"} 0
nat64_sessions 4242
nat64_sessions_capacity 1.048576e+06
nat64_sessions_created_total 5000
nat64_sessions_expired_total 758
nat64_bib_entries 1234
# HELP nat64_clients Clients with something that counts against their limits.
# TYPE nat64_clients gauge
nat64_clients 12
# TYPE nat64_rx_packets_total counter
# TYPE nat64_parked_packets gauge`, "\n") {
		if !strings.Contains(string(b), line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if _, err := control.Start(filepath.Join(filepath.Dir(path), "other"), s.MetricsAddr().String(), d, quiet); err == nil ||
		!strings.Contains(err.Error(), "listening for metrics on") {
		t.Errorf("on a taken port: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(path), "other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a start that failed leaves its socket behind: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nobody")
	_, err := control.NewClient(path).Status(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "no answer on "+path+": ") || !strings.Contains(err.Error(), "start nat64d") {
		t.Errorf("got %v", err)
	}
}

// FuzzFilter: whatever Set accepts survives the way over the wire.
func FuzzFilter(f *testing.F) {
	for _, kv := range [][2]string{{"proto", "tcp"}, {"client", "2001:db8::/64"}, {"mapped", "192.0.2.1:80"},
		{"server", "[64:ff9b::1]:80"}, {"server", "64:ff9b::1"}, {"state", "ESTABLISHED"}, {"limit", "9"}} {
		f.Add(kv[0], kv[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		var filter control.SessionFilter
		if filter.Set(key, value) != nil {
			return
		}
		filter.Match(&control.Session{Client: netip.AddrPortFrom(netip.IPv6Loopback(), 1)})
		again, err := control.ParseFilter(filter.Query())
		if err != nil || again != filter {
			t.Errorf("%s=%q: %+v becomes %+v, %v", key, value, filter, again, err)
		}
	})
}
