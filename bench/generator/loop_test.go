package generator

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// looped is a lane whose port receives what its sender sends.
type looped struct {
	*lane
	sender *sender
	clock  clock
}

func newLooped(t testing.TB) *looped {
	t.Helper()
	umem, frames, err := memport.NewUMEM(1024, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { umem.Close() })
	c, err := newClock()
	if err != nil {
		t.Fatal(err)
	}
	cfg := wireConfig(traffic.UDP, true)
	b, err := traffic.NewBuilder(traffic.UDP, true, traffic.Link{}, traffic.Sizes{80, 594})
	if err != nil {
		t.Fatal(err)
	}
	product := traffic.NewProduct(cfg.Flows)
	s := &sender{builder: b, flows: product, trial: 3, share: share{order: traffic.NewPermutation(product.Len(), 1), of: 1}, pace: newPace(0, c.now(), 0, 0)}
	echo := &ownPort{Loop: memport.NewLoop("loop", umem, frames, nil, 256)}
	l := &lane{umem: umem, frames: frames, ports: []ring.Port{echo}, senders: []transmitter{s}, receiver: &receiver{trial: 3, verify: true}}
	l.receiver.ways[trial.ToResponder] = newArrivals(1, nil)
	return &looped{lane: l, sender: s, clock: c}
}

// ownPort receives what was sent on it.
type ownPort struct {
	*memport.Loop
	queue [256]ring.Desc
	n     int
}

func (p *ownPort) Send(descs []ring.Desc) int {
	n := copy(p.queue[p.n:], descs)
	p.n += n
	return n
}

func (p *ownPort) Recv(descs []ring.Desc) int {
	n := copy(descs, p.queue[:p.n])
	p.n = copy(p.queue[:], p.queue[n:p.n])
	return n
}

// TestLoopsDoNotAllocate: nothing of what runs while packets do.
func TestLoopsDoNotAllocate(t *testing.T) {
	l := newLooped(t)
	if n := testing.AllocsPerRun(1000, func() { l.round(&l.clock, true) }); n != 0 {
		t.Errorf("%v allocations a round", n)
	}
	a := l.receiver.ways[trial.ToResponder]
	if a.count < 1000 || a.trackers[0].received != a.count || a.badChecksum+l.receiver.foreign+l.receiver.stale != 0 || l.sender.sequence < a.count {
		t.Errorf("%d received, %+v", a.count, l.receiver)
	}
}

// BenchmarkLoop is what a packet costs here, building, sending, receiving and
// counting, without a kernel.
func BenchmarkLoop(b *testing.B) {
	l := newLooped(b)
	for l.sender.sequence < uint64(b.N) {
		l.round(&l.clock, true)
	}
}

// TestInterrupted: the end of the context ends a run early, and there is a
// result; the interfaces carry no program afterwards.
func TestInterrupted(t *testing.T) {
	newWire(t, 1)
	tester := openTester(t, wireConfig(traffic.UDP, true))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(200*time.Millisecond, cancel)
	r, err := tester.Run(ctx, Run{Direction: trial.ToResponder, Rate: 10_000, Duration: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	w := r.Ways[trial.ToResponder]
	if !r.Interrupted || w.Sent == 0 || w.Received == 0 || w.Elapsed > time.Minute || w.Rate < 1000 || w.Rate > 11_000 {
		t.Errorf("%+v, %+v", r, w)
	}
	if err := tester.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"near", "far"} {
		if x := linkNamed(t, name).Attrs().Xdp; x != nil && x.Attached {
			t.Errorf("%s carries a program", name)
		}
	}
}

func TestInterfacesThatCannot(t *testing.T) {
	newWire(t, 1)
	tester := openTester(t, wireConfig(traffic.UDP, true))
	if _, err := tester.Run(t.Context(), Run{Packets: 1, Sizes: traffic.Sizes{1515}}); err == nil || !strings.Contains(err.Error(), "MTU of 1500") {
		t.Errorf("frames that do not fit: %v", err)
	}
	if _, err := tester.Run(t.Context(), Run{Packets: 1, Direction: trial.ToInitiator}); err == nil || !strings.Contains(err.Error(), "Fill first") {
		t.Errorf("answers to nothing: %v", err)
	}
	if err := tester.Close(); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(linkNamed(t, "far")); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"is down":    func(*Config) {},
		"nowhere":    func(c *Config) { c.Responder.Interface = "nowhere0" },
		"no-such-ns": func(c *Config) { c.Responder.Namespace = "no-such-ns" },
	} {
		c := wireConfig(traffic.UDP, true)
		change(&c)
		if tester, err := Open(c); err == nil {
			tester.Close()
			t.Errorf("%s: opened", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if x := linkNamed(t, "near").Attrs().Xdp; x != nil && x.Attached {
		t.Error("a failed Open left a program")
	}
}

// TestPacketsThatDoNotLeave: of an interface that goes down, and of one whose
// peer is down, the result says that nothing arrived anywhere.
func TestPacketsThatDoNotLeave(t *testing.T) {
	newWire(t, 1)
	c := wireConfig(traffic.UDP, true)
	c.Responder = Endpoint{}
	c.Wait = 50 * time.Millisecond
	tester := openTester(t, c)
	run := func() EndpointCounters {
		t.Helper()
		r, err := tester.Run(t.Context(), Run{Rate: 10_000, Packets: 100})
		if err != nil {
			t.Fatal(err)
		}
		if n := r.Ways[trial.ToResponder].Sent; n != 100 {
			t.Errorf("%d sent", n)
		}
		return r.Endpoints[0]
	}
	if e := run(); e.Stuck != 0 || e.Link.TXPackets < 100 || e.Link.TXDropped != 0 {
		t.Errorf("all is well, and the counters are %+v", e)
	}
	if err := netlink.LinkSetDown(linkNamed(t, "far")); err != nil {
		t.Fatal(err)
	}
	if e := run(); e.Stuck != 0 || e.Link.TXDropped < 100 { // the kernel sends a little of its own
		t.Errorf("the peer is down, and the counters are %+v", e)
	}
	if err := netlink.LinkSetDown(linkNamed(t, "near")); err != nil {
		t.Fatal(err)
	}
	if e := run(); e.Stuck != 100 {
		t.Errorf("the interface is down, and the counters are %+v", e)
	}
}
