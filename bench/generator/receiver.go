package generator

import (
	"sync/atomic"

	"github.com/HdrHistogram/hdrhistogram-go"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
	"handoff64/ring"
)

// stream numbers a sender: the direction in the upper bit, the lane below.
func stream(d trial.Direction, lane int) uint8 { return uint8(d)<<7 | uint8(lane) }

// receiver counts what one lane receives, of both directions. Owned by the
// lane's thread; others read what it shows.
type receiver struct {
	trial        uint8
	follow       bool // take up trials as they come, whatever their number
	verify       bool
	latencyAfter int64        // what is received earlier has no say in the delays
	ways         [2]*arrivals // by direction; nil: nothing of it is expected here
	parsed       traffic.Packet

	history []heard // of trials that others followed

	foreign       uint64 // without a stamp
	foreignOctets uint64
	stale         uint64 // of an earlier trial
	astray        uint64 // of a direction that does not end here
	damaged       uint64 // with a broken stamp
}

// arrivals is what one lane received of one direction.
type arrivals struct {
	trackers    []*tracker // by sender
	latency     *hdrhistogram.Histogram
	octets      uint64
	badChecksum uint64
	noLatency   uint64 // packets whose time lies ahead or too far behind
	first, last int64
	learn       *lesson

	shown struct{ packets, octets atomic.Uint64 }
	count uint64 // packets, duplicates included
}

func newArrivals(senders int, learn *lesson) *arrivals {
	a := &arrivals{latency: trial.NewHistogram(), learn: learn}
	for range senders {
		a.trackers = append(a.trackers, &tracker{})
	}
	return a
}

// burst counts received packets, which the caller keeps.
func (r *receiver) burst(u *ring.UMEM, descs []ring.Desc, now int64) {
	for _, d := range descs {
		r.packet(u.Packet(d), now)
	}
	for _, a := range r.ways {
		if a != nil && a.count != a.shown.packets.Load() {
			a.shown.packets.Store(a.count)
			a.shown.octets.Store(a.octets)
		}
	}
}

func (r *receiver) packet(frame []byte, now int64) {
	p := &r.parsed
	if !traffic.Parse(frame, p) {
		r.foreign++
		r.foreignOctets += uint64(len(frame))
		return
	}
	stamp, verdict := traffic.ReadStamp(frame[p.Payload:p.End])
	switch {
	case verdict == traffic.Foreign:
		r.foreign++
		r.foreignOctets += uint64(len(frame))
		return
	case verdict == traffic.Damaged:
		r.damaged++
		return
	case stamp.Trial != r.trial && r.follow:
		r.turn(stamp.Trial)
	case stamp.Trial != r.trial:
		r.stale++
		return
	}
	a, lane := r.ways[stamp.Stream>>7], int(stamp.Stream&0x7f)
	if a == nil {
		r.astray++
		return
	}
	if lane >= len(a.trackers) {
		r.damaged++
		return
	}
	if a.count == 0 {
		a.first = now
	}
	a.last = now
	a.count++
	a.octets += uint64(len(frame))
	a.trackers[lane].add(stamp.Sequence)
	if now >= r.latencyAfter {
		if age := stamp.Since(uint64(now)); age < 0 || a.latency.RecordValue(age) != nil {
			a.noLatency++
		}
	}
	if r.verify && !traffic.ChecksumsRight(frame, p) {
		a.badChecksum++
	}
	if a.learn != nil {
		a.learn.note(lane, stamp.Sequence, p)
	}
}
