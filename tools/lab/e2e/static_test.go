package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// clientAddr is the first client's address in every lab.
const clientAddr = "2001:db8:1::10"

// static adds a mapping of the client's port to one of the pool's.
func static(protocol string, clientPort, mappedPort int) func(map[string]any) {
	return func(config map[string]any) {
		entries, _ := config["static_bib"].([]map[string]any)
		config["static_bib"] = append(entries, map[string]any{
			"protocol": protocol,
			"ipv6":     fmt.Sprintf("[%s]:%d", clientAddr, clientPort),
			"ipv4":     fmt.Sprintf("%s:%d", lab.Pool4, mappedPort),
		})
	}
}

// pool4 gives the pool other ports.
func pool4(ports string) func(map[string]any) {
	return func(config map[string]any) {
		config["pool4"] = []map[string]any{{"address": lab.Pool4.String(), "ports": ports}}
	}
}

// reachable checks that the server reaches the client's TCP and UDP echo
// through the pool's address.
func (w *world) reachable(tcpPort, udpPort uint16) {
	w.t.Helper()
	c := w.dial(w.server, "tcp", 0, netip.AddrPortFrom(lab.Pool4, tcpPort).String())
	w.must(say(w.ctx, c, "from IPv4"))
	u := w.dial(w.server, "udp", 0, netip.AddrPortFrom(lab.Pool4, udpPort).String())
	for _, n := range []int{0, 1, 1000, 1452} {
		w.must(traffic.Exchange(u, noise(n)))
	}
}

func TestStaticBIBReachedFromIPv4(t *testing.T) {
	t.Parallel()
	// One mapping inside the range of ports, one below it.
	w := plain(t, static("tcp", 8080, 80), static("udp", 5353, 2000), static("icmp", 77, 88))
	w.echoTCP(w.client, "[::]:8080")
	w.echoUDP(w.client, "udp6", "[::]:5353")
	w.reachable(80, 2000)

	p, err := traffic.NewPinger(w.server, "ip4", 88)
	w.must(err)
	defer p.Close()
	for _, size := range []int{0, 56, 1400} {
		a, err := p.Ping(w.ctx, lab.Pool4, size, 0)
		w.must(err)
		// The client is two hops away: the translator is a router.
		if !a.Reply() || a.From != lab.Pool4 || a.HopLimit != 63 {
			t.Errorf("ping of %d octets: %+v", size, a)
		}
	}
	bindings, err := w.d.Bindings(w.ctx)
	w.must(err)
	for _, protocol := range []string{"tcp", "udp", "icmp"} {
		if !slices.ContainsFunc(bindings, func(b lab.Binding) bool { return b.Protocol == protocol && b.Static }) {
			t.Errorf("no static %s mapping in the list: %+v", protocol, bindings)
		}
	}
}

func TestBIBAddAndRemoveAtRunTime(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.echoTCP(w.client, "[::]:8080")
	w.echoUDP(w.client, "udp6", "[::]:8080")
	unreachable := func(when string) {
		t.Helper()
		c, err := dialFrom(w.ctx, w.server, "udp", 0, netip.AddrPortFrom(lab.Pool4, 3000).String())
		w.must(err)
		defer c.Close()
		if answer, err := ask(c); err == nil {
			t.Errorf("%s: the client answers %q", when, answer)
		}
	}
	unreachable("before it is added")
	for _, protocol := range []string{"tcp", "udp"} {
		_, err := w.d.Ctl(w.ctx, "bib", "add", protocol, "["+clientAddr+"]:8080", lab.Pool4.String()+":3000")
		w.must(err)
	}
	w.reachable(3000, 3000)
	for _, protocol := range []string{"tcp", "udp"} {
		_, err := w.d.Ctl(w.ctx, "bib", "remove", protocol, lab.Pool4.String()+":3000")
		w.must(err)
	}
	unreachable("after it is removed")
	bindings, err := w.d.Bindings(w.ctx)
	w.must(err)
	if slices.ContainsFunc(bindings, func(b lab.Binding) bool { return b.Static }) {
		t.Errorf("still listed after the removal: %+v", bindings)
	}
	// What does not exist cannot be removed, and nat64ctl says so.
	if _, err := w.d.Ctl(w.ctx, "bib", "remove", "tcp", lab.Pool4.String()+":3000"); err == nil {
		t.Error("removing a mapping twice succeeds")
	}
}

// Two clients of the translator reach each other by way of the pool's address
// (RFC 6146 §3.8).
func TestHairpin(t *testing.T) {
	t.Parallel()
	w := routed(t, static("tcp", 8080, 80), static("udp", 8080, 80))
	w.echoTCP(w.client, "[::]:8080")
	w.echoUDP(w.client, "udp6", "[::]:8080")
	for _, h := range []lab.Host{w.Host("client2"), w.client} {
		to := netip.AddrPortFrom(lab.Embed(lab.Pool4), 80).String()
		c := w.dial(h, "tcp", 0, to)
		w.must(say(w.ctx, c, h.Name))
		u := w.dial(h, "udp", 0, to)
		w.must(traffic.Exchange(u, noise(1200)))
	}
	if s := w.stats(); s.Translated.Hairpin == 0 {
		t.Errorf("nothing is counted as hairpinned: %+v", s.Translated)
	}
}
