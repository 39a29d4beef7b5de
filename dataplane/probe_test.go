package dataplane

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
)

// probed checks that a packet is RFC 6146's probe for the flow's client.
func probed(t *testing.T, b []byte) {
	t.Helper()
	p := decode(t, b)
	if src, dst, sport, dport := transport(t, p); src != "64:ff9b::c633:640a" || dst != clientA || sport != tcpServerPort || dport != tcpClientPort {
		t.Errorf("from %s %d to %s %d", src, sport, dst, dport)
	}
	c := p.TransportLayer().(*layers.TCP)
	if c.Seq != 0 || c.Ack != 0 || len(c.Payload) != 0 || len(c.Options) != 0 || c.Contents[12] != 0x50 || c.Contents[13] != 0x10 {
		t.Errorf("segment %+v", c)
	}
	ip, e := p.NetworkLayer().(*layers.IPv6), p.LinkLayer().(*layers.Ethernet)
	if ip.HopLimit != 64 || int(ip.Length) != 20 || e.DstMAC.String() != macRouter.String() || e.SrcMAC.String() != macBox6.String() {
		t.Errorf("%+v, %+v", ip, e)
	}
}

// RFC 6146 §3.5.2.2, "ESTABLISHED", the lifetime expires: a probe, and TRANS.
func TestIdleConnectionIsProbed(t *testing.T) {
	f := newTCPFlow(t, setup{})
	f.reach("ESTABLISHED")
	out6, _ := f.until(f.now + tcpTimeouts.TCPEstablished - 1)
	none(t, out6)
	out6, out4 := f.until(f.now + 1)
	none(t, out4)
	if len(out6) != 1 {
		t.Fatalf("%d packets, want the probe", len(out6))
	}
	probed(t, out6[0])
	if state, left := f.session(); state != "TRANS" || left != tcpTimeouts.TCPTransitory {
		t.Errorf("state %s for %d ticks", state, left)
	}
	// The client knows the connection: its acknowledgment goes to the server.
	out6, _ = f.until(f.now + 300)
	none(t, out6)
	if fate := f.segment('6', "A"); fate != "sent" {
		t.Fatalf("the answer was %s", fate)
	}
	if state, left := f.session(); state != "ESTABLISHED" || left != tcpTimeouts.TCPEstablished {
		t.Errorf("state %s for %d ticks", state, left)
	}
	out6, _ = f.until(f.now + tcpTimeouts.TCPEstablished)
	if len(out6) != 1 {
		t.Fatalf("%d probes at the next end", len(out6))
	}
	// It knows it no more: an RST, and the session's time runs out.
	if fate := f.segment('6', "R"); fate != "sent" {
		t.Errorf("the RST was %s", fate)
	}
	if state, left := f.session(); state != "TRANS" || left != tcpTimeouts.TCPTransitory {
		t.Errorf("state %s for %d ticks", state, left)
	}
	out6, _ = f.until(f.now + tcpTimeouts.TCPTransitory)
	none(t, out6)
	if state, _ := f.session(); state != "CLOSED" {
		t.Errorf("state %s in the end", state)
	}
	if c := f.workers[0].Counters(); c.Generated != 2 {
		t.Errorf("%d generated, want both probes", c.Generated)
	}
}

// Without a frame for the probe, or a route, the session takes the same course.
func TestProbeThatCannotBeSent(t *testing.T) {
	for name, s := range map[string]setup{
		"no frame": {},
		"no route": {hops: resolvedHops(nexthop.StaticRoute{Prefix: netip.MustParsePrefix(clientA + "/128"), Hop: nexthop.Hop{State: nexthop.NoRoute}})},
		"failed":   {hops: resolvedHops(nexthop.StaticRoute{Prefix: netip.MustParsePrefix(clientA + "/128"), Hop: nexthop.Hop{State: nexthop.Unresolved, Failed: true}})},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTCPFlow(t, s)
			if name == "no frame" {
				f.reach("ESTABLISHED")
			} else { // the server's segments do not arrive, but count
				f.segment('6', "S")
				f.segment('4', "SA")
			}
			w := f.workers[0]
			var taken []uint64
			for name == "no frame" && w.frames.Len() > 0 {
				a, _ := w.frames.Pop()
				taken = append(taken, a)
			}
			start := f.now
			for f.now = start; f.now < start+tcpTimeouts.TCPEstablished; f.now += 10 {
				w.Poll(f.now)
			}
			w.Poll(f.now)
			for _, a := range taken {
				w.frames.Push(a)
			}
			if state, _ := f.session(); state != "TRANS" {
				t.Errorf("state %s", state)
			}
			out6, _ := f.until(f.now + tcpTimeouts.TCPTransitory)
			none(t, out6)
			if state, _ := f.session(); state != "CLOSED" {
				t.Errorf("state %s in the end", state)
			}
		})
	}
}

// A client whose MAC address was forgotten meanwhile is asked for; the probe
// follows.
func TestProbeWaitsForItsNextHop(t *testing.T) {
	hops := resolvedHops(nexthop.StaticRoute{
		Prefix: netip.MustParsePrefix(clientA + "/128"), Hop: nexthop.Hop{State: nexthop.Resolved, MTU: 1500, Eth: eth(macRouter, macBox6)},
	})
	f := newTCPFlow(t, setup{hops: hops})
	f.reach("ESTABLISHED")
	known := hops.Load()
	hi, lo := hiLo(clientA)
	i := known.Lookup6(hi, lo)
	hops.Publish(known.WithHop(i, nexthop.Hop{State: nexthop.Unresolved, MTU: 1500, Side: nexthop.IPv6}))
	out6, _ := f.until(f.now + tcpTimeouts.TCPEstablished + 10)
	none(t, out6)
	if len(hops.Asked()) == 0 {
		t.Fatal("the kernel was not asked")
	}
	hops.Publish(known)
	out6, _ = f.until(f.now + 1)
	if len(out6) != 1 {
		t.Fatalf("%d packets, want the probe", len(out6))
	}
	probed(t, out6[0])
	// A neighbour that is never found: the probe is given up.
	f.segment('6', "A")
	hops.Publish(known.WithHop(i, nexthop.Hop{State: nexthop.Unresolved, MTU: 1500, Side: nexthop.IPv6}))
	f.until(f.now + tcpTimeouts.TCPEstablished + 2*parkTicks)
	hops.Publish(known)
	out6, _ = f.until(f.now + 10)
	none(t, out6)
	if n := f.workers[0].probes.n; n != 0 {
		t.Errorf("%d probes still wait", n)
	}
}

// The connection that expires belongs to one worker, its segments come to
// another: the owner probes.
func TestOwnerProbes(t *testing.T) {
	f := newTCPFlow(t, setup{workers: 3})
	f.reach("ESTABLISHED")
	out6, _ := f.until(f.now + tcpTimeouts.TCPEstablished)
	if len(out6) != 1 {
		t.Fatalf("%d probes from three workers", len(out6))
	}
	hi, lo := hiLo(clientA)
	owner := f.table.Owner(conntrack.Addr6{Hi: hi, Lo: lo}, tcpClientPort)
	for i, w := range f.workers {
		if want := uint64(0); i == owner {
			want = 1
			if w.counters.Generated != want {
				t.Errorf("worker %d generated %d", i, w.counters.Generated)
			}
		}
	}
}
