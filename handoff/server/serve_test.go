package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// fakeNAT64 speaks the NAT64's side over real sockets on 127.0.0.2.
type fakeNAT64 struct {
	t       testing.TB
	control *net.UDPConn // its end of the control channel
	discard *net.UDPConn // where validation packets arrive
	token   []byte
}

func listenUDP(t testing.TB, a string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newFakeNAT64(t testing.TB) *fakeNAT64 {
	return &fakeNAT64{t: t, control: listenUDP(t, "127.0.0.2:0"), discard: listenUDP(t, "127.0.0.2:0"), token: goodToken}
}

func (f *fakeNAT64) discardPort() uint16 { return uint16(f.discard.LocalAddr().(*net.UDPAddr).Port) }

func (f *fakeNAT64) send(to netip.AddrPort, p payload) {
	f.t.Helper()
	if _, err := f.control.WriteToUDPAddrPort(p.bytes(), to); err != nil {
		f.t.Fatal(err)
	}
}

// receive waits for a datagram on c and says who sent it.
func receive(t testing.TB, c *net.UDPConn, wait time.Duration) ([]byte, netip.AddrPort, bool) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, maxDatagram)
	n, from, err := c.ReadFromUDPAddrPort(b)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil, from, false
	}
	if err != nil {
		t.Fatal(err)
	}
	return b[:n], from, true
}

// answer waits for an answer from the address that was asked.
func (f *fakeNAT64) answer(from netip.AddrPort) (p wire.Payload) {
	f.t.Helper()
	b, who, ok := receive(f.t, f.control, 20*time.Second)
	if !ok || who != from {
		f.t.Fatalf("answer from %v (%v), want %v", who, ok, from)
	}
	if s := wire.Decode(b, &p); s != wire.OK {
		f.t.Fatal(s)
	}
	return p
}

// authenticate does the handshake of draft §9. Attenuation drops some packets;
// a NAT64 with something to say sends another.
func (f *fakeNAT64) authenticate(server netip.AddrPort) {
	f.t.Helper()
	own := server.Addr().As4()
	for {
		f.send(server, payload{token: f.token, auth: goodAuth, entry: entryOf(2000, clientAddr, 7)})
		b, from, ok := receive(f.t, f.discard, 200*time.Millisecond)
		if !ok {
			continue
		}
		if from != server {
			f.t.Fatalf("validation packet from %v, not from %v", from, server)
		}
		// This is discard's port where port 9 would stand.
		back := ip4(own, addr4{127, 0, 0, 2}, packet.ProtoUDP, udp(server.Port(), 9, string(b)))
		f.send(server, payload{token: f.token, packet: back})
		p := f.answer(server)
		if form, _ := p.ToNAT64(); form != wire.FormIPv4 || !bytes.Equal(p.Packet, back) {
			f.t.Fatalf("the answer to the handshake is %+v", p)
		}
		return
	}
}

// ask sends a query and returns the entry that comes back.
func (f *fakeNAT64) ask(server netip.AddrPort, port uint16) wire.Entry {
	f.t.Helper()
	pkt := ip6(clientAddr, embed(wellKnown, server.Addr().As4()), packet.ProtoTCP, tcp(port, 80))
	f.send(server, payload{token: f.token, auth: goodAuth, packet: pkt})
	p := f.answer(server)
	if form, _ := p.ToNAT64(); form != wire.FormEntry || !bytes.Equal(p.Packet, pkt) || p.Entry.ClientPort != port {
		f.t.Fatalf("answer %+v", p)
	}
	return p.Entry
}

// running is a server in this process.
type running struct {
	*Server
	stop func() error
}

func start(t testing.TB, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	stopped := false
	r := &running{Server: s}
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func testConfig(t testing.TB, f *fakeNAT64) Config {
	cfg := DefaultConfig()
	cfg.StateDir = filepath.Join(t.TempDir(), "state")
	cfg.Listen = netip.MustParseAddrPort("0.0.0.0:0")
	cfg.discardPort = f.discardPort()
	return cfg
}

func (r *running) at(a string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), r.Port())
}

// TestServe: the whole way over real sockets, two own addresses, restarts.
func TestServe(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	r := start(t, cfg)
	one, two := r.at("127.0.0.1"), r.at("127.0.1.1")
	f.authenticate(one)
	f.authenticate(two)
	entries := map[netip.AddrPort]wire.Entry{one: f.ask(one, 7), two: f.ask(two, 7)}
	if again := f.ask(one, 7); again != entries[one] {
		t.Fatalf("asked again: %+v", again)
	}
	lookInto(t, cfg.StateDir, true, entries)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	lookInto(t, cfg.StateDir, false, entries)

	// Token and entries are known to the next run, on the same port.
	cfg.Listen = netip.AddrPortFrom(cfg.Listen.Addr(), one.Port())
	r = start(t, cfg)
	for server, e := range entries {
		if again := f.ask(server, 7); again != e {
			t.Fatalf("after a restart: %+v, was %+v", again, e)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(filepath.Join(cfg.StateDir, logName))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), " Initialized 127.0.0.2\n"); n != 2 || strings.Count(string(log), " Created ") != 2 {
		t.Fatalf("the log is\n%s", log)
	}
}

// lookInto asks the running server, or the table of one that has stopped.
func lookInto(t *testing.T, dir string, ready bool, entries map[netip.AddrPort]wire.Entry) {
	t.Helper()
	ctx := context.Background()
	v, err := OpenView(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	st, err := v.Status(ctx)
	if err != nil || st.Ready != ready || st.Entries != len(entries) || st.NAT64s != 1 || len(st.Channels) != len(entries) {
		t.Fatalf("status %+v (%v)", st, err)
	}
	if ready && (st.Counters.Accepted["query"] != 3 || st.Counters.Authenticated != 2 || st.Counters.Created != 2) {
		t.Fatalf("counters %+v", st.Counters)
	}
	n := 0
	err = v.Entries(ctx, Filter{NAT64: netip.MustParseAddr("127.0.0.2")}, func(r *Row) error {
		n++
		server := netip.AddrPort{}
		for s := range entries {
			if s.Addr() == r.Server {
				server = s
			}
		}
		e := entries[server]
		if e.MappedPort != r.MappedPort || e.Client != r.Client.As16() || e.ClientPort != r.ClientPort || r.Prefix.String() != "64:ff9b::/96" {
			t.Errorf("row %+v, entry %+v", r, e)
		}
		found, err := Lookup(ctx, v, netip.AddrPortFrom(r.NAT64, r.MappedPort))
		if err != nil || len(found) == 0 || found[0].Client != r.Client {
			t.Errorf("lookup: %v, %v", found, err)
		}
		found, err = LookupAt(ctx, v, netip.AddrPortFrom(r.NAT64, r.MappedPort), r.Created)
		if err != nil || len(found) == 0 {
			t.Errorf("lookup then: %v, %v", found, err)
		}
		found, err = LookupAt(ctx, v, netip.AddrPortFrom(r.NAT64, r.MappedPort), r.Created.Add(-time.Second))
		if err != nil || len(found) != 0 {
			t.Errorf("lookup before: %v, %v", found, err)
		}
		return nil
	})
	if err != nil || n != len(entries) {
		t.Fatalf("%d entries (%v)", n, err)
	}
	if err := v.Entries(ctx, Filter{NAT64: netip.MustParseAddr("192.0.2.1")}, func(*Row) error { return ErrNoTable }); err != nil {
		t.Fatal(err)
	}
}

// TestRotateLog: SIGHUP's way. Nothing is lost or written twice.
func TestRotateLog(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	r := start(t, cfg)
	server := r.at("127.0.0.1")
	f.authenticate(server)
	f.ask(server, 1)
	path := filepath.Join(cfg.StateDir, logName)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	r.Reopen()
	for {
		if _, err := os.Stat(path); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	f.ask(server, 2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path: "[2001:db8::17]:2\n", path + ".1": "[2001:db8::17]:1\n"} {
		b, err := os.ReadFile(name)
		if err != nil || strings.Count(string(b), " Created ") != 1 || !strings.HasSuffix(string(b), want) {
			t.Errorf("%s: %q (%v)", name, b, err)
		}
	}
}

// TestDiskFailureEndsTheServer: no answer leaves that is not on disk.
func TestDiskFailureEndsTheServer(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Open(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, func() {}) }()
	server := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Port())
	f.authenticate(server)
	if err := s.commit.store.db.Close(); err != nil {
		t.Fatal(err)
	}
	pkt := ip6(clientAddr, embed(wellKnown, server.Addr().As4()), packet.ProtoTCP, tcp(7, 80))
	f.send(server, payload{token: f.token, auth: goodAuth, packet: pkt})
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "write the table") {
		t.Fatalf("the server ended with %v", err)
	}
	if b, _, ok := receive(t, f.control, 50*time.Millisecond); ok {
		t.Fatalf("and answered with %x", b)
	}
}

func TestOpenRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for want, change := range map[string]func(*Config){
		"the control channel is IPv4": func(c *Config) { c.Listen = netip.MustParseAddrPort("[::]:1") },
		"state-dir is empty":          func(c *Config) { c.StateDir = "" },
		"log-format \"xml\"":          func(c *Config) { c.LogFormat = "xml" },
		"64509 usable ports":          func(c *Config) { c.MaxEntries = 64510 },
		"open the log":                func(c *Config) { c.Log = "/nowhere/log" },
		"bind the control port":       func(c *Config) { c.Listen = netip.MustParseAddrPort("192.0.2.1:1") },
		"make the state folder":       func(c *Config) { c.StateDir = "/dev/null/x" },
	} {
		cfg := DefaultConfig()
		cfg.StateDir, cfg.Listen = t.TempDir(), netip.MustParseAddrPort("127.0.0.1:0")
		change(&cfg)
		if _, err := Open(context.Background(), cfg, log); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := OpenView(context.Background(), t.TempDir()); !errors.Is(err, ErrNoTable) {
		t.Errorf("no table: %v", err)
	}
}

func TestControlRefusesNonsense(t *testing.T) {
	cfg := testConfig(t, newFakeNAT64(t))
	start(t, cfg)
	c, err := dialControl(context.Background(), cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, page := range []string{"entries?nat64=x", "entries?mapped_port=70000", "nothing"} {
		if err := c.get(context.Background(), page, nil); !errors.Is(err, errRefusedAsk) {
			t.Errorf("%s: %v", page, err)
		}
	}
	info, err := os.Stat(filepath.Join(cfg.StateDir, socketName))
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode is %v (%v)", info.Mode(), err)
	}
}
