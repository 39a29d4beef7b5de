package generator

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"handoff64/bench/trial"
)

// Progress is what was sent and received so far, by direction, duplicates
// included.
type Progress struct {
	Elapsed                    time.Duration
	Sent, Received             [2]uint64
	SentOctets, ReceivedOctets [2]uint64
	SendsIn, ReceivesIn        [2]bool // whether anything is sent, and received, in the direction
}

func (j *job) progress() (p Progress) {
	p.Elapsed = time.Duration(j.tester.clock.now() - j.start)
	if j.player != nil {
		p.SendsIn[0], p.Sent[0], p.SentOctets[0] = true, j.player.shown.packets.Load(), j.player.shown.octets.Load()
		return p
	}
	for d := range p.Sent {
		p.SendsIn[d], p.ReceivesIn[d] = len(j.senders[d]) > 0, len(j.arrivals[d]) > 0
		for _, s := range j.senders[d] {
			p.Sent[d] += s.shown.packets.Load()
			p.SentOctets[d] += s.shown.octets.Load()
		}
		for _, a := range j.arrivals[d] {
			p.Received[d] += a.shown.packets.Load()
			p.ReceivedOctets[d] += a.shown.octets.Load()
		}
	}
	return p
}

// Way is what came of the packets of one direction.
type Way struct {
	Sent, SentOctets         uint64
	Received, ReceivedOctets uint64 // Received is without duplicates
	Lost                     uint64
	Duplicated               uint64
	Reordered                uint64 // came behind a later one (RFC 4737 §3.3)
	BadChecksum              uint64 // if they were verified
	NoLatency                uint64 // packets whose delay makes no sense: stamped ahead of our clock or ten seconds ago

	Missed   uint64        // packets that were not sent as the sender was held up
	RingFull uint64        // packets that had to wait for room in a TX ring
	NoFrame  uint64        // bursts cut short for want of a free frame
	Elapsed  time.Duration // of sending
	Rate     float64       // at which was sent, packets per second
	Wanted   float64       // rate that was asked for, 0: as much as possible

	First, Last time.Duration           // when the first and the last packet arrived, from the start
	Latency     *hdrhistogram.Histogram // nanoseconds; nil if nothing is received here
}

// Loss is the share of what was sent that is lost.
func (w *Way) Loss() float64 {
	if w.Sent == 0 {
		return 0
	}
	return float64(w.Lost) / float64(w.Sent)
}

// RateError is how far the rate is from the wanted one, as a share of it.
func (w *Way) RateError() float64 {
	if w.Wanted == 0 {
		return 0
	}
	return w.Rate/w.Wanted - 1
}

// Result is what came of a Run.
type Result struct {
	Ways        [2]*Way // by direction; nil: nothing was sent
	Interrupted bool

	Foreign uint64 // IP packets without a stamp that reached the sockets
	Stale   uint64 // of earlier trials
	Astray  uint64 // received on the wrong side
	Damaged uint64 // with a broken stamp

	Endpoints []EndpointCounters // initiator, responder; one if they are the same
}

// OwnLoss is how many packets came and were lost here, for want of speed or
// frames: a result with some says little about the device.
func (r *Result) OwnLoss() (n uint64) {
	for _, e := range r.Endpoints {
		n += e.Sockets.Lost()
	}
	return n
}

// EndpointCounters are what interface and kernel counted during a Run.
type EndpointCounters struct {
	Interface string         `json:"interface"`
	XDPMode   string         `json:"xdp_mode"`
	ZeroCopy  bool           `json:"zero_copy"`
	Queues    int            `json:"queues"`
	Passed    uint64         `json:"left_to_kernel"` // packets of others
	Stuck     uint64         `json:"tx_incomplete"`  // packets that the kernel has not completed at the end
	Link      LinkCounters   `json:"link"`
	Sockets   SocketCounters `json:"sockets"`
}

// count asks for all counters of the interfaces.
func (t *Tester) count() (all []EndpointCounters, err error) {
	for _, s := range t.stations {
		c := EndpointCounters{Interface: s.info.Name, XDPMode: string(s.info.Mode), ZeroCopy: s.info.ZeroCopy, Queues: s.info.Queues}
		c.Stuck = s.stuck()
		if c.Passed, err = s.capture.foreign(); err != nil {
			return nil, err
		}
		if c.Link, err = s.linkCounters(); err != nil {
			return nil, err
		}
		if c.Sockets, err = s.socketCounters(); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func between(before, after []EndpointCounters) []EndpointCounters {
	for i := range after {
		after[i].Passed -= before[i].Passed
		after[i].Link = after[i].Link.minus(before[i].Link)
		after[i].Sockets = after[i].Sockets.minus(before[i].Sockets)
	}
	return after
}

// result adds up what lanes counted. The threads have ended.
func (j *job) result() *Result {
	r := &Result{}
	for _, d := range j.run.Direction.Senders() {
		r.Ways[d] = j.way(d)
	}
	for _, l := range j.lanes {
		r.Foreign += l.receiver.foreign
		r.Stale += l.receiver.stale
		r.Astray += l.receiver.astray
		r.Damaged += l.receiver.damaged
	}
	return r
}

func (j *job) way(d trial.Direction) *Way {
	w := &Way{Wanted: j.run.Rate}
	ended := int64(0)
	for _, s := range j.senders[d] {
		w.Sent += s.sequence
		w.SentOctets += s.octets
		w.Missed += s.pace.missed
		w.RingFull += s.ringFull
		w.NoFrame += s.noFrame
		if s.ended == 0 { // interrupted
			s.ended = j.cut
		}
		ended = max(ended, s.ended)
	}
	w.Elapsed = time.Duration(ended - j.start)
	if w.Elapsed > 0 {
		w.Rate = float64(w.Sent) / w.Elapsed.Seconds()
	}
	for _, a := range j.arrivals[d] {
		w.add(a, j.start)
	}
	if w.Latency != nil && w.Sent > w.Received {
		w.Lost = w.Sent - w.Received
	}
	return w
}

// add counts what one lane received.
func (w *Way) add(a *arrivals, start int64) {
	if w.Latency == nil {
		w.Latency = trial.NewHistogram()
	}
	w.Latency.Merge(a.latency)
	w.ReceivedOctets += a.octets
	w.BadChecksum += a.badChecksum
	w.NoLatency += a.noLatency
	for _, t := range a.trackers {
		w.Received += t.received
		w.Duplicated += t.duplicated
		w.Reordered += t.reordered
	}
	if a.count == 0 {
		return
	}
	if first := time.Duration(a.first - start); w.First == 0 || first < w.First {
		w.First = first
	}
	w.Last = max(w.Last, time.Duration(a.last-start))
}

// Outcome is the result as bench/trial has it.
func (r *Result) Outcome() trial.Outcome {
	var out trial.Outcome
	for d, w := range r.Ways {
		if w == nil {
			continue
		}
		out.Sent[d], out.Received[d] = w.Sent, w.Received
		out.Elapsed = max(out.Elapsed, w.Elapsed)
		if w.Latency == nil {
			continue
		}
		if out.Latency == nil {
			out.Latency = trial.NewHistogram()
		}
		out.Latency.Merge(w.Latency)
	}
	return out
}
