package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/dataplane/packet"
	"handoff64/handoff/server"
	"handoff64/handoff/wire"
)

// process is a handoffd that runs as a program of its own.
type process struct {
	t    testing.TB
	dir  string // its state folder
	port uint16
	args []string
	as   *syscall.SysProcAttr
	exe  string

	cmd  *exec.Cmd
	done chan error
}

func newProcess(t testing.TB, args ...string) *process {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: filepath.Join(t.TempDir(), "state"), args: args, exe: exe}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
	})
	return p
}

func (p *process) server() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.port)
}

// start returns once the program has said that it is ready.
func (p *process) start() {
	p.t.Helper()
	args := append([]string{"run", "--listen", p.server().String(), "--state-dir", p.dir}, p.args...)
	p.cmd = exec.Command(p.exe, args...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	p.cmd.SysProcAttr = p.as
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	r := bufio.NewReader(stderr)
	var said strings.Builder
	for !strings.Contains(said.String(), "msg=ready") {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			p.t.Fatalf("it ended before it was ready: %s (%v)", said.String(), p.cmd.Wait())
		}
	}
	if p.port == 0 {
		_, rest, _ := strings.Cut(said.String(), "listen=")
		p.port = netip.MustParseAddrPort(strings.Fields(rest)[0]).Port()
	}
	p.done = make(chan error, 1)
	go func() {
		// Wait closes the pipe, so all must have been read before.
		_, err := io.Copy(os.Stderr, r)
		p.done <- errors.Join(err, p.cmd.Wait())
	}()
}

// kill is kill -9.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
	p.cmd = nil
}

// stop ends it as systemd does, and wants exit code 0.
func (p *process) stop() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := <-p.done; err != nil {
		p.t.Fatalf("SIGTERM: %v", err)
	}
	p.cmd = nil
}

var (
	token  = []byte("token of 18 octets")
	auth   = []byte("auth'r of 18 octet")
	prefix = [12]byte{1: 0x64, 2: 0xff, 3: 0x9b}
)

// nat64 is a NAT64 at 127.0.0.2 that records every entry it is given.
type nat64 struct {
	t        testing.TB
	control  *net.UDPConn
	discard  *net.UDPConn
	returned map[netip.AddrPort]uint16 // client and port → mapped port
}

func bind(t testing.TB, a string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a)))
	if errors.Is(err, os.ErrPermission) {
		t.Skipf("not run: a NAT64 needs root for UDP port 9 (%v)", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newNAT64(t testing.TB) *nat64 {
	return &nat64{
		t: t, control: bind(t, "127.0.0.2:0"), discard: bind(t, "127.0.0.2:9"),
		returned: map[netip.AddrPort]uint16{},
	}
}

func (n *nat64) send(to netip.AddrPort, b []byte) {
	n.t.Helper()
	// A server that is down answers with port unreachable, which is no failure.
	if _, err := n.control.WriteToUDPAddrPort(b, to); err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		n.t.Fatal(err)
	}
}

func read(t testing.TB, c *net.UDPConn, wait time.Duration) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return b[:n]
}

// authenticate does the handshake of draft §9.
func (n *nat64) authenticate(server netip.AddrPort) {
	n.t.Helper()
	e := wire.Entry{MappedPort: 2000, Prefix: prefix, Client: [16]byte{0x20}, ClientPort: 1}
	hello := wire.AppendEntry(wire.AppendAuthenticator(wire.AppendIdentifier(wire.AppendToken(nil, token)), auth), &e)
	for {
		n.send(server, hello)
		v := read(n.t, n.discard, 100*time.Millisecond)
		if len(v) == 0 {
			continue // attenuated
		}
		own := server.Addr().As4()
		b := make([]byte, packet.IPv4Len+packet.UDPLen)
		b[0], b[packet.IPv4TTL], b[packet.IPv4Proto] = 0x45, 1, packet.ProtoUDP
		binary.BigEndian.PutUint16(b[packet.IPv4TotalLen:], uint16(len(b)+len(v)))
		copy(b[packet.IPv4Src:], own[:])
		copy(b[packet.IPv4Dst:], []byte{127, 0, 0, 2})
		binary.BigEndian.PutUint16(b[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(b[:packet.IPv4Len], 0)))
		binary.BigEndian.PutUint16(b[20:], server.Port())
		binary.BigEndian.PutUint16(b[22:], 9)
		binary.BigEndian.PutUint16(b[24:], uint16(packet.UDPLen+len(v)))
		n.send(server, wire.AppendPacket(wire.AppendToken(nil, token), append(b, v...)))
		if len(read(n.t, n.control, 20*time.Second)) == 0 {
			n.t.Fatal("the returned validation packet was not answered")
		}
		return
	}
}

// client is a client of the tests: number i has ports of its own.
func client(i int) netip.AddrPort {
	a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	binary.BigEndian.PutUint32(a[12:], uint32(i/1000))
	return netip.AddrPortFrom(netip.AddrFrom16(a), uint16(1+i%1000))
}

// query asks for a client's entry.
func (n *nat64) query(server netip.AddrPort, i int) {
	n.t.Helper()
	c, own := client(i), server.Addr().As4()
	b := make([]byte, packet.IPv6Len+packet.UDPLen)
	b[0], b[packet.IPv6PayloadLen+1], b[packet.IPv6NextHeader] = 0x60, packet.UDPLen, packet.ProtoUDP
	src := c.Addr().As16()
	copy(b[packet.IPv6Src:], src[:])
	copy(b[packet.IPv6Dst:], append(prefix[:], own[:]...))
	binary.BigEndian.PutUint16(b[40:], c.Port())
	binary.BigEndian.PutUint16(b[42:], 53)
	b[45] = packet.UDPLen
	n.send(server, wire.AppendPacket(wire.AppendAuthenticator(wire.AppendToken(nil, token), auth), b))
}

// collect takes the answers that come within wait, and says how many.
func (n *nat64) collect(wait time.Duration) (count int) {
	n.t.Helper()
	for end := time.Now().Add(wait); ; count++ {
		b := read(n.t, n.control, time.Until(end))
		if len(b) == 0 {
			return count
		}
		var p wire.Payload
		if s := wire.Decode(b, &p); s != wire.OK || !p.Has(wire.TypeEntry) {
			n.t.Fatalf("answer %x: %v", b, s)
		}
		c := netip.AddrPortFrom(netip.AddrFrom16(p.Entry.Client), p.Entry.ClientPort)
		if was, ok := n.returned[c]; ok && was != p.Entry.MappedPort {
			n.t.Fatalf("%v had mapped port %d and has %d now", c, was, p.Entry.MappedPort)
		}
		n.returned[c] = p.Entry.MappedPort
	}
}

// need collects until count answers have come.
func (n *nat64) need(count int) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); count > 0; {
		if time.Now().After(end) {
			n.t.Fatalf("%d answers are missing", count)
		}
		count -= n.collect(20 * time.Millisecond)
	}
}

// entries reads the table as the command shows it.
func entries(t testing.TB, dir string) map[netip.AddrPort]uint16 {
	t.Helper()
	code, out, errs := handoffd("entries", "--json", "--state-dir", dir)
	if code != commandline.OK {
		t.Fatalf("entries: exit %d, %s", code, errs)
	}
	table := map[netip.AddrPort]uint16{}
	for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
		var r server.Row
		if err := d.Decode(&r); err != nil {
			t.Fatal(err)
		}
		table[netip.AddrPortFrom(r.Client, r.ClientPort)] = r.MappedPort
	}
	return table
}

// history is what a log tells.
type history struct {
	created, live map[netip.AddrPort]uint16
	deleted       map[netip.AddrPort]bool
	lines         int
}

func readLog(t testing.TB, path string) history {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := history{created: map[netip.AddrPort]uint16{}, live: map[netip.AddrPort]uint16{}, deleted: map[netip.AddrPort]bool{}}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) != 5 {
			continue // Initialized, or cut by a crash
		}
		mapped, err1 := netip.ParseAddrPort(f[3])
		c, err2 := netip.ParseAddrPort(f[4])
		if err1 != nil || err2 != nil {
			continue
		}
		h.lines++
		switch f[2] {
		case "Created":
			h.created[c], h.live[c] = mapped.Port(), mapped.Port()
		case "Deleted":
			delete(h.live, c)
			h.deleted[c] = true
		}
	}
	return h
}

// missing shortens a difference for a message; empty is none.
func missing(want, have map[netip.AddrPort]uint16) string {
	n, example := 0, ""
	for c, p := range want {
		if have[c] != p {
			n, example = n+1, fmt.Sprintf("%v has port %d, not %d", c, have[c], p)
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d are missing or wrong: %s", n, len(want), example)
}
