package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

// dialFrom opens a connection of a host from a port of its choice.
func dialFrom(ctx context.Context, h lab.Host, network string, port int, address string) (net.Conn, error) {
	var local net.Addr = &net.UDPAddr{Port: port}
	if network == "tcp" {
		local = &net.TCPAddr{Port: port}
	}
	return h.DialFrom(ctx, net.Dialer{LocalAddr: local}, network, address)
}

// dial is dialFrom for a test that cannot go on without.
func (w *world) dial(h lab.Host, network string, port int, address string) net.Conn {
	w.t.Helper()
	c, err := dialFrom(w.ctx, h, network, port, address)
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// noise is a payload of n octets.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// echoUDP starts a UDP echo for the length of the test.
func (w *world) echoUDP(h lab.Host, network, address string) {
	w.t.Helper()
	echo, err := traffic.EchoUDP(h, network, address)
	w.must(err)
	w.t.Cleanup(func() { echo.Close() })
}

func TestUDPEverySize(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	// 1452 octets, 8 of UDP and 40 of IPv6 fill the client's link.
	for n := 0; n <= 1452; n++ {
		w.must(traffic.Exchange(c, noise(n)))
	}
	if s := w.stats(); s.Translated.V6ToV4 < 1453 || s.Translated.V4ToV6 < 1453 {
		t.Errorf("echoed 1453 datagrams, translated %+v", s.Translated)
	}
}

// observer is a UDP server that answers with the address it was called from.
func (w *world) observer(h lab.Host, address string) {
	w.t.Helper()
	c, err := h.ListenPacket("udp4", address)
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			// A lost answer is asked for again.
			_, _ = c.WriteTo([]byte(from.String()), from)
		}
	}()
}

// observed asks an observer for the address of a connection.
func (w *world) observed(c net.Conn) netip.AddrPort {
	w.t.Helper()
	got, err := ask(c)
	w.must(err)
	a, err := netip.ParseAddrPort(got)
	w.must(err)
	return a
}

func TestTwoClientsWithTheSameSourcePort(t *testing.T) {
	t.Parallel()
	w := routed(t)
	server := netip.AddrPortFrom(w.Server(), 7).String()
	w.observer(w.server, server)
	peers := w.echoTCP(w.server, server)
	clients := []lab.Host{w.client, w.Host("client2")}
	var udp, tcp []netip.AddrPort
	var conns []net.Conn
	for _, h := range clients {
		c := w.dial(h, "udp", 40000, w.embedded(7))
		conns = append(conns, c)
		udp = append(udp, w.observed(c))
		stream := w.dial(h, "tcp", 40000, w.embedded(7))
		w.must(say(w.ctx, stream, h.Name))
		tcp = append(tcp, <-peers)
	}
	for _, pair := range [][]netip.AddrPort{udp, tcp} {
		if pair[0] == pair[1] {
			t.Errorf("both clients appear as %s", pair[0])
		}
		for _, a := range pair {
			if a.Addr() != lab.Pool4 {
				t.Errorf("a client appears as %s, not as %s", a, lab.Pool4)
			}
		}
	}
	// Each answer still finds its own client once both exist.
	for i, c := range conns {
		if again := w.observed(c); again != udp[i] {
			t.Errorf("%s appeared as %s, now as %s", clients[i].Name, udp[i], again)
		}
	}
	// A handoff entry has no protocol field, so the mapping is the same for
	// TCP and UDP.
	for i := range clients {
		if udp[i] != tcp[i] {
			t.Errorf("%s appears as %s over UDP and as %s over TCP", clients[i].Name, udp[i], tcp[i])
		}
	}
}

// RFC 4787 REQ-1: one mapping for all that a client's port talks to.
func TestEndpointIndependentMapping(t *testing.T) {
	t.Parallel()
	w := routed(t)
	server2 := w.Address("server2", "eth0")
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	w.observer(w.Host("server2"), netip.AddrPortFrom(server2, 7).String())
	socket, err := w.client.ListenPacket("udp6", "[::]:40001")
	w.must(err)
	defer socket.Close()
	var seen []string
	for _, server := range []netip.Addr{w.Server(), server2} {
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.Embed(server), 7))
		answer, err := askFrom(socket, to)
		w.must(err)
		seen = append(seen, answer)
	}
	if seen[0] != seen[1] {
		t.Errorf("one port of the client appears as %s and as %s", seen[0], seen[1])
	}
}

func TestUDPPortUnreachable(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, tc := range map[string]struct{ from string }{
		"the server's error reaches the client": {from: "client"},
		"the client's error reaches the server": {from: "server"},
	} {
		t.Run(name, func(t *testing.T) {
			w := routed(t, static("udp", 5000, 6000))
			host, address := w.client, w.embedded(4444)
			if tc.from == "server" {
				host, address = w.server, fmt.Sprintf("%s:6000", lab.Pool4)
			}
			// Nobody listens at the other end.
			c := w.dial(host, "udp", 0, address)
			if _, err := ask(c); !isRefused(err) {
				t.Errorf("error is %v, want connection refused", err)
			}
		})
	}
}
