package handoff

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
	"handoff64/ring"
)

// The network of these tests is loopback:
//
//	test as packet workers ── rings ── Worker ── 127.0.64.1:client_port
//	                                             │
//	             test as servers ── 127.0.65.x:server_port
//
// The rounds are the test's own and the clock moves only when it says so.

const (
	ownAddr   = 127<<24 | 64<<8 | 1
	otherOwn  = 127<<24 | 64<<8 | 2
	rigFrames = 256
	rigLinks  = 2
)

// serverAddr is the x-th server's address.
func serverAddr(x byte) uint32 { return 127<<24 | 65<<8 | uint32(x) }

var (
	rigPool6 = []netip.Prefix{netip.MustParsePrefix("2001:db8:64::/96"), netip.MustParsePrefix("2001:db8:40::/40")}
	client1  = conntrack.Addr6{Hi: 0x20010db800010000, Lo: 1}
	client2  = conntrack.Addr6{Hi: 0x20010db800010000, Lo: 2}
)

// rig is a Worker with the test on all its sides.
type rig struct {
	testing.TB
	w        *Worker
	cfg      Config
	umem     *ring.UMEM
	stack    *ring.FrameStack // frames in the packet workers' hands
	time     time.Time
	sessions []conntrack.SessionInfo
	got      []conntrack.FromServer // what came out of the In rings
	woken    []int
}

// freePort is a UDP port that nobody uses on any address.
func freePort(t testing.TB) uint16 {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return uint16(c.LocalAddr().(*net.UDPAddr).Port)
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	r := &rig{TB: t, time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), woken: make([]int, rigLinks)}
	var err error
	if r.umem, err = ring.NewUMEM(rigFrames, 2048); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.umem.Close() })
	r.stack = ring.NewFrameStack(rigFrames, 2048)
	for i := range rigFrames {
		r.stack.Push(uint64(i) * 2048)
	}
	servers, err := conntrack.NewServers(1024, [32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	r.cfg = Config{
		Pool4: []uint32{ownAddr, otherOwn}, Pool6: rigPool6, ServerPort: freePort(t), ClientPort: freePort(t),
		KeyFile: filepath.Join(t.TempDir(), "keys"), KeyRotation: 24 * time.Hour, BatchDelay: 10 * time.Millisecond,
		StrangersPerSecond: 1000,
		Owner:              func(c conntrack.Addr6, port uint16) int { return int(c.Lo % rigLinks) },
		Servers:            servers, UMEM: r.umem,
		Walk: func(f func(conntrack.SessionInfo) bool) {
			for _, s := range r.sessions {
				if !f(s) {
					return
				}
			}
		},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for i := range rigLinks {
		r.cfg.Links = append(r.cfg.Links, NewLink(64))
		r.cfg.WorkerWake = append(r.cfg.WorkerWake, func() { r.woken[i]++ })
	}
	for _, f := range change {
		f(&r.cfg)
	}
	r.open()
	t.Cleanup(r.close)
	return r
}

func (r *rig) open() {
	r.Helper()
	w, err := open(r.cfg, func() time.Time { return r.time })
	if err != nil {
		r.Fatal(err)
	}
	r.w = w
}

func (r *rig) close() {
	if r.w == nil {
		return
	}
	if err := r.w.Close(); err != nil {
		r.Error(err)
	}
	r.w = nil
}

// pass lets time pass and then a round.
func (r *rig) pass(d time.Duration) {
	r.time = r.time.Add(d)
	r.w.round()
}

// until makes rounds until the condition holds. The limit only ends a test that
// would hang.
func (r *rig) until(what string, ok func() bool) {
	r.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(limit) {
			r.Fatalf("waited in vain: %s; %+v", what, r.w.Stats())
		}
		r.w.round()
		r.drain()
	}
}

// drain takes what the packet workers were given.
func (r *rig) drain() {
	for _, l := range r.cfg.Links {
		for f, ok := l.Back.Pop(); ok; f, ok = l.Back.Pop() {
			r.stack.Push(f)
		}
		for f, ok := l.In.Pop(); ok; f, ok = l.In.Pop() {
			r.got = append(r.got, f)
			if f.Kind != conntrack.GotEntry {
				r.stack.Push(f.Addr)
			}
		}
	}
}

// lend gives every link n frames.
func (r *rig) lend(n int) {
	for _, l := range r.cfg.Links {
		for range n {
			if f, ok := r.stack.Pop(); !ok || !l.Lend.Push(f) {
				r.Fatal("no frame to lend, or no room for it")
			}
		}
	}
}

// census holds that every frame is in exactly one place.
func (r *rig) census() {
	r.Helper()
	r.drain()
	places := []ring.Place{{Name: "stack", Frames: r.stack.Frames()}}
	for _, l := range r.cfg.Links {
		var lent, out []uint64
		for n := l.Lend.Len(); n > 0; n-- {
			f, _ := l.Lend.Pop()
			lent = append(lent, f)
			l.Lend.Push(f)
		}
		for n := l.Out.Len(); n > 0; n-- {
			t, _ := l.Out.Pop()
			if t.Kind != conntrack.Notify {
				out = append(out, t.Addr)
			}
			l.Out.Push(t)
		}
		places = append(places, ring.Place{Name: "lent", Frames: lent}, ring.Place{Name: "out", Frames: out})
	}
	if err := ring.Census(r.umem, places...); err != nil {
		r.Error(err)
	}
}

// notify pushes a notification as packet worker 0 would.
func (r *rig) notify(server uint32, client conntrack.Addr6, clientPort, mapped uint16) {
	r.push(0, conntrack.ToServer{Kind: conntrack.Notify, Server: server, Own: ownAddr, Client: client, ClientPort: clientPort, MappedPort: mapped})
}

func (r *rig) push(link int, t conntrack.ToServer) {
	r.Helper()
	if !r.cfg.Links[link].Out.Push(t) {
		r.Fatal("the Out ring is full")
	}
}

// tunnel puts a packet into a frame and pushes it.
func (r *rig) tunnel(link int, t conntrack.ToServer, packet []byte) {
	r.Helper()
	f, ok := r.stack.Pop()
	if !ok {
		r.Fatal("no frame left")
	}
	t.Addr, t.Len = f+ring.Headroom+ethernetHeader, uint16(len(packet))
	copy(r.umem.Mem[t.Addr:], packet)
	r.push(link, t)
}

// host is a server made by hand: an ordinary UDP socket.
type host struct {
	*rig
	addr uint32
	conn *net.UDPConn
}

func (r *rig) server(x byte) *host {
	r.Helper()
	return r.hostAt(serverAddr(x), r.cfg.ServerPort)
}

func (r *rig) hostAt(addr uint32, port uint16) *host {
	r.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ipv4Address(addr), port)))
	if err != nil {
		r.Fatal(err)
	}
	c.SetReadBuffer(4 << 20)
	r.Cleanup(func() { c.Close() })
	return &host{r, addr, c}
}

// send sends a payload to the worker's own address.
func (h *host) send(payload []byte) { h.sendTo(ownAddr, payload) }

func (h *host) sendTo(own uint32, payload []byte) {
	h.Helper()
	if _, err := h.conn.WriteToUDPAddrPort(payload, netip.AddrPortFrom(ipv4Address(own), h.cfg.ClientPort)); err != nil {
		h.Fatal(err)
	}
}

// recv is the next datagram. The limit only ends a test that would hang.
func (h *host) recv() (payload []byte, from netip.AddrPort) {
	h.Helper()
	buf := make([]byte, 65536)
	h.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, from, err := h.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		h.Fatal(err)
	}
	return buf[:n], from
}

// none holds that the worker has sent this host nothing: it sends itself a mark,
// which anything sent before it would precede.
func (h *host) none() {
	h.Helper()
	mark := []byte("mark")
	if _, err := h.conn.WriteToUDPAddrPort(mark, netip.AddrPortFrom(ipv4Address(h.addr), h.cfg.ServerPort)); err != nil {
		h.Fatal(err)
	}
	if got, from := h.recv(); !bytes.Equal(got, mark) {
		h.Errorf("%s got %x from %s", ipv4Address(h.addr), got, from)
	}
}

// entries reads payloads until n entries have come, and checks each payload.
func (h *host) entries(n int) (all []wire.Entry) {
	h.Helper()
	for len(all) < n {
		payload, from := h.recv()
		if from.Addr() != ipv4Address(ownAddr) || from.Port() != h.cfg.ClientPort {
			h.Errorf("notification from %s", from)
		}
		var g wire.Groups
		if s := wire.DecodeGroups(payload, &g); s != wire.OK {
			h.Fatalf("notification is %s: %x", s, payload)
		}
		if !h.w.keys.CheckToken(octets4(h.addr), g.Token) {
			h.Error("the token is not valid")
		}
		var e wire.Entry
		for auth, ok := g.Next(&e); ok; auth, ok = g.Next(&e) {
			if !h.w.keys.CheckAuthenticator(octets4(h.addr), e.Client, auth) {
				h.Errorf("the authenticator of %v is not valid", e)
			}
			all = append(all, e)
		}
	}
	if len(all) != n {
		h.Errorf("%d entries came, not %d", len(all), n)
	}
	return all
}

// token and auth are as the worker would give them to the server at addr.
func (r *rig) token(addr uint32) []byte {
	var m [wire.MACLen]byte
	r.w.keys.Token(octets4(addr), &m)
	return m[:]
}

func (r *rig) auth(addr uint32, client conntrack.Addr6) []byte {
	var m [wire.MACLen]byte
	r.w.keys.Authenticator(octets4(addr), octets6(client), &m)
	return m[:]
}

// entry is one with the /96 prefix.
func entry(client conntrack.Addr6, clientPort, mapped uint16) wire.Entry {
	a := rigPool6[0].Addr().As16()
	return wire.Entry{MappedPort: mapped, Prefix: [12]byte(a[:12]), Client: octets6(client), ClientPort: clientPort}
}

// formC is authenticator and entry, then a packet if there is one.
func (r *rig) formC(server uint32, e wire.Entry, packet []byte) []byte {
	return append(wire.AppendEntry(wire.AppendAuthenticator(nil, r.auth(server, address6(e.Client[:]))), &e), packet...)
}

// formA is token and packet.
func (r *rig) formA(server uint32, packet []byte) []byte {
	return append(wire.AppendToken(nil, r.token(server)), packet...)
}

// udp4 is an IPv4 UDP packet, its checksums left out: the handoff worker does
// not look at them.
func udp4(src, dst uint32, sport, dport uint16, payload []byte) []byte {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	binary.BigEndian.PutUint32(p[12:], src)
	binary.BigEndian.PutUint32(p[16:], dst)
	binary.BigEndian.PutUint16(p[20:], sport)
	binary.BigEndian.PutUint16(p[22:], dport)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	return append(p, payload...)
}

// udp6 is its IPv6 counterpart.
func udp6(src, dst [16]byte, sport, dport uint16, payload []byte) []byte {
	p := make([]byte, 48, 48+len(payload))
	p[0], p[6], p[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(p[4:], uint16(8+len(payload)))
	copy(p[8:], src[:])
	copy(p[24:], dst[:])
	binary.BigEndian.PutUint16(p[40:], sport)
	binary.BigEndian.PutUint16(p[42:], dport)
	binary.BigEndian.PutUint16(p[44:], uint16(8+len(payload)))
	return append(p, payload...)
}

// within is a server's address in the /96 prefix.
func within(server uint32) (b [16]byte) {
	b = rigPool6[0].Addr().As16()
	binary.BigEndian.PutUint32(b[12:], server)
	return b
}

// capable makes the server known as handoff-capable.
func (h *host) capable() {
	h.Helper()
	replies := h.w.Stats().Replies
	h.send(h.formA(h.addr, udp4(h.addr, ownAddr, h.cfg.ServerPort, 9, nil)))
	h.until("the server becomes capable", func() bool {
		return h.w.Stats().Replies > replies && !h.w.walking.Load() && len(h.w.wanted) == 0 && len(h.w.found) == 0
	})
	if st := h.cfg.Servers.State(h.addr); st != conntrack.ServerHandoff {
		h.Fatalf("the server is %s", st)
	}
}

func contains(all []wire.Entry, e wire.Entry) bool { return slices.Contains(all, e) }

// needRoot skips what needs raw sockets.
func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a raw socket, for ICMP errors made by hand")
	}
}
