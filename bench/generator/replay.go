package generator

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"handoff64/bench/trial"
	"handoff64/ring"
)

// ReplayConfig is what Replay needs.
type ReplayConfig struct {
	Endpoint  Endpoint
	CPUs      []int
	Recording *Recording

	// Recorded times, Speed times as fast; with Speed 0 the frames go at Rate
	// packets per second, or as fast as possible if that is 0, too.
	Speed float64
	Rate  float64

	Rounds   uint64 // how often all is sent; 0: until the context ends
	Progress func(Progress)
}

// Replayed is what came of a Replay.
type Replayed struct {
	Sent, Octets uint64
	Rounds       float64
	Missed       uint64 // not sent as the sender was held up, with a Rate
	RingFull     uint64
	NoFrame      uint64
	Elapsed      time.Duration
	Rate         float64
	Wanted       float64                 // with a Rate
	Late         *hdrhistogram.Histogram // nanoseconds that packets left behind their recorded times; nil without Speed
	Interrupted  bool
	Endpoint     EndpointCounters
}

// player sends a recording. Owned by its lane's thread; others read what it
// shows.
type player struct {
	rec   *Recording
	table timetable
	pace  pace // in place of the table, if speed is 0
	late  *hdrhistogram.Histogram
	start int64
	limit uint64 // packets; 0: no end

	sent, octets, ringFull, noFrame uint64
	ended                           int64
	done                            atomic.Bool
	shown                           struct{ packets, octets atomic.Uint64 }
}

// due is how many packets are to be sent now, and whether more will be later.
func (p *player) due(now int64) (n int, more bool) {
	if p.late == nil {
		return p.pace.due(now)
	}
	n = p.table.count(p.sent, now-p.start)
	if p.limit == 0 {
		return n, true
	}
	left := p.limit - p.sent
	return int(min(uint64(n), left)), left > uint64(n)
}

// round implements transmitter.
func (p *player) round(l *lane, c *clock) {
	if p.done.Load() {
		return
	}
	now := c.now()
	n, more := p.due(now)
	if n == 0 {
		if !more {
			p.ended = now
			p.done.Store(true)
		}
		return
	}
	n = p.build(l, n)
	taken := l.ports[0].Send(l.descs[:n])
	for _, d := range l.descs[taken:n] {
		l.frames.Push(d.Addr)
	}
	p.ringFull += uint64(n - taken)
	for i, d := range l.descs[:taken] {
		p.octets += uint64(d.Len)
		if p.late != nil {
			_ = p.late.RecordValue(now - p.start - p.table.due(p.sent+uint64(i))) // beyond its range it is not late but elsewhere
		}
	}
	p.sent += uint64(taken)
	p.pace.sent(taken)
	p.shown.packets.Store(p.sent)
	p.shown.octets.Store(p.octets)
}

func (p *player) build(l *lane, n int) int {
	for i := range n {
		frame, ok := l.frames.Pop()
		if !ok {
			p.noFrame++
			return i
		}
		addr := frame + ring.Headroom
		octets := copy(l.umem.Mem[addr:frame+uint64(l.umem.FrameSize)], p.rec.frame(int((p.sent+uint64(i))%uint64(p.rec.Len()))))
		l.descs[i] = ring.Desc{Addr: addr, Len: uint32(octets)}
	}
	return n
}

// Replay sends a recording on one queue of an interface.
func Replay(ctx context.Context, cfg ReplayConfig) (r *Replayed, err error) {
	t := &Tester{cfg: Config{Threads: 1, CPUs: cfg.CPUs, Progress: cfg.Progress}}
	if t.clock, err = newClock(); err != nil {
		return nil, err
	}
	s, err := openStation(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	t.stations = []*station{s}
	defer func() { err = errors.Join(err, t.Close()) }()
	if err := s.fits(cfg.Recording.longest()); err != nil {
		return nil, err
	}
	p := &player{rec: cfg.Recording, limit: cfg.Rounds * uint64(cfg.Recording.Len())}
	if cfg.Speed > 0 {
		p.table, p.late = newTimetable(cfg.Recording, cfg.Speed), trial.NewHistogram()
	}
	for _, l := range s.lanes {
		l.receiver, l.senders = &receiver{}, nil // what comes back is nobody's
	}
	s.lanes[0].senders = []transmitter{p}
	before, err := t.count()
	if err != nil {
		return nil, err
	}
	j := &job{tester: t, lanes: s.lanes, player: p}
	p.start = t.clock.now()
	p.pace = newPace(cfg.Rate, p.start, 0, p.limit)
	if err := j.work(func() { j.playback(ctx) }); err != nil {
		return nil, err
	}
	after, err := t.count()
	if err != nil {
		return nil, err
	}
	if p.ended == 0 {
		p.ended = j.cut
	}
	r = p.result(cfg)
	r.Interrupted = ctx.Err() != nil && !p.done.Load()
	r.Endpoint = between(before, after)[0]
	return r, nil
}

// drainTime is how long the last frames have to leave the TX ring.
const drainTime = 50 * time.Millisecond

// playback waits for the end.
func (j *job) playback(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	report := time.Now().Add(time.Second)
	for ctx.Err() == nil && !j.player.done.Load() && j.phase.Load() != ended {
		<-tick.C
		report = j.report(report)
	}
	j.cut = j.tester.clock.now()
	j.phase.CompareAndSwap(sending, draining)
	time.Sleep(drainTime)
}

// result is what the player did. Its thread has ended.
func (p *player) result(cfg ReplayConfig) *Replayed {
	r := &Replayed{
		Sent: p.sent, Octets: p.octets, Missed: p.pace.missed, RingFull: p.ringFull, NoFrame: p.noFrame, Wanted: cfg.Rate, Late: p.late,
		Rounds: float64(p.sent) / float64(p.rec.Len()),
	}
	if p.late != nil {
		r.Wanted = 0
	}
	r.Elapsed = time.Duration(p.ended - p.start)
	if r.Elapsed > 0 {
		r.Rate = float64(r.Sent) / r.Elapsed.Seconds()
	}
	return r
}
