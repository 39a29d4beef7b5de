package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"handoff64/tools/lab"
)

// An exclusive address is the NAT64's alone, but for its control channel; the
// box keeps the addresses that are its own.
func TestExclusive(t *testing.T) {
	t.Parallel()
	w := routed(t, func(c map[string]any) { c["exclusive"] = true })
	for _, a := range []netip.Addr{lab.Pool4, lab.Nat64IPv4} {
		w.echoTCP(w.nat64, netip.AddrPortFrom(a, 22).String())
	}
	ssh := func(to netip.Addr) error {
		c, err := dialFrom(w.ctx, w.server, "tcp", 0, netip.AddrPortFrom(to, 22).String())
		if err != nil {
			return err
		}
		defer c.Close()
		return say(w.ctx, c, "login")
	}
	w.must(ssh(lab.Nat64IPv4))
	before := w.stats().Drops["no_mapping"]
	p := w.pinger(w.server, "ip4", 0)
	a, err := p.Ping(w.ctx, lab.Pool4, 56, 0)
	if err != nil || a.Type != ipv4.ICMPTypeDestinationUnreachable {
		t.Errorf("ping to the exclusive address: %+v, %v; want Host Unreachable", a, err)
	}
	if after := w.stats().Drops["no_mapping"]; after == before {
		t.Error("the ping was not dropped as no_mapping")
	}
	if a, err := p.Ping(w.ctx, lab.Nat64IPv4, 56, 0); err != nil || !a.Reply() {
		t.Errorf("ping to the box's own address: %+v, %v", a, err)
	}
	// The control channel works, and the NAT64 does.
	hd := w.Handoffd("server", built)
	w.must(hd.Start(w.ctx))
	t.Cleanup(func() { hd.Stop() })
	w.everyProtocol()
	w.eventually("the server speaks handoff", 30*time.Second, func() error {
		all, err := w.d.Servers(w.ctx)
		if err == nil && all[w.Server().String()].State != "handoff" {
			// another client's port asks again
			err = fmt.Errorf("servers: %+v", all)
			w.must(say(w.ctx, w.dial(w.client, "tcp", 0, w.embedded(7)), "again"))
		}
		return err
	})
	if _, err := w.d.Ctl(w.ctx, "set", "exclusive", "false"); err != nil {
		t.Fatal(err)
	}
	w.must(ssh(lab.Pool4))
	if a, err := p.Ping(w.ctx, lab.Pool4, 56, 0); err != nil || !a.Reply() {
		t.Errorf("ping to the address that is shared now: %+v, %v", a, err)
	}
}
