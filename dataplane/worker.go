// Package dataplane is the poll-mode translator. A Worker takes a burst of
// packets from a port and takes it through the steps, one file a step:
//
//	        rx.go      parse.go   classify.go    lookup.go      translate.go    tx.go
//	RX ───► burst ───► offsets ─► for us? ─────► session ─────► headers ──────► TX ring of the
//	ring    of ≤ 64    tuple      what kind?     │ hit / miss   in place        other interface
//	                                             ▼                              │ no next hop yet
//	                                       slowpath.go                          ▼
//	                                 create, hand over, refuse               park.go
//
// Most packets need none of this in full, for there is nothing unusual about
// them: shortcut.go.
//
// A packet leaves in four ways only: it is sent, passed to the kernel, parked,
// or dropped under one DropReason (drops.go). Nothing allocates, locks or
// waits between RX and TX.
package dataplane

import (
	"cmp"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/xlat"
	"handoff64/ring"
)

// Config is what a Worker is made of.
type Config struct {
	ID     int
	Table  *conntrack.Table
	Shard  *conntrack.Shard // the one this worker writes
	Hops   *nexthop.Table
	UMEM   *ring.UMEM
	Frames *ring.FrameStack
	// Ports are this worker's queues of the IPv6 and of the IPv4 interface.
	// It sends on the first of each. With one interface for both, both lists
	// hold the same ports.
	Ports [2][]ring.Port
	// Kernel takes what is the host's own; nil: there is no way to the kernel.
	Kernel ring.Port
	// LocalTraffic: the host itself uses the NAT64, through Kernel.
	LocalTraffic bool
	// Handoff couples the worker with the handoff worker; nil when handoff is off.
	Handoff *Handoff
	// Log takes what happens to sessions and port blocks; nil: nobody wants to know.
	Log *Log
	// Group is shared by all workers of a translator.
	Group *Group
	Rules *Rules
	// Fragments is how many fragments all workers together hold; 0: 4096.
	Fragments int
	// Seed of the worker's random numbers (identifications of IP packets). Nobody
	// must be able to guess it, but in replays.
	Seed uint64
}

// Worker translates packets. All its methods but those that say so are for the
// one goroutine that polls.
type Worker struct {
	id     int
	table  *conntrack.Table
	shard  *conntrack.Shard
	hops   *nexthop.Table
	umem   *ring.UMEM
	frames *ring.FrameStack
	group  *Group

	log     *Log
	handoff *Handoff
	told    bool // something went into the ring to the handoff worker in this round
	notes   notes

	rx     []inPort // every port once
	out    [families]outbox
	kernel kernelBox
	local  bool  // the host itself uses the NAT64
	rounds uint8 // counted for localRounds
	stick  bool  // both sides are one interface

	rules   *Rules
	pending atomic.Pointer[Rules] // set by SetRules, taken up at the next round
	inForce atomic.Pointer[Rules] // rules, for others to read

	taps        *tapSet                // nil while nobody looks on; see tap.go
	pendingTaps atomic.Pointer[tapSet] // set by Taps, taken up at the next round
	seenTaps    atomic.Pointer[tapSet] // taps, for others to read
	side        Family                 // interface that the burst was received from

	now   conntrack.Tick
	snap  *nexthop.Snapshot
	ids   identifications
	limit bucket

	main burst // packets as they come from a port
	turn burst // hairpin: translated once, going round again
	late burst // fragments that were held
	back burst // hairpin: ICMPv4 errors of ours about such packets

	datagrams *datagrams
	parked    park
	probes    probes
	syns      *synStore
	aside     meta // a packet that is in no burst
	in        inbox
	gave      uint64 // bit set: workers that were given something in this round
	given     uint64 // packets ever given to other workers
	taken     uint64 // and taken from them
	short     [2]shortlist
	search    [2]search
	missed    misses
	opts      xlat.Options
	waker     waker

	touched  uint8 // see touch
	counters counters
}

// inPort is a port to receive from and what arrives there.
type inPort struct {
	ring.Port
	family Family
	lag    ring.Lagging // the port, if it may leave packets waiting
}

// outbox collects what a round sends through one port.
type outbox struct {
	port  ring.Port
	n     int
	descs [outboxSize]ring.Desc
	dirs  [outboxSize]Direction
}

// outboxSize leaves room for fragments and ICMP errors beside a burst.
const outboxSize = 4 * BurstSize

// NewWorker returns a worker that is ready to Poll.
func NewWorker(c Config) (*Worker, error) {
	waker, err := newWaker()
	if err != nil {
		return nil, fmt.Errorf("worker %d: %w", c.ID, err)
	}
	w := &Worker{
		id: c.ID, table: c.Table, shard: c.Shard, hops: c.Hops, umem: c.UMEM, frames: c.Frames, group: c.Group, handoff: c.Handoff, log: c.Log,
		rules: c.Rules, opts: c.Rules.Translation, ids: newIdentifications(c.Seed), syns: new(synStore),
	}
	w.stick = c.Ports[IPv6][0] == c.Ports[IPv4][0]
	for f, ports := range c.Ports {
		for _, p := range ports {
			if f == int(IPv6) || !w.stick {
				lag, _ := p.(ring.Lagging)
				w.rx = append(w.rx, inPort{p, Family(f), lag})
			}
		}
	}
	w.out[IPv6].port = c.Ports[IPv6][0]
	w.out[IPv4].port = c.Ports[IPv4][0]
	w.kernel.port, w.local = c.Kernel, c.LocalTraffic && c.Kernel != nil
	w.datagrams = newDatagrams(max(cmp.Or(c.Fragments, defaultFragments)/c.Group.size(), 1))
	w.waker.fd = waker
	c.Group.join(w)
	return w, nil
}

// Poll does one round: a burst from every port, what other goroutines sent,
// parked packets, timers. It returns how many packets it took in; the work of
// one call is bounded. now never goes back.
func (w *Worker) Poll(now conntrack.Tick) int {
	w.begin(now)
	received := w.takeHandovers() + w.takeControl()
	w.retryParked()
	if w.datagrams.released > 0 {
		w.releaseHeld()
	}
	for i := range w.rx {
		received += w.pollPort(&w.rx[i])
	}
	if w.rounds++; w.local && (received == 0 || w.rounds%localRounds == 0) {
		if n := w.receiveKernel(); n > 0 {
			w.process(&w.main)
			received += n
		}
	}
	flushed := received > 0
	if flushed {
		w.flush() // no packet waits for the timers
	}
	received += w.expire(now, received)
	w.record()
	if !flushed || w.queued() {
		w.flush()
	}
	if w.told || w.notes.n > 0 {
		w.wakeHandoff(received)
	}
	held := w.datagrams.waiting + w.datagrams.released
	w.counters.Parked = uint64(w.parked.n+held) + w.given - w.taken
	w.counters.publish()
	return received
}

// burstsPerPort is how many bursts a round takes from one port before it gives
// what it made of them to the kernel. That call runs long enough to empty the
// caches of the worker's code and tables: several bursts share the refill.
const burstsPerPort = 4

// pollPort takes what waits at a port through the steps.
func (w *Worker) pollPort(p *inPort) (received int) {
	for range burstsPerPort {
		n := w.receive(p)
		if n == 0 {
			break
		}
		if !w.shortcut(&w.main) {
			w.process(&w.main)
		}
		received += n
		if n < BurstSize {
			break
		}
	}
	return received
}

// The timer work of one round is bounded (invariant 5): less while packets wait.
const (
	expireBudget     = 64
	expireBudgetIdle = 1024
)

// expire runs the timers. What it ended counts as work done, so that a worker
// does not sleep while there is more to end.
func (w *Worker) expire(now conntrack.Tick, received int) int {
	budget := expireBudget
	if received == 0 {
		budget = expireBudgetIdle
	}
	return w.shard.Expire(now, budget) + w.expireFragments(budget) + w.probeIdle() + w.expireSYNs()
}

// begin takes up what has changed outside since the last round.
func (w *Worker) begin(now conntrack.Tick) {
	w.limit.refill(now, w.now, w.rules.ICMPErrorsPerSecond, w.group.size())
	w.now = now
	w.snap = w.hops.Load()
	if r := w.pending.Load(); r != nil && r != w.rules {
		w.rules = r
		w.opts = r.Translation
		w.inForce.Store(r)
	}
	w.datagrams.timeout = cmp.Or(w.rules.FragmentTimeout, defaultFragmentTicks)
	w.takeTaps()
}

// process takes a burst through the steps. Hairpinned packets come round
// once more, as the IPv4 packets that they have become.
func (w *Worker) process(b *burst) {
	w.steps(b)
	w.turnRound()
	if w.datagrams.released > 0 {
		w.releaseHeld()
	}
}

func (w *Worker) steps(b *burst) {
	tapped := w.taps != nil
	if tapped {
		w.taps.begin(w, b)
	}
	w.parse(b)
	w.classify(b)
	if b.frags > 0 {
		w.fragments(b)
	}
	if tapped {
		w.taps.known(w, b)
	}
	w.lookup(b)
	if tapped {
		w.taps.looked(b)
	}
	if b.frags > 0 {
		w.sendHome(b)
	}
	w.translate(b)
	w.tx(b)
	if b.frags > 0 {
		w.settle(b)
	}
	if tapped {
		w.taps.end(w, b)
	}
}

// turnRound takes what was hairpinned through the steps again.
func (w *Worker) turnRound() {
	if w.turn.n > 0 {
		w.steps(&w.turn)
		w.turn.n = 0
	}
	w.sendBack()
}

// drop gives a packet up: it is counted under its reason and its frame is free
// again. It is the only way to lose a packet.
func (w *Worker) drop(m *meta, r DropReason) {
	m.verdict = gone
	m.outcome, m.reason = outcomeDropped, r
	w.counters.drop(r)
	w.frames.Push(m.addr)
}

// SetRules publishes new rules; the worker follows at its next round. Safe
// from any goroutine.
func (w *Worker) SetRules(r *Rules) { w.pending.Store(r) }

// Follows says whether the worker works by these rules, which SetRules
// published. Safe from any goroutine.
func (w *Worker) Follows(r *Rules) bool { return w.inForce.Load() == r }

// Counters are the totals as of the last round. Safe from any goroutine.
func (w *Worker) Counters() Counters { return w.counters.load() }

// Close frees what the worker holds of the system. Run has returned before.
func (w *Worker) Close() error {
	if err := unix.Close(w.waker.fd); err != nil {
		return fmt.Errorf("worker %d: close eventfd: %w", w.id, err)
	}
	return nil
}
