package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"handoff64/handoff/wire"
	"handoff64/tools/lab"
)

// eavesdropper is a host that takes what a NAT64 tells it, and knows its own
// token and authenticators by that: as much as an attacker can have.
type eavesdropper struct {
	address netip.Addr
	socket  net.PacketConn
	token   []byte
	auth    map[netip.Addr][]byte // by client
}

// eavesdrop opens the handoff server's port in a host and waits until it was
// told of the clients.
func (w *world) eavesdrop(host string, clients ...lab.Host) *eavesdropper {
	w.t.Helper()
	e := &eavesdropper{address: w.Address(host, "eth0"), auth: make(map[netip.Addr][]byte)}
	var err error
	e.socket, err = w.Host(host).ListenPacket("udp4", netip.AddrPortFrom(e.address, controlPort).String())
	w.must(err)
	w.t.Cleanup(func() { e.socket.Close() })
	for _, c := range clients {
		conn := w.dial(c, "udp", 0, netip.AddrPortFrom(lab.Embed(e.address), 33333).String())
		_, err := conn.Write([]byte("hello"))
		w.must(err)
	}
	buf := make([]byte, 2048)
	for len(e.auth) < len(clients) {
		w.must(e.socket.SetReadDeadline(time.Now().Add(onceWait)))
		n, _, err := e.socket.ReadFrom(buf)
		w.must(err)
		var g wire.Groups
		if s := wire.DecodeGroups(buf[:n], &g); s != wire.OK {
			w.t.Fatalf("a notification that is none: %v: %x", s, buf[:n])
		}
		var entry wire.Entry
		for {
			auth, ok := g.Next(&entry)
			if !ok {
				break
			}
			e.auth[netip.AddrFrom16(entry.Client)] = slices.Clone(auth)
		}
		e.token = slices.Clone(g.Token)
	}
	return e
}

// state is all that a control packet could change.
func (w *world) state() string {
	w.t.Helper()
	var lines []string
	for name, s := range w.mappings(w.d) {
		lines = append(lines, fmt.Sprintln(name, s.Mapped, s.Origin))
	}
	bindings, err := w.d.Bindings(w.ctx)
	w.must(err)
	for _, b := range bindings {
		lines = append(lines, fmt.Sprintln(b.Client, b.Mapped, b.Static, b.Sessions))
	}
	known, err := w.d.Servers(w.ctx)
	w.must(err)
	for _, s := range known {
		lines = append(lines, fmt.Sprintln(s.Server, s.State, s.Entries))
	}
	status, err := w.d.Status(w.ctx)
	w.must(err)
	slices.Sort(lines)
	counts := w.stats().Handoff
	return strings.Join(lines, "") + fmt.Sprintln(status.Handoff, counts.Replies, counts.EntriesCached, counts.EntriesPurged)
}

// attack is one forged control packet.
type attack struct {
	name    string
	payload []byte
}

// attacks are what the server e can send, and what it can have learnt from a
// second server, against two clients.
func attacks(e, other *eavesdropper, client, stranger netip.Addr) []attack {
	auth, foreign := e.auth[client], other.auth[client]
	from := netip.AddrPortFrom(lab.Embed(e.address), 53)
	entry := func(mapped uint16, prefix netip.Prefix, a netip.Addr) []byte {
		return wire.AppendEntry(nil, &wire.Entry{MappedPort: mapped, Prefix: [12]byte(prefix.Addr().AsSlice()[:12]), Client: a.As16(), ClientPort: 4000})
	}
	good4 := embedded4(e.address, lab.Pool4, 17, udp4(netip.AddrPortFrom(e.address, 53), netip.AddrPortFrom(lab.Pool4, 2000), []byte("x")))
	foreign4 := embedded4(other.address, lab.Pool4, 17, udp4(netip.AddrPortFrom(other.address, 53), netip.AddrPortFrom(lab.Pool4, 2000), nil))
	elsewhere4 := embedded4(e.address, other.address, 17, udp4(netip.AddrPortFrom(e.address, 53), netip.AddrPortFrom(other.address, 2000), nil))
	to := func(a netip.Addr) []byte { return embedded6(from, netip.AddrPortFrom(a, 4000), []byte("x")) }
	wrong := slices.Clone(e.token)
	wrong[len(wrong)-1] ^= 1
	old := slices.Clone(e.token)
	old[0]++ // a key that is not there
	right := entry(5000, lab.Pool6, client)
	all := []attack{
		{"no token", good4},
		{"wrong token", slices.Concat(wire.AppendToken(nil, wrong), good4)},
		{"token of an unknown key", slices.Concat(wire.AppendToken(nil, old), good4)},
		{"token of no octets", slices.Concat(wire.AppendToken(nil, nil), good4)},
		{"token of another server", slices.Concat(wire.AppendToken(nil, other.token), good4)},
		{"authenticator as token", slices.Concat(wire.AppendToken(nil, auth), good4)},
		{"token alone", wire.AppendToken(nil, e.token)},
		{"packet of another server", slices.Concat(wire.AppendToken(nil, e.token), foreign4)},
		{"packet to somebody else", slices.Concat(wire.AppendToken(nil, e.token), elsewhere4)},
		{"entry without authenticator", right},
		{"entry with token only", slices.Concat(wire.AppendToken(nil, e.token), right)},
		{"token as authenticator", slices.Concat(wire.AppendAuthenticator(nil, e.token), right)},
		{"authenticator of another server", slices.Concat(wire.AppendAuthenticator(nil, foreign), right)},
		{"entry for another client", slices.Concat(wire.AppendAuthenticator(nil, auth), entry(5000, lab.Pool6, stranger))},
		{"entry with a foreign prefix", slices.Concat(wire.AppendAuthenticator(nil, auth), entry(5000, lab.SecondPool6, client))},
		{"translated packet with a foreign source", slices.Concat(wire.AppendAuthenticator(nil, auth),
			embedded6(netip.AddrPortFrom(lab.Embed(other.address), 53), netip.AddrPortFrom(client, 4000), nil))},
		{"translated packet from outside the prefix", slices.Concat(wire.AppendAuthenticator(nil, auth),
			embedded6(netip.AddrPortFrom(stranger, 53), netip.AddrPortFrom(client, 4000), nil))},
		{"translated packet to another client", slices.Concat(wire.AppendAuthenticator(nil, auth), to(stranger))},
		{"translated packet without authenticator", to(client)},
		{"entry cut off", slices.Concat(wire.AppendAuthenticator(nil, auth), right[:20])},
		{"packet cut off", slices.Concat(wire.AppendAuthenticator(nil, auth), right, good4[:30])},
		{"unknown format", slices.Concat(wire.AppendToken(nil, e.token), []byte{0x50, 0}, good4)},
		{"nothing", nil},
	}
	for _, port := range []uint16{0, 1023, 3544, controlPort} {
		all = append(all, attack{fmt.Sprint("mapped port ", port), slices.Concat(wire.AppendAuthenticator(nil, auth), entry(port, lab.Pool6, client))})
	}
	return all
}

// What a server may not say changes nothing: neither from its own address nor
// from anybody who pretends to be it.
func TestHandoffAttacksOnNat64d(t *testing.T) {
	w := routed(t)
	w.forgeable("server2")
	client, stranger := w.Client(), w.Address("client2", "eth0")
	e := w.eavesdrop("server", w.client)
	other := w.eavesdrop("server2", w.client, w.Host("client2"))
	f := w.plainFlows(9000, 2)
	time.Sleep(200 * time.Millisecond) // the notifications of all that exists are out
	forge := w.forger(w.Host("server2"))
	before, port := w.state(), netip.AddrPortFrom(lab.Pool4, controlPort)
	own, ownPort := w.forger(w.server), netip.AddrPortFrom(e.address, controlPort)

	invalid := w.stats().Handoff.Invalid
	expect := func(name string) {
		t.Helper()
		invalid++
		w.eventually("it is counted: "+name, 5*time.Second, func() error {
			if got := w.stats().Handoff.Invalid; got != invalid {
				return fmt.Errorf("invalid is %d, want %d", got, invalid)
			}
			return nil
		})
		if after := w.state(); after != before {
			t.Fatalf("%s: was\n%sis\n%s", name, before, after)
		}
	}
	for _, a := range attacks(e, other, client, stranger) {
		w.must(own.udp(ownPort, port, a.payload))
		expect(a.name)
		w.must(forge.udp(ownPort, port, a.payload))
		expect(a.name + ", forged by another")
	}
	// What would be right, but for where it comes from.
	right := slices.Concat(wire.AppendAuthenticator(nil, e.auth[client]),
		wire.AppendEntry(nil, &wire.Entry{MappedPort: 5000, Prefix: [12]byte(lab.Pool6.Addr().AsSlice()[:12]), Client: client.As16(), ClientPort: 4000}))
	w.must(own.udp(netip.AddrPortFrom(e.address, controlPort+1), port, right))
	expect("a source port that is not the server's")
	w.must(forge.udp(netip.AddrPortFrom(other.address, controlPort), port, right))
	expect("another server with what it overheard")
	w.flowsGoOn(f, bothWays, "under attack")
	w.must(f.Finish())
	// And the control: the right packet from the right place does count.
	w.must(own.udp(ownPort, port, right))
	w.eventually("the server is known", 5*time.Second, func() error {
		known, err := w.d.Servers(w.ctx)
		if err == nil && known[e.address.String()].State != "handoff" {
			err = fmt.Errorf("it is taken for %+v", known)
		}
		return err
	})
}

// garbage makes payloads that no key of the NAT64's has signed.
func garbage(e *eavesdropper, client netip.Addr) []byte {
	b := make([]byte, rand.IntN(600))
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	mac := slices.Clone(e.token)
	mac[rand.IntN(len(mac))] ^= 1 << rand.IntN(8)
	switch rand.IntN(5) {
	case 0: // nothing but noise
		return b
	case 1: // noise that begins as a message or packet does
		if len(b) > 1 {
			b[0] = []byte{0x34, 0x36, 0x37, 0x45, 0x60}[rand.IntN(5)]
		}
		return b
	case 2: // messages of the right form
		return slices.Concat(wire.AppendToken(nil, mac), embedded4(e.address, lab.Pool4, 17, b))
	case 3:
		entry := wire.Entry{MappedPort: uint16(rand.Uint32()), Prefix: [12]byte(lab.Pool6.Addr().AsSlice()[:12]), Client: client.As16(), ClientPort: uint16(rand.Uint32())}
		return wire.AppendEntry(wire.AppendAuthenticator(nil, mac), &entry)
	}
	return slices.Concat(wire.AppendAuthenticator(nil, mac), b)
}

// Garbage in any amount leaves nat64d alive and its state as it was; each
// datagram is counted, by nat64d or as one too many by the kernel.
func TestHandoffGarbageToNat64d(t *testing.T) {
	shorter(t, "handoff.garbage", *handoffGarbage, 10_000_000)
	w := plain(t)
	e := w.eavesdrop("server", w.client)
	f := w.plainFlows(9000, 2)
	time.Sleep(200 * time.Millisecond)
	own := w.forger(w.server)
	before, invalid, from := w.state(), w.stats().Handoff.Invalid, netip.AddrPortFrom(e.address, controlPort)
	for i := range *handoffGarbage {
		w.must(own.udp(from, netip.AddrPortFrom(lab.Pool4, controlPort), garbage(e, w.Client())))
		if i%64 == 63 {
			time.Sleep(time.Millisecond) // two cores carry sender, link and receiver
		}
	}
	w.eventually("all of it is counted", 30*time.Second, func() error {
		overrun, err := overruns(w.nat64, controlPort)
		if got := w.stats().Handoff.Invalid - invalid + overrun; err == nil && got != uint64(*handoffGarbage) {
			err = fmt.Errorf("%d of %d, %d of them by the kernel", got, *handoffGarbage, overrun)
		}
		return err
	})
	if after := w.state(); after != before {
		t.Errorf("was\n%sis\n%s", before, after)
	}
	w.flowsGoOn(f, bothWays, "after the garbage")
	w.must(f.Finish())
}

// overruns is how many datagrams the sockets on a port of a host had no room
// for (the last column of /proc/net/udp).
func overruns(h lab.Host, port uint16) (sum uint64, err error) {
	err = h.Enter(func() error {
		file, err := os.Open("/proc/thread-self/net/udp")
		if err != nil {
			return err
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			n, err := strconv.ParseUint(f[12], 10, 64)
			if err != nil {
				return fmt.Errorf("drops of a socket: %w", err)
			}
			sum += n
		}
		return nil
	})
	return sum, err
}

// exposure is what went to an address and what it sent back.
type exposure struct{ packetsIn, octetsIn, packetsOut, octetsOut int }

// exposed adds up a capture on the link of an address.
func exposed(file string, address netip.Addr, counts func(packet4) bool) (x exposure, err error) {
	err = eachIPv4(file, func(p packet4) {
		switch {
		case !counts(p):
		case p.dst == address:
			x.packetsIn, x.octetsIn = x.packetsIn+1, x.octetsIn+p.octets
		case p.src == address:
			x.packetsOut, x.octetsOut = x.packetsOut+1, x.octetsOut+p.octets
		}
	})
	return x, err
}

// below expects that less came out than went in, and that there was something.
func (x exposure) below(t *testing.T, what string) {
	t.Helper()
	t.Logf("%s: %d packets of %d octets in, %d of %d out: factors %.2f and %.2f", what, x.packetsIn, x.octetsIn, x.packetsOut, x.octetsOut,
		float64(x.packetsOut)/float64(x.packetsIn), float64(x.octetsOut)/float64(x.octetsIn))
	if x.packetsOut >= x.packetsIn || x.octetsOut >= x.octetsIn {
		t.Errorf("%s: what comes out is not less than what goes in: %+v", what, x)
	}
	if x.packetsOut == 0 {
		t.Errorf("%s: nothing comes out at all, so nothing was measured", what)
	}
}

// forgeable lets a host send packets with any source through the router.
func (w *world) forgeable(host string) {
	w.t.Helper()
	for _, name := range []string{"all", host} {
		w.must(w.Host("r4").SetSysctl("ipv4/conf/"+name+"/rp_filter", "0"))
	}
}

// victimOf is somebody in whose name packets are forged: addresses of the second
// server's link that nobody has, so that nothing of what they get goes on.
func victimOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(20 + i%200)}), uint16(1024+i))
}

// Strangers' packets to ports that nobody has go back to whoever they claim to
// be from, for that might be a handoff server: but fewer and smaller.
func TestHandoffNat64dIsNoReflector(t *testing.T) {
	needRoot(t)
	for _, size := range []int{0, 8, 100, 600, 1200, 1472} {
		t.Run(fmt.Sprintf("%d octets", size), func(t *testing.T) {
			w := routed(t, handoffSet("stranger_packets_per_second", 100_000))
			w.forgeable("server2")
			captured := w.record(w.Host("r4"), "nat64")
			forge := w.forger(w.Host("server2"))
			victims := make(map[netip.Addr]bool)
			for i := range 2000 {
				victim := victimOf(i)
				victims[victim.Addr()] = true
				to := netip.AddrPortFrom(lab.Pool4, uint16(20_000+i))
				if i%2 == 0 {
					w.must(forge.udp(victim, to, noise(size)))
				} else {
					w.must(forge.send(victim.Addr(), to.Addr(), 6, tcp4(victim, to, 2, noise(max(size-12, 0)))))
				}
				if i%16 == 15 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			w.eventually("all have arrived", 10*time.Second, func() error {
				if s := w.stats(); s.RX.IPv4.Packets < 2000 {
					return fmt.Errorf("%d", s.RX.IPv4.Packets)
				}
				return nil
			})
			time.Sleep(100 * time.Millisecond) // what comes of it comes
			x, err := exposed(captured(), lab.Pool4, func(p packet4) bool { return victims[p.src] || victims[p.dst] })
			w.must(err)
			x.below(t, "nat64d")
		})
	}
}

// The same for handoffd: tokens that it does not know make it ask, and that
// is less than what was sent.
func TestHandoffdIsNoReflector(t *testing.T) {
	w := routed(t)
	w.forgeable("server2")
	h := w.handoffd("server")
	captured := w.record(w.server, "eth0")
	forge := w.forger(w.Host("server2"))
	to := netip.AddrPortFrom(w.Server(), controlPort)
	victims := make(map[netip.Addr]bool)
	for i := range 2000 {
		victim := victimOf(i)
		victims[victim.Addr()] = true
		token := make([]byte, 18)
		binary.BigEndian.PutUint64(token, rand.Uint64())
		b := wire.AppendToken(nil, token)
		entry := wire.Entry{MappedPort: 5000, Prefix: [12]byte(lab.Pool6.Addr().AsSlice()[:12]), Client: w.Client().As16(), ClientPort: 4000}
		switch i % 3 {
		case 0: // a notification
			b = wire.AppendEntry(wire.AppendAuthenticator(wire.AppendIdentifier(b), token), &entry)
		case 1: // a query
			b = append(wire.AppendAuthenticator(b, token), embedded6(netip.AddrPortFrom(w.Client(), 4000), netip.AddrPortFrom(lab.Embed(w.Server()), 53), noise(i%500))...)
		case 2: // a packet to return
			b = append(b, embedded4(w.Server(), victim.Addr(), 17, udp4(netip.AddrPortFrom(w.Server(), 53), victim, noise(i%500)))...)
		}
		w.must(forge.udp(victim, to, b))
		if i%16 == 15 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	w.eventually("all have arrived", 10*time.Second, func() error {
		status, err := h.Status(w.ctx)
		if err == nil && status.Counters.Received < 2000 {
			err = fmt.Errorf("%d", status.Counters.Received)
		}
		return err
	})
	status, err := h.Status(w.ctx)
	w.must(err)
	if status.Entries != 0 || status.NAT64s != 0 || status.Counters.Created != 0 {
		t.Errorf("handoffd believes in %d NAT64s and %d entries", status.NAT64s, status.Entries)
	}
	w.knock(w.Server())
	x, err := exposed(captured(), w.Server(), func(p packet4) bool { return victims[p.src] || victims[p.dst] })
	w.must(err)
	x.below(t, "handoffd")
}
