package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// built are the programs under test; written by TestMain before any test.
var built lab.Binaries

// labs numbers the labs of this process.
var labs atomic.Int32

// labPrefix begins the names of all labs of these tests.
const labPrefix = "e2e-"

// testsAtOnce is how many tests run side by side when -parallel does not say.
// Each has namespaces of its own and waits for packets and timers most of the
// time, so it is more than there are processors.
const testsAtOnce = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", testsAtOnce); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(1)
		}
	}
	os.Exit(runAll(m))
}

// runAll builds the programs, runs the tests and takes down what a signal
// would leave standing.
func runAll(m *testing.M) int {
	if lab.NeedRoot() != nil {
		return m.Run() // every test skips itself
	}
	dir, err := os.MkdirTemp("", "nat64-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := buildPrograms(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if err := lab.Reap(labPrefix); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: left by an earlier run:", err)
		return 1
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, unix.SIGTERM)
	go func() {
		<-interrupted
		for i := range labs.Load() {
			_ = lab.Down(labName(i + 1)) // what cannot be removed now is reaped by the next run
		}
		os.Exit(1)
	}()
	return m.Run()
}

func labName(n int32) string { return fmt.Sprintf("%s%d-%d", labPrefix, os.Getpid(), n) }

// buildPrograms compiles what is tested, as users compile it: without cgo and
// without the race detector of the tests.
func buildPrograms(dir string) error {
	cmd := exec.Command("go", "build", "-o", dir, "handoff64/cmd/nat64d", "handoff64/cmd/nat64ctl", "handoff64/cmd/handoffd", "handoff64/cmd/pktgen")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs under test: %w\n%s", err, out)
	}
	var err error
	built, err = lab.FindBinaries(dir)
	return err
}

// world is the network of one test with a nat64d in it; for the goroutine of
// the test.
type world struct {
	*lab.Lab
	t      *testing.T
	ctx    context.Context
	d      *lab.Daemon
	client lab.Host
	server lab.Host
	nat64  lab.Host

	captures []*lab.Capture
	judge    func(file string) // looks at each capture, too; may be nil
	points   map[string]string // host and interface to capture at, where not the usual
	before   footprint
}

// footprint is all that nat64d could leave behind in its host.
type footprint struct {
	interfaces map[string]lab.Interface
	sysctls    map[string]string
}

// testTimeout bounds each test. It is there to end a hanging one, not to
// measure anything; long forms need more.
var testTimeout = flag.Duration("e2e.timeout", 3*time.Minute, "bound on the time of one test")

// plain builds the network of three hosts and starts nat64d; configure, if
// given, changes the configuration before that.
func plain(t *testing.T, configure ...func(map[string]any)) *world {
	t.Helper()
	return build(t, lab.Options{}, configure...)
}

// routed is plain with routers on both sides and two hosts behind each.
func routed(t *testing.T, configure ...func(map[string]any)) *world {
	t.Helper()
	return build(t, lab.Options{Routers: true, Clients: 2, Servers: 2}, configure...)
}

// needRoot skips a test that cannot run. A test with subtests asks itself, or
// it would count as passed when all of them are skipped.
func needRoot(t *testing.T) {
	t.Helper()
	if lab.NeedRoot() != nil {
		t.Skip("needs root")
	}
}

func build(t *testing.T, o lab.Options, configure ...func(map[string]any)) *world {
	t.Helper()
	return arranged(t, o, func(*world) {}, configure...)
}

// arranged is build for a network that is changed before nat64d starts.
func arranged(t *testing.T, o lab.Options, arrange func(*world), configure ...func(map[string]any)) *world {
	t.Helper()
	needRoot(t)
	o.Name = labName(labs.Add(1))
	l, err := lab.Up(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *testTimeout)
	w := &world{Lab: l, t: t, ctx: ctx, d: l.Daemon(built), client: l.Host("client"), server: l.Host("server"), nat64: l.Host("nat64")}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
		cancel()
	})
	for _, change := range configure {
		change(w.d.Config)
	}
	arrange(w)
	w.before = w.footprint()
	w.capture(o.Routers)
	if err := w.d.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.finish)
	return w
}

// capture watches both of the translator's links, from their far ends.
func (w *world) capture(routers bool) {
	w.t.Helper()
	points := map[string]string{"client": "eth0", "server": "eth0"}
	switch {
	case w.points != nil:
		points = w.points
	case routers:
		points = map[string]string{"r6": "nat64", "r4": "nat64"}
	}
	for host, ifname := range points {
		// The first packets of a transfer are like all others: the limit
		// keeps the capture of a gigabyte from taking longer than the rest.
		c, err := w.Host(host).StartCapture(ifname, filepath.Join(w.t.TempDir(), host+".pcap"), 20_000)
		if err != nil {
			w.t.Fatal(err)
		}
		w.captures = append(w.captures, c)
	}
}

// finish makes the checks that are common to all tests.
func (w *world) finish() {
	w.t.Helper()
	if w.d.Running() {
		stats, err := w.d.SettledStats(w.ctx)
		if err != nil {
			w.t.Error(err)
		}
		if w.t.Failed() {
			w.t.Logf("drops: %v", reasons(stats))
		}
		w.stop()
	}
	var all tally
	for _, c := range w.captures {
		if err := c.Stop(); err != nil {
			w.t.Error(err)
		}
		if err := all.file(c.File); err != nil {
			w.t.Error(err)
		}
		if w.judge != nil {
			w.judge(c.File)
		}
	}
	for _, bad := range all.bad {
		w.t.Error(bad)
	}
	if all.good == 0 {
		w.t.Error("not one checksum in the captures was checked")
	}
	if w.t.Failed() {
		w.t.Logf("log of nat64d:\n%s", w.d.Log())
	}
}

// stop stops nat64d and expects that everything is as it was before.
func (w *world) stop() {
	w.t.Helper()
	if err := w.d.Stop(); err != nil {
		w.t.Error(err)
	}
	after := w.footprint()
	for name, was := range w.before.interfaces {
		is := after.interfaces[name]
		if is.XDP != was.XDP || is.Promisc != was.Promisc || is.MTU != was.MTU || !slices.Equal(is.Addresses, was.Addresses) {
			w.t.Errorf("interface %s after the stop: %+v, before the start: %+v", name, is, was)
		}
	}
	if len(after.interfaces) != len(w.before.interfaces) {
		w.t.Errorf("interfaces after the stop: %v, before the start: %v", slices.Collect(maps.Keys(after.interfaces)), slices.Collect(maps.Keys(w.before.interfaces)))
	}
	for key, was := range w.before.sysctls {
		if is := after.sysctls[key]; is != was {
			w.t.Errorf("sysctl %s after the stop: %q, before the start: %q", key, is, was)
		}
	}
	if _, err := os.Stat(w.Socket()); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("control socket after the stop: %v", err)
	}
}

func (w *world) footprint() footprint {
	w.t.Helper()
	interfaces, err := w.nat64.Interfaces()
	if err != nil {
		w.t.Fatal(err)
	}
	sysctls, err := w.nat64.Sysctls("ipv4", "ipv6")
	if err != nil {
		w.t.Fatal(err)
	}
	if len(sysctls) < 100 {
		w.t.Fatalf("only %d sysctls could be read", len(sysctls))
	}
	// A secret that the kernel makes when it is first used, nobody's setting.
	for key := range sysctls {
		if strings.HasSuffix(key, "/stable_secret") {
			delete(sysctls, key)
		}
	}
	return footprint{interfaces, sysctls}
}

// must ends the test if err is not nil.
func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits until condition holds; what it returns is why it does not.
func (w *world) eventually(what string, limit time.Duration, condition func() error) {
	w.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) || w.ctx.Err() != nil {
			w.t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// reasons are the drop reasons that occurred.
func reasons(s lab.Stats) map[string]uint64 {
	some := maps.Clone(s.Drops)
	maps.DeleteFunc(some, func(_ string, n uint64) bool { return n == 0 })
	return some
}

// stats reads the counters.
func (w *world) stats() lab.Stats {
	w.t.Helper()
	s, err := w.d.Stats(w.ctx)
	w.must(err)
	return s
}
