package conntrack

import (
	"flag"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

var rssSessions = flag.Int("rss.sessions", 1<<18, "sessions of TestResidentMemory; from 4194304 on the whole process has to fit, too")

// resident is what the process has in memory, in octets (proc_pid_statm(5)).
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatalf("/proc/self/statm: %v", err)
	}
	return pages * os.Getpagesize()
}

// A full table takes no more than 256 octets of memory for a session, each with
// a mapped port of its own: slots, tags, mappings and their index, ports, and what
// limits, logs, blocks and filters need beside. The kernel is asked, not the table.
func TestResidentMemory(t *testing.T) {
	limits := ClientLimits{Sessions: 1 << 20, Ports: 1 << 16}
	for _, c := range []struct {
		name      string
		perClient int // sessions of each client
		change    func(*Config)
	}{
		{"plain", 16, func(*Config) {}},
		{"filter", 16, func(c *Config) { c.AddressDependent = true }},
		{"log", 16, func(c *Config) { c.LogSessions = true }},
		{"limits", 16, func(c *Config) { c.PerClient = limits }},
		{"limits, a client for each session", 1, func(c *Config) { c.PerClient = limits }},
		{"blocks", 64, func(c *Config) { c.PortBlocks = PortBlocks{Size: 64, Grace: 1} }},
		{"two shards", 16, func(c *Config) { c.Shards = 2 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := *rssSessions
			cfg := Config{Sessions: n}
			for a := range uint32(n/62000 + 1) {
				cfg.Pool4 = append(cfg.Pool4, Pool4Range{poolAddr + a, 1024, 65535})
			}
			c.change(&cfg)
			cfg.Sessions += 64 * cfg.Shards // what idle shards may keep
			before := resident(t)
			f := newFixture(t, cfg)
			refused := 0
			for i := range n {
				client := Addr6{0x20010db8_00000000, uint64(i/c.perClient) + 1}
				k := Key64{Client: client, ClientPort: uint16(1024 + i%c.perClient), Server: 0xcb007107, ServerPort: 443, Proto: UDP}
				switch _, v := f.tryOpen(k, StateNone, 1); v {
				case OK:
				case ClientsFull, TableFull: // a bucket of clients is full, or too many buckets of sessions in a row
					refused++
				default:
					t.Fatalf("session %d: %v", i, v)
				}
				if i%1024 == 0 {
					f.ownerOf(&k).Events()
				}
			}
			after := resident(t)
			per := float64(after-before) / float64(n-refused)
			if refused > n/500 {
				t.Errorf("%d sessions were refused", refused)
			}
			t.Logf("%d sessions, %d more refused: %.1f octets each, %d MiB in all, the process %d MiB", n-refused, refused, per, (after-before)>>20, after>>20)
			if per > 256 {
				t.Errorf("%.1f octets per session, at most 256", per)
			}
			if n >= 1<<22 && after > 256*n {
				t.Errorf("the process has %d MiB for %d sessions, at most %d", after>>20, n, 256*n>>20)
			}
		})
	}
}
