package main

import (
	"flag"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"handoff64/cmd/commandline"
)

var crashes = flag.Int("crashes", 20, "how often TestCrashes kills the server")

// traffic asks for about 1000 new entries a second, for some time.
func traffic(n *nat64, p *process, next *int, random *rand.Rand) {
	for range 2 + random.IntN(30) {
		for range 10 {
			n.query(p.server(), *next)
			*next++
		}
		n.collect(10 * time.Millisecond)
	}
	// The last ones are under way when the server dies.
	for range 1 + random.IntN(40) {
		n.query(p.server(), *next)
		*next++
	}
	time.Sleep(time.Duration(random.IntN(4000)) * time.Microsecond)
}

// TestCrashes kills a server at random moments while it creates entries: every
// entry that a NAT64 was ever given is in table and log.
func TestCrashes(t *testing.T) {
	n := newNAT64(t)
	p := newProcess(t)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	log := filepath.Join(p.dir, "handoffd.log")
	p.start()
	n.authenticate(p.server())
	next, silent := 0, 0
	for range *crashes {
		before := len(n.returned)
		traffic(n, p, &next, random)
		p.kill()
		n.collect(time.Millisecond) // what it sent before it died
		if len(n.returned) == before {
			silent++ // a short life, and a slow disk
		}
		h := readLog(t, log)
		if m := missing(n.returned, h.created); m != "" {
			t.Fatalf("returned entries in the log: %s", m)
		}
		if m := missing(n.returned, entries(t, p.dir)); m != "" {
			t.Fatalf("returned entries in the table: %s", m)
		}
		p.start() // the token is known: no handshake
		agree(t, p, log)
	}
	n.query(p.server(), 0)
	n.need(1)
	p.stop()
	if silent > *crashes/4 {
		t.Errorf("no entry was returned in %d of %d lives", silent, *crashes)
	}
	t.Logf("%d entries were returned, %d asked for, over %d crashes", len(n.returned), next, *crashes)
}

// agree: after a start table and log say the same.
func agree(t *testing.T, p *process, log string) {
	t.Helper()
	h, table := readLog(t, log), entries(t, p.dir)
	if m := missing(table, h.live); m != "" {
		t.Fatalf("entries of the table in the log: %s", m)
	}
	if m := missing(h.live, table); m != "" {
		t.Fatalf("entries of the log in the table: %s", m)
	}
}

// TestCrashesWhileEvicting: with few ports every new entry deletes one, and
// deletions must be as durable.
func TestCrashesWhileEvicting(t *testing.T) {
	n := newNAT64(t)
	p := newProcess(t, "--max-entries-per-nat64", "200")
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	log := filepath.Join(p.dir, "handoffd.log")
	p.start()
	n.authenticate(p.server())
	next := 0
	for range max(3, *crashes/4) {
		traffic(n, p, &next, random)
		p.kill()
		n.collect(time.Millisecond)
		h := readLog(t, log)
		if m := missing(n.returned, h.created); m != "" {
			t.Fatalf("returned entries in the log: %s", m)
		}
		p.start()
		agree(t, p, log)
		table, h := entries(t, p.dir), readLog(t, log)
		for c := range n.returned {
			if _, ok := table[c]; !ok && !h.deleted[c] {
				t.Fatalf("%v is neither in the table nor deleted", c)
			}
		}
	}
	p.stop()
	if len(n.returned) <= 200 {
		t.Fatalf("%d entries: none was deleted", len(n.returned))
	}
}

// TestSignals: SIGHUP opens the log anew, SIGTERM ends it with 0.
func TestSignals(t *testing.T) {
	n := newNAT64(t)
	p := newProcess(t)
	log := filepath.Join(p.dir, "handoffd.log")
	p.start()
	n.authenticate(p.server())
	n.query(p.server(), 0)
	n.need(1)
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(log); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	n.query(p.server(), 1)
	n.need(1)
	if one, two := readLog(t, log+".1"), readLog(t, log); one.lines != 1 || two.lines != 1 {
		t.Fatalf("%d lines in the old log, %d in the new", one.lines, two.lines)
	}
	commandsWhile(t, n, p, "ready, minimal, listening on 127.0.0.1:")
	p.stop()
	commandsWhile(t, n, p, "not running or not ready")
}

// commandsWhile: the commands answer the same with and without a server.
func commandsWhile(t *testing.T, n *nat64, p *process, status string) {
	t.Helper()
	c := client(1)
	for want, args := range map[string][]string{
		c.String() + "\n":         {"lookup", p.mapped(n, 1), "--at", time.Now().Format(time.RFC3339Nano)},
		client(0).String() + "\n": {"lookup", p.mapped(n, 0)},
		status:                    {"status"},
		`"entries":2`:             {"status", "--json"},
		" 64:ff9b::/96 ":          {"entries", "--nat64", "127.0.0.2"},
	} {
		code, out, errs := handoffd(append(args, "--state-dir", p.dir)...)
		if code != commandline.OK || errs != "" || !strings.Contains(out, want) {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
	for want, args := range map[string][]string{
		"nobody is behind 192.0.2.1:5000":              {"lookup", "192.0.2.1:5000"},
		"nobody is known to have been behind 127.0.0.": {"lookup", p.mapped(n, 1), "--at", "2019-03-18 10:06:28.436754"},
	} {
		if code, out, errs := handoffd(append(args, "--state-dir", p.dir)...); code != commandline.Failure || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
	if code, _, errs := handoffd("lookup", "2001:db8::1", "--state-dir", p.dir); code != commandline.Usage || !strings.Contains(errs, "not an IPv4 address and a port") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

// mapped is where a client of the NAT64's is to be seen.
func (p *process) mapped(n *nat64, i int) string {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), n.returned[client(i)]).String()
}

// TestUnprivileged: minimal mode does all of its work as a user who may do
// nothing, looking at the sockets included.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: giving up privileges needs root")
	}
	n := newNAT64(t)
	p := newProcess(t, "--max-entries-per-nat64", "2")
	const nobody = 65534
	p.as = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	p.exe = copyProgram(t, filepath.Dir(p.dir))
	if err := os.Mkdir(p.dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(p.dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	p.start()
	n.authenticate(p.server())
	for i := range 5 {
		n.query(p.server(), i)
	}
	n.need(5)
	if table := entries(t, p.dir); len(table) != 2 {
		t.Fatalf("%d entries of at most 2", len(table))
	}
	p.stop()
}

// copyProgram puts the test binary where everybody may run it.
func copyProgram(t *testing.T, dir string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "handoffd")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestSecondServer: there is one table and one server.
func TestSecondServer(t *testing.T) {
	p := newProcess(t)
	p.start()
	code, _, errs := handoffd("run", "--listen", "127.0.0.1:0", "--state-dir", p.dir)
	if code != commandline.Failure || !strings.Contains(errs, "another handoffd has it open") {
		t.Errorf("exit %d, %q", code, errs)
	}
	p.stop()
}
