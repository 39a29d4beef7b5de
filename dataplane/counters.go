package dataplane

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Family indexes what is counted per IP version; it also names the two sides.
type Family uint8

const (
	IPv6 Family = iota
	IPv4
	families
)

// Direction of a translated packet.
type Direction uint8

const (
	V6ToV4 Direction = iota
	V4ToV6
	Hairpin
	directions
)

// Counters are one worker's totals since it started. After every round
//
//	Rx + Generated = Translated + Passed + Parked + Drops
//
// holds for each worker, and so summed over all (invariant 8), at whatever
// moments they are read. Parked is a gauge: what a worker gave to others counts
// there until they took it, and is taken off theirs then, so that one worker's
// may be negative (modulo 2⁶⁴). Totals sums up.
type Counters struct {
	RxPackets, RxBytes [families]uint64
	TxPackets, TxBytes [families]uint64
	Translated         [directions]uint64
	Passed             [families]uint64
	Generated          uint64 // ICMP errors and additional fragments made here
	Parked             uint64 // waiting for a next hop, for other fragments, or on the way to another worker
	Suppressed         uint64 // ICMP errors not sent because of the rate limit
	NotifyLost         uint64 // notifications that found the ring to the handoff worker full
	EntryLost          uint64 // entries of servers that found no room
	Drops              [dropReasons]uint64
}

// hotCounters is how many words of Counters precede Drops.
const hotCounters = int(families)*4 + int(directions) + int(families) + 5

// counters couples the worker's private, plain totals with the copy that
// others may read. Only the worker calls its methods; load is for anybody.
type counters struct {
	Counters
	lastDrops uint64 // sum of Drops at the last publication
	drops     uint64 // running sum of Drops
	_         [64]byte
	round     atomic.Uint64 // odd while public is being written
	public    [hotCounters + int(dropReasons)]atomic.Uint64
}

func (c *counters) drop(r DropReason) {
	c.Drops[r]++
	c.drops++
}

// publish makes the totals visible. An atomic store costs as much as a
// translation step, so unchanged drop counters are left alone.
func (c *counters) publish() {
	round := c.round.Load()
	c.round.Store(round + 1)
	c.store()
	c.round.Store(round + 2)
}

func (c *counters) store() {
	hot := c.flat()
	for i, v := range hot {
		if c.public[i].Load() != v {
			c.public[i].Store(v)
		}
	}
	if c.drops == c.lastDrops {
		return
	}
	c.lastDrops = c.drops
	for r, v := range c.Drops {
		c.public[hotCounters+r].Store(v)
	}
}

func (c *counters) flat() [hotCounters]uint64 {
	return [hotCounters]uint64{
		c.RxPackets[0], c.RxPackets[1], c.RxBytes[0], c.RxBytes[1],
		c.TxPackets[0], c.TxPackets[1], c.TxBytes[0], c.TxBytes[1],
		c.Translated[0], c.Translated[1], c.Translated[2],
		c.Passed[0], c.Passed[1], c.Generated, c.Parked, c.Suppressed, c.NotifyLost, c.EntryLost,
	}
}

// load is the published state, as it was at the end of one round.
func (c *counters) load() Counters {
	for {
		round := c.round.Load()
		if round&1 == 0 {
			if out := c.read(); c.round.Load() == round {
				return out
			}
		}
		runtime.Gosched() // the worker may share our processor
	}
}

func (c *counters) read() (out Counters) {
	var v [hotCounters]uint64
	for i := range v {
		v[i] = c.public[i].Load()
	}
	out.RxPackets, out.RxBytes = [families]uint64{v[0], v[1]}, [families]uint64{v[2], v[3]}
	out.TxPackets, out.TxBytes = [families]uint64{v[4], v[5]}, [families]uint64{v[6], v[7]}
	out.Translated = [directions]uint64{v[8], v[9], v[10]}
	out.Passed = [families]uint64{v[11], v[12]}
	out.Generated, out.Parked, out.Suppressed, out.NotifyLost, out.EntryLost = v[13], v[14], v[15], v[16], v[17]
	for r := range out.Drops {
		out.Drops[r] = c.public[hotCounters+r].Load()
	}
	return out
}

// Add accumulates o into c.
func (c *Counters) Add(o *Counters) {
	for f := range families {
		c.RxPackets[f] += o.RxPackets[f]
		c.RxBytes[f] += o.RxBytes[f]
		c.TxPackets[f] += o.TxPackets[f]
		c.TxBytes[f] += o.TxBytes[f]
		c.Passed[f] += o.Passed[f]
	}
	for d := range directions {
		c.Translated[d] += o.Translated[d]
	}
	c.Generated += o.Generated
	c.Parked += o.Parked
	c.Suppressed += o.Suppressed
	c.NotifyLost += o.NotifyLost
	c.EntryLost += o.EntryLost
	for r := range o.Drops {
		c.Drops[r] += o.Drops[r]
	}
}

// Totals sums up what the workers of a translator counted. Safe from any
// goroutine.
func Totals(workers []*Worker) (sum Counters) {
	for range totalsTries {
		sum = Counters{}
		for _, w := range workers {
			c := w.Counters()
			sum.Add(&c)
		}
		if int64(sum.Parked) >= 0 {
			break
		}
		time.Sleep(totalsPause)
	}
	return sum
}

// Totals begins anew when a packet changed hands between the reading of the
// worker that gave it and of the one that has it, so that more were taken than
// given. The giver may have lost its processor within that round: it gets time
// to finish it, though not for ever.
const (
	totalsTries = 1000
	totalsPause = 100 * time.Microsecond
)

// Balanced says whether every packet is accounted for, and by how many
// packets it is not.
func (c *Counters) Balanced() (difference int64, ok bool) {
	in := c.RxPackets[IPv6] + c.RxPackets[IPv4] + c.Generated
	out := c.Passed[IPv6] + c.Passed[IPv4] + c.Parked
	for _, v := range c.Translated {
		out += v
	}
	for _, v := range c.Drops {
		out += v
	}
	return int64(in) - int64(out), in == out
}
