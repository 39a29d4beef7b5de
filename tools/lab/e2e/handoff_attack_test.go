package e2e

import (
	"bufio"
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
	t.Parallel()
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
	t.Parallel()
	shorter(t, "handoff.garbage", *handoffGarbage, 10_000_000)
	// What is idle for as long as the long form takes must not expire meanwhile.
	w := plain(t, func(config map[string]any) { config["timeouts"] = map[string]any{"udp": "12h"} })
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
