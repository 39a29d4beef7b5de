package generator

import (
	"sync/atomic"

	"handoff64/bench/traffic"
	"handoff64/ring"
)

// sender sends one stream: every so manieth flow of the order, on one lane.
// Owned by the lane's thread; others read what it shows.
type sender struct {
	builder *traffic.Builder
	flows   traffic.Source
	share   share
	trial   uint8
	stream  uint8
	pace    pace

	sequence uint64 // of the next packet: how many were sent
	octets   uint64
	ringFull uint64 // packets that were not taken at the first attempt
	noFrame  uint64 // rounds without a free frame
	ended    int64  // when the last packet had been sent; 0: not yet

	shown struct{ packets, octets atomic.Uint64 }
	done  atomic.Bool
}

// share is what one of several senders has of an order of flows. Immutable.
type share struct {
	order  traffic.Permutation
	list   []uint64 // instead of the order, if not nil
	offset uint64   // place of the first packet in the order
	index  uint64
	of     uint64
}

// flow is the number of the flow that the packet of the sequence number is of.
func (s *share) flow(sequence uint64) uint64 {
	place := s.offset + sequence*s.of + s.index
	if s.list != nil {
		return s.list[place%uint64(len(s.list))]
	}
	return s.order.At(place)
}

// round sends what is due.
func (s *sender) round(l *lane, c *clock) {
	if s.done.Load() {
		return
	}
	now := c.now()
	n, more := s.pace.due(now)
	if n == 0 {
		if !more {
			s.ended = now
			s.done.Store(true)
		}
		return
	}
	n = s.build(l, n, uint64(now))
	taken := l.ports[0].Send(l.descs[:n])
	for _, d := range l.descs[taken:n] {
		l.frames.Push(d.Addr)
	}
	s.ringFull += uint64(n - taken)
	if taken == 0 {
		return
	}
	for _, d := range l.descs[:taken] {
		s.octets += uint64(d.Len)
	}
	s.sequence += uint64(taken)
	s.pace.sent(taken)
	s.shown.packets.Store(s.sequence)
	s.shown.octets.Store(s.octets)
}

// build writes up to n frames and returns how many there was room for.
func (s *sender) build(l *lane, n int, now uint64) int {
	stamp := traffic.Stamp{Trial: s.trial, Stream: s.stream, Time: now}
	size := uint64(l.umem.FrameSize)
	for i := range n {
		frame, ok := l.frames.Pop()
		if !ok {
			s.noFrame++
			return i
		}
		stamp.Sequence = s.sequence + uint64(i)
		addr := frame + ring.Headroom
		octets := s.builder.Build(l.umem.Mem[addr:frame+size], stamp.Sequence, s.flows.Tuple(s.share.flow(stamp.Sequence)), stamp)
		l.descs[i] = ring.Desc{Addr: addr, Len: uint32(octets)}
	}
	return n
}
