package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// adoptedAs is adopted with a handoffd that has further flags.
func (w *world) adoptedAs(args ...string) *lab.Handoffd {
	w.t.Helper()
	h := w.Handoffd("server", built)
	h.Args = args
	w.must(h.Start(w.ctx))
	w.t.Cleanup(func() {
		if w.t.Failed() && h.Running() {
			said, err := h.Run(context.Background(), "status")
			w.t.Logf("status (%v): %s", err, said)
		}
		if h.Running() {
			if err := h.Stop(); err != nil {
				w.t.Error(err)
			}
		}
		if w.t.Failed() {
			w.t.Logf("log of handoffd:\n%s", h.Log())
		}
	})
	w.becomes(w.d, w.Server(), "handoff")
	return h
}

// A client of a server in local-nat mode has an address of the pool for itself,
// with its own ports, and the server's log says who that is.
func TestLocalNAT(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adoptedAs("--mode", "local-nat")
	from := tuples([]netip.Addr{w.Client()}, 41_000, 5)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	pool := netip.MustParsePrefix("100.64.0.0/16")
	for client, mapped := range w.meetAll(w.client, from, netip.MustParseAddrPort(w.embedded(7))) {
		if !pool.Contains(mapped.Addr()) || mapped.Port() != client.Port() {
			t.Errorf("%s is seen as %s", client, mapped)
		}
		if got, err := h.Lookup(w.ctx, mapped.String()); err != nil || got != client.String() {
			t.Errorf("lookup %s: %q (%v), want %s", mapped, got, err, client)
		}
		text, err := os.ReadFile(h.EventLog())
		w.must(err)
		if want := fmt.Sprintf(" Created %s:0 [%s]:0\n", mapped.Addr(), client.Addr()); strings.Count(string(text), want) != 1 {
			t.Errorf("the log does not have one line %q:\n%s", want, text)
		}
	}
	said, err := w.client.Output(w.ctx, "ping", "-c", "3", "-i", "0.2", "-W", "2", lab.Embed(w.Server()).String())
	w.must(err)
	if !strings.Contains(said, " 0% packet loss") {
		t.Errorf("ping: %s", said)
	}
}

// fragments is how many IPv4 fragments a host has received and made.
func (w *world) fragments(h lab.Host) (received, made int) {
	w.t.Helper()
	text, err := h.Output(w.ctx, "cat", "/proc/net/snmp")
	w.must(err)
	var names, values []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); f[0] == "Ip:" {
			names, values = values, f
		}
	}
	count := func(name string) (n int) {
		i := slices.Index(names, name)
		if i < 0 {
			w.t.Fatalf("no %s in %q", name, text)
		}
		n, err := strconv.Atoi(values[i])
		w.must(err)
		return n
	}
	return count("ReasmReqds"), count("FragCreates")
}

// TCP at full speed, both ways at once, in each mode: every octet arrives, and no
// control datagram is ever fragmented.
func TestTranslatingModesCarryTCP(t *testing.T) {
	for _, mode := range []string{"local-nat", "mixed"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := plain(t)
			w.adoptedAs("--mode", mode)
			receivedBefore, madeBefore := w.fragments(w.server)
			f := w.flows(w.client, w.server, netip.AddrPortFrom(w.Server(), 5001), lab.Pool6, 4)
			w.eventually("every flow has carried 4 MB", time.Minute, func() error {
				for i, n := range f.Checked() {
					if n < 4<<20 {
						return fmt.Errorf("flow %d has carried %d octets (%v)", i, n, f.Err())
					}
				}
				return nil
			})
			w.must(f.Finish())
			if received, made := w.fragments(w.server); received != receivedBefore || made != madeBefore {
				t.Errorf("the server received %d fragments and made %d", received-receivedBefore, made-madeBefore)
			}
			if entries := w.mappings(w.d); len(entries) != 0 {
				t.Logf("sessions at the NAT64: %v", entries)
			}
		})
	}
}

// In mixed mode local programs see the NAT64's address, although nothing is in
// the NAT64's cache.
func TestMixed(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adoptedAs("--mode", "mixed")
	from := tuples([]netip.Addr{w.Client()}, 41_000, 5)
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	for client, mapped := range w.meetAll(w.client, from, netip.MustParseAddrPort(w.embedded(7))) {
		if got, err := h.Lookup(w.ctx, mapped.String()); mapped.Addr() != lab.Pool4 || err != nil || got != client.String() {
			t.Errorf("%s is seen as %s, lookup says %q (%v)", client, mapped, got, err)
		}
	}
}

// Pings and datagrams that are too big for one packet, or for one control
// datagram, arrive in each mode.
func TestTranslatingModesCarrySizes(t *testing.T) {
	for _, mode := range []string{"local-nat", "mixed"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := plain(t)
			w.adoptedAs("--mode", mode)
			address := w.embedded(4000)
			c, err := traffic.EchoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 4000).String())
			w.must(err)
			defer c.Close()
			client, err := w.client.DialContext(w.ctx, "udp", address)
			w.must(err)
			defer client.Close()
			for _, size := range []int{10, 1200, 1400, 1452, 1500, 4000} {
				payload := make([]byte, size)
				for i := range payload {
					payload[i] = byte(i)
				}
				// The first of a size may end as a Packet Too Big.
				w.eventually(fmt.Sprintf("%d octets and back", size), 20*time.Second, func() error {
					return traffic.Exchange(client, payload)
				})
			}
		})
	}
}

// Connections survive changes of the mode, kill -9 of handoffd in each of them,
// and kill -9 of nat64d.
func TestModesChangeUnderConnections(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adoptedAs("--mode-changes")
	all := map[string]*traffic.Flows{"minimal": w.plainFlows(5001, 2)}
	for i, mode := range []string{"local-nat", "minimal", "mixed", "local-nat"} {
		_, err := h.Run(w.ctx, "mode", mode)
		w.must(err)
		for of, f := range all {
			w.flowsGoOn(f, bothWays, fmt.Sprintf("of %s in mode %s", of, mode))
		}
		all[fmt.Sprint(mode, i)] = w.plainFlows(uint16(5002+i), 2)
	}
	w.must(h.Kill())
	h.Args = []string{"--mode-changes", "--mode", "local-nat"}
	w.must(h.Start(w.ctx))
	for of, f := range all {
		w.flowsGoOn(f, bothWays, "of "+of+" after kill -9 of handoffd")
	}
	w.must(w.d.Kill())
	w.must(w.d.Start(w.ctx))
	for of, f := range all {
		w.flowsGoOn(f, bothWays, "of "+of+" after kill -9 of nat64d")
		w.must(f.Finish())
	}
}

// Protocols without ports that no NAT64 carries: GRE, ESP, SCTP and one of the
// numbers for experiments, there and back.
func TestTranslatingModesCarryAnyProtocol(t *testing.T) {
	for _, mode := range []string{"local-nat", "mixed"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := plain(t)
			w.adoptedAs("--mode", mode)
			for _, protocol := range []int{47, 50, 132, 253} {
				l, err := w.server.ListenPacket(fmt.Sprintf("ip4:%d", protocol), w.Server().String())
				w.must(err)
				defer l.Close()
				go func() {
					buf := make([]byte, 2048)
					for {
						n, from, err := l.ReadFrom(buf)
						if err != nil {
							return
						}
						if _, err := l.WriteTo(buf[:n], from); err != nil {
							t.Error(err)
						}
					}
				}()
				c, err := w.client.DialContext(w.ctx, fmt.Sprintf("ip6:%d", protocol), lab.Embed(w.Server()).String())
				w.must(err)
				defer c.Close()
				w.must(traffic.Exchange(c, []byte(fmt.Sprintf("protocol %d in mode %s", protocol, mode))))
			}
		})
	}
}
