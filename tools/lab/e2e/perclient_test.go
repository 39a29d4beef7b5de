package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// One client uses its limit up: the rest of what it wants is refused, what it has
// goes on, and so does another client. A restart forgets nothing of that, and
// a limit can be changed at any time.
func TestLimitsOfOneClient(t *testing.T) {
	t.Parallel()
	w := routed(t, withoutHandoff, func(config map[string]any) {
		config["limits"] = map[string]any{"ports_per_client": 16, "sessions_per_client": 40}
	})
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	served, refused := w.crowd(24, 50_000)
	if len(served) != 16 || refused != 8 {
		t.Fatalf("16 ports for one client and 24 wanted: %d served, %d refused", len(served), refused)
	}
	if n := w.stats().Drops["client_ports"]; n != 8 {
		t.Errorf("%d packets dropped as client_ports, want 8", n)
	}
	other := w.dial(w.Host("client2"), "udp", 50_000, w.embedded(7))
	w.must(exchangeOnce(other, "another client"))
	w.stillServed(served)

	w.must(w.d.Kill())
	w.must(w.d.Start(w.ctx))
	w.stillServed(served)
	w.must(exchangeOnce(other, "after a restart"))
	w.refusedWith(w.dial(w.client, "udp", 51_000, w.embedded(7)), "client_ports")

	w.set("limits.ports_per_client", "17")
	w.must(exchangeOnce(w.dial(w.client, "udp", 52_000, w.embedded(7)), "one port more"))
	w.refusedWith(w.dial(w.client, "udp", 53_000, w.embedded(7)), "client_ports")
	w.set("limits.ports_per_client", "0")
	w.set("limits.sessions_per_client", "18")
	w.must(exchangeOnce(w.dial(w.client, "udp", 53_001, w.embedded(7)), "the 18th session"))
	w.refusedWith(w.dial(w.client, "udp", 53_002, w.embedded(7)), "client_sessions")
	status, err := w.d.Status(w.ctx)
	w.must(err)
	if status.Clients.Counted != 2 || status.Clients.SessionLimit != 18 {
		t.Errorf("status says %+v", status.Clients)
	}
	w.must(exchangeOnce(other, "at the end"))
}

// blockLine is a line about a port block.
var blockLine = regexp.MustCompile(`(?m)^time=\S+Z level=INFO msg="port block (assigned|returned|kept)" client=(\S+) address=(\S+) ports=(\d+)-(\d+)`)

type block struct{ client, address, first, last string }

// blocks reads the log: the blocks that clients have by it. Every line must fit
// those before it.
func (w *world) blocks() map[block]bool {
	w.t.Helper()
	have := map[block]bool{}
	for _, m := range blockLine.FindAllStringSubmatch(w.d.Log(), -1) {
		b := block{m[2], m[3], m[4], m[5]}
		if have[b] == (m[1] == "assigned") {
			w.t.Errorf("block %+v: %s, and before that it was %v", b, m[1], have[b])
		}
		have[b] = true
		if m[1] == "returned" {
			delete(have, b)
		}
	}
	return have
}

// Clients get their ports in blocks, and the log says who has which, from the
// first to the last mapping and over a kill.
func TestPortBlocksAndTheirLog(t *testing.T) {
	t.Parallel()
	w := routed(t, withoutHandoff, pool4("40000-41999"), func(config map[string]any) {
		config["port_blocks"] = map[string]any{"size": 64, "grace": "1s"}
	})
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 9000).String())
	who := map[string]string{} // mapped address and port → client
	hosts := []lab.Host{w.client, w.Host("client2")}
	for n := range 70 {
		for _, h := range hosts {
			c := w.dial(h, "udp", 50_000+n, w.embedded(9000))
			client := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().String()
			who[w.observed(c).String()] = client
		}
	}
	w.eventually("four blocks are in the log", 10*time.Second, func() error {
		if n := len(w.blocks()); n != 4 {
			return fmt.Errorf("%d are, for two clients with 70 ports each", n)
		}
		return nil
	})
	w.within(who)
	w.must(w.d.Kill())
	w.must(w.d.Start(w.ctx))
	if n := len(w.blocks()); n != 4 {
		t.Errorf("%d blocks after the restart", n)
	}
	w.within(who)
	if status, err := w.d.Status(w.ctx); err != nil || status.PortBlocks.Assigned != 4 || status.PortBlocks.Size != 64 {
		t.Errorf("status says %+v, %v", status.PortBlocks, err)
	}
	_, err := w.d.Ctl(w.ctx, "flush")
	w.must(err)
	w.eventually("all blocks are given back", 15*time.Second, func() error {
		if n := len(w.blocks()); n > 0 {
			return fmt.Errorf("%d are not", n)
		}
		return nil
	})
}

// within checks that each mapping lies in a block of its client's.
func (w *world) within(who map[string]string) {
	w.t.Helper()
	have := w.blocks()
next:
	for mapped, client := range who {
		a := netip.MustParseAddrPort(mapped)
		for b := range have {
			first, _ := strconv.Atoi(b.first)
			last, _ := strconv.Atoi(b.last)
			if b.client == client && b.address == a.Addr().String() && first <= int(a.Port()) && int(a.Port()) <= last {
				continue next
			}
		}
		w.t.Errorf("%s appears as %s, in no block of its own: %v", client, mapped, have)
	}
}

// Every session makes two lines, and their fields fit what the server sees.
func TestSessionLogIsComplete(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff, func(config map[string]any) { config["log"] = map[string]any{"sessions": true} })
	w.observer(w.server, netip.AddrPortFrom(w.Server(), 9000).String())
	c := w.dial(w.client, "udp", 49_999, w.embedded(9000))
	mapped := w.observed(c)
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	served, refused := w.crowd(300, 50_000)
	if refused > 0 || len(served) != 300 {
		t.Fatalf("%d served, %d refused", len(served), refused)
	}
	_, err := w.d.Ctl(w.ctx, "flush")
	w.must(err)
	created := int(w.stats().Sessions.Created)
	w.eventually("all lines are written", 10*time.Second, func() error {
		log := w.d.Log()
		n, m := strings.Count(log, `msg="session created"`), strings.Count(log, `msg="session ended"`)
		if n != created || m != created {
			return fmt.Errorf("%d lines and %d for %d sessions", n, m, created)
		}
		return nil
	})
	server6 := netip.MustParseAddrPort(w.embedded(9000))
	want := fmt.Sprintf(`msg="session created" protocol=udp client=%s mapped=%s server6=%s server4=%s:9000 origin=nat64`,
		c.LocalAddr(), mapped, server6, w.Server())
	if !strings.Contains(w.d.Log(), want) {
		t.Errorf("no line says %s", want)
	}
	if l := w.stats().Log; l.Lost != 0 || int(l.Written) != 2*created {
		t.Errorf("log: %+v, for %d sessions", l, created)
	}
}

// A collector behind a real interface receives what an independent decoder reads
// as NAT events.
func TestIPFIXCollectorReceives(t *testing.T) {
	t.Parallel()
	need(t, "tshark")
	const at = "198.51.100.10:4739" // the server
	w := routed(t, withoutHandoff, func(config map[string]any) {
		config["log"] = map[string]any{"sessions": true, "ipfix": at}
		config["port_blocks"] = map[string]any{"size": 64, "grace": "1s"}
	})
	sink, err := w.server.ListenPacket("udp4", at) // else its kernel would refuse
	w.must(err)
	defer sink.Close()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	file := filepath.Join(t.TempDir(), "ipfix.pcap")
	capture, err := w.server.StartCapture("eth0", file, 0)
	w.must(err)
	served, refused := w.crowd(20, 50_000)
	if refused > 0 {
		t.Fatalf("%d refused", refused)
	}
	w.stillServed(served)
	_, err = w.d.Ctl(w.ctx, "flush")
	w.must(err)
	w.eventually("all records are sent", 15*time.Second, func() error {
		l := w.stats().Log
		if want := uint64(2*20 + 2*2); l.Written != want || l.Lost != 0 {
			return fmt.Errorf("%+v, want %d: records of sessions and of a block, and its lines", l, want)
		}
		return nil
	})
	w.must(capture.Stop())
	events := map[string]int{}
	for _, field := range strings.FieldsFunc(w.tshark(file, "-Y", "cflow", "-T", "fields", "-e", "cflow.nat_event"), func(r rune) bool { return r == ',' || r == '\n' }) {
		events[field]++
	}
	if events["6"] != 20 || events["7"] != 20 || events["16"] != 1 || events["17"] != 1 || len(events) != 4 {
		t.Errorf("tshark reads events %v, want 20 sessions created and deleted and a block allocated and de-allocated", events)
	}
	if bad := w.tshark(file, "-Y", "cflow && _ws.malformed"); bad != "" {
		t.Errorf("tshark calls malformed:\n%s", bad)
	}
	client := served[0].LocalAddr().(*net.UDPAddr).AddrPort().Addr().String()
	if got := w.tshark(file, "-Y", "cflow", "-T", "fields", "-e", "cflow.srcaddrv6"); !strings.Contains(got, client) {
		t.Errorf("no record names the client %s:\n%s", client, got)
	}
}
