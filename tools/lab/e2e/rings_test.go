package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"handoff64/bench/xdpgen"
	"handoff64/tools/lab"
)

// flood is a stream of datagrams from the client to a port of the server,
// counted where they arrive.
type flood struct {
	w       *world
	counter *xdpgen.Counter
	link    netlink.Link // the client's
	to      [6]byte      // the translator's
	cpu     int          // which also chooses the receive queue of a veth
}

func (w *world) flood(cpu int) *flood {
	w.t.Helper()
	f := &flood{w: w, cpu: cpu}
	w.must(w.server.Enter(func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			f.counter, err = xdpgen.NewCounter(l.Attrs().Index, xdpgen.CounterConfig{})
		}
		return err
	}))
	w.t.Cleanup(func() {
		if err := f.counter.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.must(w.client.Enter(func() (err error) {
		f.link, err = netlink.LinkByName("eth0")
		return err
	}))
	w.must(w.nat64.Enter(func() error {
		l, err := netlink.LinkByName(lab.IPv6Interface)
		if err == nil {
			f.to = [6]byte(l.Attrs().HardwareAddr)
		}
		return err
	}))
	return f
}

// send sends at least count datagrams, one every so often or as fast as it
// can, and returns how many.
func (f *flood) send(count uint64, every time.Duration) uint64 {
	w := f.w
	w.t.Helper()
	flow := xdpgen.Flow{Src: netip.AddrPortFrom(w.Client(), 4000), Dst: netip.AddrPortFrom(lab.Embed(w.Server()), 5000)}
	s, err := xdpgen.NewSender(xdpgen.SenderConfig{
		Ifindex: f.link.Attrs().Index, Every: every,
		Template: xdpgen.Template{To: f.to, From: [6]byte(f.link.Attrs().HardwareAddr), Flows: []xdpgen.Flow{flow}, Payload: xdpgen.PayloadMin},
	})
	w.must(err)
	defer func() { w.must(s.Close()) }()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.client.Enter(func() error { return s.Run(ctx, f.cpu, 0) }) }()
	w.eventually("send", time.Minute, func() error {
		n, err := s.Sent()
		if err == nil && n < count {
			err = fmt.Errorf("%d of %d are sent", n, count)
		}
		return err
	})
	cancel()
	w.must(<-ended)
	n, err := s.Sent()
	w.must(err)
	return n
}

// arrived is how many datagrams the server has got.
func (f *flood) arrived() uint64 {
	f.w.t.Helper()
	n, _, err := f.counter.Counts()
	f.w.must(err)
	return n
}

// refused is how many packets the veth towards the server had no room for.
func (f *flood) refused() (n uint64) {
	f.w.t.Helper()
	f.w.must(f.w.nat64.Enter(func() error {
		l, err := netlink.LinkByName(lab.IPv4Interface)
		if err == nil {
			n = l.Attrs().Statistics.TxDropped
		}
		return err
	}))
	return n
}

// TestFullRings fills the rings on purpose: with a translator that stands
// still, then with more packets than it can carry. Each packet is found in one
// of the counters, what was received leaves without another packet having to
// come, and afterwards all is as before. Also with two queues of one worker.
func TestFullRings(t *testing.T) {
	for _, queues := range []int{1, 2} {
		t.Run(fmt.Sprintf("queues=%d", queues), func(t *testing.T) {
			w := build(t, lab.Options{Queues: queues}, func(c map[string]any) {
				c["xdp"] = map[string]any{"ring_size": 64, "frames_per_queue": 256}
				c["workers"] = map[string]any{"count": 1}
			})
			f := w.flood(queues - 1)
			f.send(1, 0) // opens the session, and finds the server's address
			w.must(f.w.pingOnce())
			w.overrun(f)
			w.overload(f)
			w.must(f.w.pingOnce())
		})
	}
}

func (w *world) pingOnce() error {
	a, err := w.pinger(w.client, "ip6", 0).Ping(w.ctx, lab.Embed(w.Server()), 56, 0)
	if err == nil && !a.Reply() {
		err = fmt.Errorf("the answer to a ping is %+v", a)
	}
	return err
}

// books are the counters that a packet of a flood can end in.
type books struct {
	stats            lab.Stats
	arrived, refused uint64
}

func (f *flood) books() books {
	f.w.t.Helper()
	stats, err := f.w.d.SettledStats(f.w.ctx)
	f.w.must(err)
	return books{stats, f.arrived(), f.refused()}
}

// overrun sends slowly to a translator that is stopped. Its RX ring and nothing
// else overflows.
func (w *world) overrun(f *flood) {
	w.t.Helper()
	before := f.books()
	w.must(w.d.Freeze())
	sent := f.send(1000, 20*time.Microsecond)
	w.must(w.d.Thaw())
	var after books
	w.eventually("account for what a stopped nat64d was sent", 10*time.Second, func() error {
		after = f.books()
		rx, lost := after.stats.RX.IPv6.Packets-before.stats.RX.IPv6.Packets, after.stats.Lost.IPv6-before.stats.Lost.IPv6
		out := after.arrived - before.arrived
		// Neighbour discovery may add a packet or two of the kernels' own, which
		// the filter leaves to them; nothing else is sent.
		if rx+lost != sent || out != rx {
			return fmt.Errorf("%d sent, %d received and %d lost; %d arrived", sent, rx, lost, out)
		}
		return nil
	})
	if lost := after.stats.Lost.IPv6 - before.stats.Lost.IPv6; lost == 0 || lost > sent-64 {
		w.t.Errorf("%d of %d packets were lost to rings of 64", lost, sent)
	}
}

// overload sends as fast as the kernel can. What the veth pair itself has no
// room for never comes to a ring of nat64d.
func (w *world) overload(f *flood) {
	w.t.Helper()
	before := f.books()
	sent := f.send(500_000, 0)
	w.eventually("account for an overload", 10*time.Second, func() error {
		after := f.books()
		rx, lost := after.stats.RX.IPv6.Packets-before.stats.RX.IPv6.Packets, after.stats.Lost.IPv6-before.stats.Lost.IPv6
		full := after.stats.Drops["tx_ring_full"] - before.stats.Drops["tx_ring_full"]
		out := after.arrived - before.arrived + after.refused - before.refused
		if rx+lost > sent || out+full != rx {
			return fmt.Errorf("%d sent, %d received and %d lost; %d arrived or were refused by the link, %d found the TX ring full", sent, rx, lost, out, full)
		}
		if rx < 1000 || lost == 0 {
			return fmt.Errorf("%d sent, only %d received and %d lost: that is no overload", sent, rx, lost)
		}
		return nil
	})
}
