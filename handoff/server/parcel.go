package server

import "handoff64/handoff/tundev"

// parcels gathers packets for the local programs, each in a buffer of its own
// with room in front for what the kernel wants to know, and behind for packets
// of the same flow, which the device joins to it. Owned by one goroutine.
type parcels struct {
	store [][]byte
	bufs  [][]byte
}

func newParcels() *parcels {
	p := &parcels{store: make([][]byte, burst), bufs: make([][]byte, 0, burst)}
	for i := range p.store {
		p.store[i] = make([]byte, tundev.Offset, tundev.Offset+maxDatagram)
	}
	return p
}

// full says whether write must come before the next add.
func (p *parcels) full() bool { return len(p.bufs) == len(p.store) }

// add copies a packet. There is room.
func (p *parcels) add(pkt []byte) {
	p.bufs = append(p.bufs, append(p.store[len(p.bufs)][:tundev.Offset], pkt...))
}

// write hands all packets to the device. What it refuses is counted and lost: a
// network promises no more.
func (p *parcels) write(d device, c *localCounters) {
	if len(p.bufs) == 0 {
		return
	}
	if _, err := d.Write(p.bufs, tundev.Offset); err != nil {
		c.writeErrors.Add(1)
	}
	p.bufs = p.bufs[:0]
}
