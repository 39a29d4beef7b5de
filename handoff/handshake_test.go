package handoff

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// validation is the packet of draft §9: from the server port to the discard
// port, with the authenticator or token that the server was sent, and a
// no-next-header IPv6 packet, both addresses ::, with the server's MAC.
func (h *host) validation(proof []byte, mac string) []byte {
	inner := make([]byte, 40, 56)
	inner[0], inner[5], inner[6] = 0x60, byte(len(mac)), 59
	return udp4(h.addr, ownAddr, h.cfg.ServerPort, 9, append(append(proof, inner...), mac...))
}

// Notification, validation packet, its return, format (a), and then all that
// lives: how a NAT64 and a server meet (draft §8, §9).
func TestHandshake(t *testing.T) {
	r := newRig(t, func(c *Config) { c.StrangersPerSecond = 0 })
	s := r.server(1)
	r.sessions = []conntrack.SessionInfo{
		r.session(s.addr, client1, 40000, 3719, conntrack.OriginNAT64),
		r.session(s.addr, client2, 40001, 3720, conntrack.OriginNAT64),
		r.session(s.addr, client2, 40002, 3721, conntrack.OriginHandoff),
		r.session(serverAddr(9), client2, 40003, 3722, conntrack.OriginNAT64),
	}
	ping := r.session(s.addr, client2, 40004, 3723, conntrack.OriginNAT64)
	ping.Key.Proto = conntrack.ICMP
	r.sessions = append(r.sessions, r.sessions[0], ping) // a second session of one entry
	r.notify(s.addr, client1, 40000, 3719)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.entries(1)

	packet := s.validation(wire.AppendAuthenticator(nil, r.auth(s.addr, client1)), "sixteen octets..")
	r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr, Stranger: true}, packet)
	r.pass(0)
	got, _ := s.recv()
	if want := r.formA(s.addr, packet); string(got) != string(want) {
		t.Fatalf("the validation packet came back as\n%x, want\n%x", got, want)
	}
	if st := r.cfg.Servers.State(s.addr); st != conntrack.ServerUnknown {
		t.Errorf("%s too early", st)
	}
	s.send(got) // format (a): packet and token are those that came
	r.until("the server is found", func() bool { return r.cfg.Servers.State(s.addr) == conntrack.ServerHandoff })
	r.until("the walk ends", func() bool { return !r.w.walking.Load() && len(r.w.found) == 0 && len(r.w.wanted) == 0 })
	r.pass(10 * time.Millisecond)
	all := s.entries(2)
	for _, e := range []wire.Entry{entry(client1, 40000, 3719), entry(client2, 40001, 3720)} {
		if !contains(all, e) {
			t.Errorf("%v was not told, but %v", e, all)
		}
	}
	st := r.w.Stats()
	if st.Tunnelled != 1 || st.Limited != 0 || st.Replies != 1 || st.Invalid != 0 || st.NoFrame != 1 {
		t.Errorf("%+v", st)
	}
	if r.woken[0] == 0 {
		t.Error("packet worker 0 was not woken for its frame")
	}
	r.census()
}

// session is one as the walk shows it.
func (r *rig) session(server uint32, client conntrack.Addr6, port, mapped uint16, o conntrack.Origin) conntrack.SessionInfo {
	return conntrack.SessionInfo{Session: conntrack.Session{
		Key:    conntrack.Key64{Client: client, Server: server, ClientPort: port, ServerPort: 443, Proto: conntrack.TCP},
		Mapped: ownAddr, MappedPort: mapped, Origin: o,
	}}
}

// A query is token, authenticator, hint, packet (draft §5).
func TestQuery(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	packet := udp6(octets6(client1), within(s.addr), 40000, 53, []byte("question"))
	r.tunnel(1, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1, MappedPort: 3719}, packet)
	r.tunnel(1, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1}, append(packet, 0, 0, 0)) // with padding
	r.pass(0)
	head := wire.AppendAuthenticator(wire.AppendToken(nil, r.token(s.addr)), r.auth(s.addr, client1))
	if got, want := first(s.recv()), string(append(wire.AppendHint(slices.Clone(head), 3719), packet...)); got != want {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if got, want := first(s.recv()), string(append(head, packet...)); got != want {
		t.Errorf("without a hint: got  %x\nwant %x", got, want)
	}
	// What is no packet of its kind is not sent.
	r.tunnel(1, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr}, packet)
	r.tunnel(1, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1}, packet[:50])
	r.pass(0)
	s.none()
	if st := r.w.Stats(); st.Queries != 2 || st.SendError != 2 {
		t.Errorf("%+v", st)
	}
	r.census()
}

func first(payload []byte, _ netip.AddrPort) string { return string(payload) }

// A server is down when its port is closed, and only if it says so itself.
func TestDownAndBack(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.sessions = []conntrack.SessionInfo{
		r.session(s.addr, client1, 1, 2000, conntrack.OriginNAT64),
		r.session(s.addr, client2, 2, 2001, conntrack.OriginHandoff),
	}
	s.conn.Close()
	r.notify(s.addr, client1, 3, 2002)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	r.until("the server is down", func() bool { return r.cfg.Servers.State(s.addr) == conntrack.ServerDown })
	if st := r.w.Stats(); st.WentDown != 1 || st.Servers != [3]uint64{0, 0, 1} {
		t.Errorf("%+v", st)
	}
	r.pass(time.Second) // nobody is there to echo: it is not said again
	if st := r.w.Stats(); st.Retries != 0 || r.w.retries.index.used != 0 {
		t.Errorf("%+v", st)
	}
	// It is told as a plain host would be, and the errors change nothing.
	others := r.w.Stats().OtherErrors
	r.notify(s.addr, client1, 4, 2003)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	r.until("the error comes", func() bool { return r.w.Stats().OtherErrors > others })

	s = r.server(1)
	s.capable()
	r.pass(10 * time.Millisecond)
	all := s.entries(2) // also the one that is cached
	for _, e := range []wire.Entry{entry(client1, 1, 2000), entry(client2, 2, 2001)} {
		if !contains(all, e) {
			t.Errorf("%v was not told", e)
		}
	}
}

// Errors about datagrams to hosts that are not capable change nothing, nor do
// datagrams without a valid token.
func TestClosedPortOfPlainHost(t *testing.T) {
	r := newRig(t)
	r.notify(serverAddr(5), client1, 1, 2000)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	r.until("the error comes", func() bool { return r.w.Stats().OtherErrors == 1 })
	if st := r.cfg.Servers.State(serverAddr(5)); st != conntrack.ServerUnknown {
		t.Errorf("the host is %s", st)
	}
	s := r.server(1)
	s.capable()
	s.conn.Close()
	for _, payload := range [][]byte{{}, []byte("no message"), wire.AppendToken(nil, r.token(serverAddr(2))), wire.AppendToken(nil, nil)} {
		others := r.w.Stats().OtherErrors
		r.w.post(channelKey{ownAddr, s.addr}, payload, nil, letter{count: &r.w.count.payloads, link: -1})
		r.until("the error comes", func() bool { r.w.flush(); return r.w.Stats().OtherErrors > others })
		if st := r.cfg.Servers.State(s.addr); st != conntrack.ServerHandoff {
			t.Errorf("after an error about %x the server is %s", payload, st)
		}
	}
}

// Errors made by hand: from somebody else, of another code, with half a token.
func TestForgedUnreachable(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	s := r.server(1)
	s.capable()
	payload := wire.AppendIdentifier(wire.AppendToken(nil, r.token(s.addr)))
	for _, c := range []struct {
		name         string
		from         uint32
		kind, code   byte
		port         uint16
		quoted       int
		want         conntrack.ServerState
		unnoticeable bool // the kernel keeps it to itself
	}{
		{"from a stranger", serverAddr(99), 3, 3, r.cfg.ServerPort, 100, conntrack.ServerHandoff, false},
		{"host unreachable", s.addr, 3, 1, r.cfg.ServerPort, 100, conntrack.ServerHandoff, false},
		{"time exceeded", s.addr, 11, 0, r.cfg.ServerPort, 100, conntrack.ServerHandoff, false},
		{"another port", s.addr, 3, 3, r.cfg.ServerPort + 1, 100, conntrack.ServerHandoff, false},
		{"half a token", s.addr, 3, 3, r.cfg.ServerPort, 12, conntrack.ServerHandoff, false},
		{"the server's own", s.addr, 3, 3, r.cfg.ServerPort, 20, conntrack.ServerDown, false},
	} {
		before := r.w.Stats()
		r.sendICMP(c.from, c.kind, c.code, udp4(ownAddr, s.addr, r.cfg.ClientPort, c.port, payload)[:28+c.quoted])
		r.until(c.name, func() bool {
			st := r.w.Stats()
			return st.OtherErrors+st.WentDown > before.OtherErrors+before.WentDown
		})
		if st := r.cfg.Servers.State(s.addr); st != c.want {
			t.Errorf("%s: the server is %s, want %s", c.name, st, c.want)
		}
	}
}

func (r *rig) sendICMP(from uint32, kind, code byte, quote []byte) {
	r.Helper()
	c, err := net.ListenIP("ip4:icmp", &net.IPAddr{IP: ipv4Address(from).AsSlice()})
	if err != nil {
		r.Fatal(err)
	}
	defer c.Close()
	m := append([]byte{kind, code, 0, 0, 0, 0, 0, 0}, quote...)
	var sum uint32
	for i := 0; i+1 < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	if len(m)%2 == 1 {
		sum += uint32(m[len(m)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum))
	if _, err := c.WriteTo(m, &net.IPAddr{IP: ipv4Address(ownAddr).AsSlice()}); err != nil {
		r.Fatal(err)
	}
}

// The capable servers survive a restart, and so do those that are down.
func TestStateFile(t *testing.T) {
	r := newRig(t)
	s, down := r.server(1), r.server(2)
	s.capable()
	down.capable()
	down.conn.Close()
	r.notify(down.addr, client1, 3, 2002)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	r.until("the server is down", func() bool { return r.cfg.Servers.State(down.addr) == conntrack.ServerDown })
	r.time = r.time.Add(time.Second)
	r.until("it is written", func() bool { return !r.w.servers.dirty && !r.w.saving.Load() })
	r.restart()
	if a, b := r.cfg.Servers.State(s.addr), r.cfg.Servers.State(down.addr); a != conntrack.ServerHandoff || b != conntrack.ServerDown {
		t.Errorf("after a restart the servers are %s and %s", a, b)
	}
	if r.w.servers.dirty {
		t.Error("what was just read is to be written")
	}

	path := r.w.stateFile
	if filepath.Dir(path) != filepath.Dir(r.cfg.KeyFile) {
		t.Errorf("state file %s is not beside the keys", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range text { // cut anywhere it counts as none, and is written anew
		if err := os.WriteFile(path, text[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readState(path); err == nil {
			t.Errorf("%q was accepted", text[:n])
		}
	}
	r.restart()
	if st := r.cfg.Servers.State(s.addr); st != conntrack.ServerUnknown {
		t.Errorf("out of half a file the server is %s", st)
	}
	r.time = r.time.Add(time.Second)
	r.until("a good file is written", func() bool { _, err := readState(path); return err == nil })
}

// A kill may come before the server has heard of an entry: after the restart it
// is told of all that live.
func TestRestartTellsAgain(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.time = r.time.Add(time.Second)
	r.until("it is written", func() bool { return !r.w.servers.dirty && !r.w.saving.Load() })
	r.sessions = []conntrack.SessionInfo{{
		Session: conntrack.Session{
			Key:    conntrack.Key64{Client: client1, ClientPort: 40000, Server: s.addr, ServerPort: 80, Proto: conntrack.TCP},
			Mapped: ownAddr, MappedPort: 3719,
		},
	}}
	r.restart()
	r.until("the walk is over", func() bool { return !r.w.walking.Load() && len(r.w.wanted) == 0 && len(r.w.found) == 0 })
	r.pass(10 * time.Millisecond)
	if got := s.entries(1); got[0] != entry(client1, 40000, 3719) {
		t.Errorf("told of %+v", got[0])
	}
	if len(r.w.retries.index.keys) == 0 || r.w.retries.index.used != 1 {
		t.Error("nobody waits for its echo")
	}
}

// restart is what a kill and a new start are to the worker.
func (r *rig) restart() {
	r.Helper()
	r.close()
	var err error
	if r.cfg.Servers, err = conntrack.NewServers(1024, [32]byte{1}); err != nil {
		r.Fatal(err)
	}
	r.open()
}

func TestStateFileLines(t *testing.T) {
	for _, text := range []string{
		"", "handoff64 servers 2\nend 0\n", "handoff64 servers 1\n", "handoff64 servers 1\nend 1\n", "handoff64 servers 1\nend 0",
		"handoff64 servers 1\n192.0.2.1 unknown\nend 1\n", "handoff64 servers 1\n::1 handoff\nend 1\n", "handoff64 servers 1\n192.0.2.1\nend 1\n",
		"handoff64 servers 1\nx handoff\nend 1\n",
	} {
		if got, err := parseState([]byte(text)); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
	want := []knownServer{{0xc0000201, conntrack.ServerHandoff}, {0xc0000202, conntrack.ServerDown}}
	if got, err := parseState(formatState(want)); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
}

// A state file that cannot be written is tried again.
func TestStateFileUnwritable(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) { c.StateFile = filepath.Join(dir, "missing", "servers") })
	s := r.server(1)
	s.capable()
	r.time = r.time.Add(time.Second)
	r.until("the write fails", func() bool { return r.w.Stats().SaveFailures == 1 && !r.w.saving.Load() })
	if err := os.Mkdir(filepath.Join(dir, "missing"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.pass(0)
	r.time = r.time.Add(time.Minute)
	r.until("it is written", func() bool { known, _ := readState(r.cfg.StateFile); return len(known) == 1 })
}
