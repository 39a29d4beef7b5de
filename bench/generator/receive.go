package generator

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"handoff64/bench/trial"
)

// ReceiveConfig is what Receive needs.
type ReceiveConfig struct {
	Endpoint Endpoint // with MatchIP, packets without a stamp are taken and counted, too
	Threads  int
	CPUs     []int
	Verify   bool          // check the checksums of stamped packets
	Duration time.Duration // 0: until the context ends
	Packets  uint64        // end after so many stamped ones; 0: never
	Progress func(Progress)
}

// Reception is what was received. Streams of senders elsewhere are followed by
// their numbers: what is missing between the lowest, 0, and the highest that
// came is lost; what is lost at the very end does not show.
type Reception struct {
	Elapsed                time.Duration
	Received, Octets       uint64 // stamped packets, without duplicates, and the octets of all
	Lost                   uint64
	Duplicated, Reordered  uint64
	BadChecksum, Damaged   uint64
	Foreign, ForeignOctets uint64        // IP packets without a stamp
	First, Last            time.Duration // when the first and the last stamped packet came, from the start

	// Latency in nanoseconds means something if the senders run on this
	// machine; NoLatency is how many delays were impossible.
	Latency   *hdrhistogram.Histogram
	NoLatency uint64

	Endpoint EndpointCounters
}

// Rate is the rate between the first and the last packet, per second.
func (r *Reception) Rate() float64 {
	if r.Last <= r.First {
		return 0
	}
	return float64(r.Received+r.Duplicated) / (r.Last - r.First).Seconds()
}

// heard is how far a lane followed one stream of one trial.
type heard struct {
	trial, stream  uint8
	next, received uint64
}

// turn begins a new trial. It allocates, once per trial.
func (r *receiver) turn(trialNumber uint8) {
	r.history = append(r.history, r.streams()...)
	for _, a := range r.ways {
		for _, t := range a.trackers {
			t.restart()
		}
	}
	r.trial = trialNumber
}

// streams is how far the streams of the present trial were followed.
func (r *receiver) streams() (all []heard) {
	for d, a := range r.ways {
		for lane, t := range a.trackers {
			if t.next > 0 {
				all = append(all, heard{r.trial, stream(trial.Direction(d), lane), t.next, t.fresh})
			}
		}
	}
	return all
}

// Receive counts what an interface receives until the context ends.
func Receive(ctx context.Context, cfg ReceiveConfig) (r *Reception, err error) {
	t := &Tester{cfg: Config{Threads: cfg.Threads, CPUs: cfg.CPUs, Progress: cfg.Progress}}
	if t.clock, err = newClock(); err != nil {
		return nil, err
	}
	s, err := openStation(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	t.stations = []*station{s}
	defer func() { err = errors.Join(err, t.Close()) }()
	j := &job{tester: t}
	for _, l := range s.lanes {
		l.receiver = &receiver{verify: cfg.Verify, follow: true}
		for d := range l.receiver.ways {
			a := newArrivals(maxQueues, nil)
			l.receiver.ways[d] = a
			j.arrivals[d] = append(j.arrivals[d], a)
		}
		j.lanes = append(j.lanes, l)
	}
	before, err := t.count()
	if err != nil {
		return nil, err
	}
	if err := j.work(func() { j.listen(ctx, cfg) }); err != nil {
		return nil, err
	}
	after, err := t.count()
	if err != nil {
		return nil, err
	}
	r = j.reception()
	r.Endpoint = between(before, after)[0]
	return r, nil
}

// listen waits for the end.
func (j *job) listen(ctx context.Context, cfg ReceiveConfig) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	report := time.Now().Add(time.Second)
	for ctx.Err() == nil && j.phase.Load() != ended {
		<-tick.C
		report = j.report(report)
		p := j.progress()
		if cfg.Duration > 0 && p.Elapsed >= cfg.Duration || cfg.Packets > 0 && p.Received[0]+p.Received[1] >= cfg.Packets {
			return
		}
	}
}

// reception adds up what lanes counted. The threads have ended.
func (j *job) reception() *Reception {
	r := &Reception{Elapsed: time.Duration(j.tester.clock.now() - j.start)}
	ways := [2]Way{}
	type key struct{ trial, stream uint8 }
	streams := map[key]heard{}
	for _, l := range j.lanes {
		for _, h := range append(l.receiver.history, l.receiver.streams()...) {
			k := key{h.trial, h.stream}
			streams[k] = heard{next: max(h.next, streams[k].next), received: h.received + streams[k].received}
		}
		r.Foreign += l.receiver.foreign
		r.ForeignOctets += l.receiver.foreignOctets
		r.Damaged += l.receiver.damaged
		for d, a := range l.receiver.ways {
			ways[d].add(a, j.start)
		}
	}
	for _, h := range streams {
		r.Lost += h.next - min(h.next, h.received)
	}
	for _, w := range ways {
		r.Received += w.Received
		r.Octets += w.ReceivedOctets
		r.Duplicated += w.Duplicated
		r.Reordered += w.Reordered
		r.BadChecksum += w.BadChecksum
		r.NoLatency += w.NoLatency
		r.First = cmp.Or(min(r.First, w.First), r.First, w.First)
		r.Last = max(r.Last, w.Last)
	}
	r.Latency = ways[0].Latency
	r.Latency.Merge(ways[1].Latency)
	return r
}
