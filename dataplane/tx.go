package dataplane

import (
	"encoding/binary"

	"handoff64/dataplane/nexthop"
	"handoff64/ring"
)

// tx queues every translated packet of the burst for its interface and starts
// hairpinned ones on their second round.
func (w *Worker) tx(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		switch m.verdict {
		case ready:
			w.enqueue(b.descs[i], m.dir)
		case forward:
			w.send(m)
		case turned:
			start := m.start - ethernetHeader
			binary.BigEndian.PutUint16(m.frame[start+12:], etherTypeIPv4)
			w.turn.add(w.umem, m.desc(), viaHairpin)
		}
	}
}

// desc describes the translated packet with its Ethernet header in front.
func (m *meta) desc() ring.Desc {
	base := m.addr - uint64(m.offset())
	return ring.Desc{Addr: base + uint64(m.start-ethernetHeader), Len: uint32(m.end - m.start + ethernetHeader)}
}

// send writes the Ethernet header and queues the packet.
func (w *Worker) send(m *meta) {
	dir := m.dir
	if m.via == viaHairpin {
		dir = Hairpin
	}
	m.hop.MarkUsed()
	writeEthernet(m.frame[m.start-ethernetHeader:], m.hop, dir)
	w.queue(m.hop, m.desc(), dir)
}

// queue a packet for the hop's interface, or for the host itself.
func (w *Worker) queue(h *nexthop.Hop, d ring.Desc, dir Direction) {
	if h.State == nexthop.Local {
		w.enqueueKernel(d, kernelCount(dir))
		return
	}
	w.enqueue(d, dir)
}

func writeEthernet(b []byte, h *nexthop.Hop, dir Direction) {
	_ = b[ethernetHeader-1]
	copy(b[:12], h.Eth[:])
	t := uint16(etherTypeIPv6)
	if dir == V6ToV4 {
		t = etherTypeIPv4
	}
	binary.BigEndian.PutUint16(b[12:], t)
}

// side is the interface that a direction leaves through.
func (d Direction) side() Family {
	if d == V6ToV4 {
		return IPv4
	}
	return IPv6
}

// enqueue appends to the outbox; a full one is sent first.
func (w *Worker) enqueue(d ring.Desc, dir Direction) {
	o := &w.out[dir.side()]
	if o.n == outboxSize {
		w.flushOutbox(dir.side())
	}
	o.descs[o.n], o.dirs[o.n] = d, dir
	o.n++
}

// enqueueAll appends a burst.
func (w *Worker) enqueueAll(ds []ring.Desc, dir Direction) {
	o := &w.out[dir.side()]
	if o.n+len(ds) > outboxSize {
		w.flushOutbox(dir.side())
	}
	copy(o.descs[o.n:], ds)
	for i := range ds {
		o.dirs[o.n+i] = dir
	}
	o.n += len(ds)
}

// flushOutbox hands what is queued to the port. What its ring does not take,
// also after the device was told to empty it, is dropped: waiting would stop
// everybody else's packets.
func (w *Worker) flushOutbox(side Family) {
	o := &w.out[side]
	if o.n == 0 {
		return
	}
	sent := o.send()
	var octets uint64
	for i := range sent {
		w.counters.Translated[o.dirs[i]]++
		octets += uint64(o.descs[i].Len)
	}
	w.counters.TxPackets[side] += uint64(sent)
	w.counters.TxBytes[side] += octets
	for i := sent; i < o.n; i++ {
		w.counters.drop(DropTXFull)
		if w.taps != nil {
			w.taps.refused(w, o.descs[i], o.dirs[i])
		}
		w.frames.Push(o.descs[i].Addr)
	}
	o.n = 0
}

// send hands packets to the port as long as it takes any, and returns how many
// it took. A ring may be smaller than what a round makes.
func (o *outbox) send() int {
	sent := o.port.Send(o.descs[:o.n])
	for sent < o.n {
		o.port.Flush()
		more := o.port.Send(o.descs[sent:o.n])
		if more == 0 {
			break
		}
		sent += more
	}
	return sent
}

// queued says whether something waits for a flush.
func (w *Worker) queued() bool { return w.out[IPv6].n+w.out[IPv4].n+w.kernel.n > 0 }

// flush gives to the ports what is queued: everything queued goes out and every port is told, so
// that nothing waits for the next packet to come.
func (w *Worker) flush() {
	w.flushOutbox(IPv6)
	w.flushOutbox(IPv4)
	for i := range w.rx {
		w.rx[i].Flush()
	}
	if w.kernel.port != nil {
		w.flushKernel()
		w.kernel.port.Flush()
	}
}
