package generator

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// Run is one stream of frames, or one in each direction.
type Run struct {
	Direction trial.Direction
	Rate      float64       // packets per second in each direction; 0: as many as possible
	Duration  time.Duration // of sending; 0: until Packets are sent or the context ends
	Packets   uint64        // to send in each direction; 0: Duration counts

	// Sizes are those of frames on the initiator's side; the responder's are 20
	// octets smaller if it speaks IPv4 and the initiator IPv6. None: MinSize.
	Sizes traffic.Sizes

	Protocol     traffic.Protocol // what the initiator's flows have, if UDP
	InOrder      bool             // flows by their numbers, not in pseudorandom order
	LatencyAfter time.Duration    // delays of what is received earlier do not count

	lesson *lesson  // filled by what the responder receives
	only   []uint64 // these flows in place of all
}

// translated is how much shorter an IPv4 header is than an IPv6 header.
const translated = 20

// phases of a run, as its threads see them.
const (
	sending int32 = iota
	draining
	ended
)

// job is a Run under way.
type job struct {
	tester *Tester
	run    Run
	start  int64 // nanoseconds, on the tester's clock
	phase  atomic.Int32
	cut    int64 // when senders were told to stop, nanoseconds; written before phase

	senders  [2][]*sender
	arrivals [2][]*arrivals
	lanes    []*lane
	player   *player // of a replay, which has no senders
}

// Run sends, waits for what is late, and counts. The end of ctx ends sending,
// and the result is what there is until then.
func (t *Tester) Run(ctx context.Context, r Run) (*Result, error) {
	t.trial++
	j := &job{tester: t, run: r}
	for _, d := range r.Direction.Senders() {
		if err := j.prepare(d); err != nil {
			return nil, err
		}
	}
	j.receivers()
	before, err := t.count()
	if err != nil {
		return nil, err
	}
	if err := j.work(func() { j.supervise(ctx) }); err != nil {
		return nil, err
	}
	after, err := t.count()
	if err != nil {
		return nil, err
	}
	result := j.result()
	result.Interrupted = ctx.Err() != nil
	result.Endpoints = between(before, after)
	return result, nil
}

// prepare makes the senders of one direction.
func (j *job) prepare(d trial.Direction) error {
	t := j.tester
	source, ipv6, link, sizes, protocol, err := j.stream(d)
	if err != nil {
		return err
	}
	if err := t.sends(d).fits(sizes.Max()); err != nil {
		return err
	}
	flows := source.Len()
	if d == trial.ToResponder {
		flows = t.connections
	}
	order := traffic.NewPermutation(flows, t.cfg.Seed+uint64(d))
	if j.run.InOrder {
		order = traffic.InOrder(flows)
	}
	lanes := t.sends(d).lanes
	j.senders[d] = nil
	var shares []share
	for i, l := range lanes {
		b, err := traffic.NewBuilder(protocol, ipv6, link, sizes)
		if err != nil {
			return fmt.Errorf("generator: %w", err)
		}
		s := &sender{
			builder: b, flows: source, trial: t.trial, stream: stream(d, l.index),
			share: share{order: order, list: j.run.only, index: uint64(i), of: uint64(len(lanes))},
		}
		shares = append(shares, s.share)
		j.senders[d] = append(j.senders[d], s)
	}
	if j.run.lesson != nil {
		j.run.lesson.shares = shares
	}
	return nil
}

// stream says what is sent in a direction.
func (j *job) stream(d trial.Direction) (traffic.Source, bool, traffic.Link, traffic.Sizes, traffic.Protocol, error) {
	t := j.tester
	sizes, protocol, ipv6 := j.run.Sizes, j.run.Protocol, t.cfg.Flows.Src.Addr().Is6()
	if len(sizes) == 0 {
		sizes = traffic.Sizes{t.MinSize()}
	}
	if d == trial.ToResponder {
		if protocol == traffic.UDP {
			protocol = t.cfg.Flows.Protocol
		}
		return t.product, ipv6, t.cfg.InitiatorLink, sizes, protocol, nil
	}
	if protocol == traffic.UDP || j.run.Direction == trial.Both {
		protocol = t.cfg.Flows.Protocol.Answer()
	}
	if len(t.table) == 0 {
		return nil, false, traffic.Link{}, nil, 0, errors.New("generator: the responder knows no connection to answer: Fill first")
	}
	if ipv6 && !t.responder6 {
		sizes = sizes.Plus(-translated)
	} else if !ipv6 && t.responder6 {
		sizes = sizes.Plus(translated)
	}
	link, err := t.responderLink()
	return t.table, t.responder6, link, sizes, protocol, err
}

// responderLink finds the Ethernet addresses of the answers once.
func (t *Tester) responderLink() (traffic.Link, error) {
	if t.responder != (traffic.Link{}) {
		return t.responder, nil
	}
	var err error
	t.responder, err = completeLink(&t.cfg.Responder, t.cfg.ResponderLink, t.table[0].Destination(t.responder6))
	return t.responder, err
}

// receivers gives every lane its receiver and senders.
func (j *job) receivers() {
	t := j.tester
	for _, s := range t.stations {
		for _, l := range s.lanes {
			l.senders, l.receiver = nil, &receiver{trial: t.trial, verify: t.cfg.Verify, latencyAfter: -1}
			for _, d := range j.run.Direction.Senders() {
				if t.sends(d) == s {
					l.senders = append(l.senders, j.senders[d][l.index])
				}
				if t.receives(d) == s {
					a := newArrivals(len(j.senders[d]), j.run.lesson)
					l.receiver.ways[d] = a
					j.arrivals[d] = append(j.arrivals[d], a)
				}
			}
			j.lanes = append(j.lanes, l)
		}
	}
}

// begin starts the clock of all senders.
func (j *job) begin() {
	j.start = j.tester.clock.now()
	for _, senders := range j.senders {
		n := uint64(len(senders))
		for i, s := range senders {
			limit := uint64(0)
			if j.run.Packets > 0 {
				limit = (j.run.Packets + n - 1 - uint64(i)) / n
			}
			s.pace = newPace(j.run.Rate/float64(n), j.start, int64(j.run.Duration), limit)
			if j.run.Packets > 0 && limit == 0 {
				s.ended = j.start
				s.done.Store(true) // fewer packets than senders
			}
		}
	}
	for _, l := range j.lanes {
		l.receiver.latencyAfter = j.start + int64(j.run.LatencyAfter)
	}
}

// work runs the threads; supervise says when they end.
func (j *job) work(supervise func()) error {
	t := j.tester
	threads := t.threads(len(j.lanes))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), threads+1)))
	j.begin()
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for i := range threads {
		cpu := -1
		if len(t.cfg.CPUs) > 0 {
			cpu = t.cfg.CPUs[i%len(t.cfg.CPUs)]
		}
		var mine []*lane
		for k := i; k < len(j.lanes); k += threads {
			mine = append(mine, j.lanes[k])
		}
		wg.Go(func() {
			if errs[i] = j.spin(mine, cpu); errs[i] != nil {
				j.phase.Store(ended)
			}
		})
	}
	supervise()
	j.phase.Store(ended)
	wg.Wait()
	return errors.Join(errs...)
}

// spin is a thread: it serves its lanes until the end.
func (j *job) spin(lanes []*lane, cpu int) error {
	runtime.LockOSThread()
	if cpu < 0 {
		defer runtime.UnlockOSThread()
	} else {
		// Not unlocked: the thread, which stays on this CPU, ends with its goroutine.
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("generator: pin a thread to CPU %d: %w", cpu, err)
		}
	}
	for {
		phase := j.phase.Load()
		if phase == ended {
			return nil
		}
		for _, l := range lanes {
			l.round(&j.tester.clock, phase == sending)
		}
	}
}

const (
	// superviseEvery is how often the end is looked for.
	superviseEvery = 2 * time.Millisecond
	// settle is how long duplicates of what has all arrived are waited for.
	settle = 20 * time.Millisecond
)

// supervise ends sending and receiving when it is time.
func (j *job) supervise(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	report := time.Now().Add(time.Second)
	var until time.Time
	for range tick.C {
		report = j.report(report)
		phase := j.phase.Load()
		switch {
		case phase == ended:
			return
		case phase == sending && (ctx.Err() != nil || j.allSent()):
			j.cut = j.tester.clock.now()
			j.phase.Store(draining)
			until = time.Now().Add(j.tester.cfg.Wait)
		case phase == draining && j.allReceived():
			if limit := time.Now().Add(settle); until.After(limit) {
				until = limit
			}
		}
		if phase == draining && time.Now().After(until) {
			return
		}
	}
}

// report shows the progress if it is time, and returns when it is next.
func (j *job) report(next time.Time) time.Time {
	f := j.tester.cfg.Progress
	if f == nil || time.Now().Before(next) {
		return next
	}
	f(j.progress())
	return next.Add(time.Second)
}

func (j *job) allSent() bool {
	for _, senders := range j.senders {
		for _, s := range senders {
			if !s.done.Load() {
				return false
			}
		}
	}
	return true
}

// allReceived says whether as many packets came as were sent; of what has no
// receiver, all did.
func (j *job) allReceived() bool {
	p := j.progress()
	for d := range p.Sent {
		if len(j.arrivals[d]) > 0 && p.Received[d] < p.Sent[d] {
			return false
		}
	}
	return true
}
