package dataplane

import "handoff64/ring"

// receive starts a burst with the descriptors of what the port has. The frames
// are the worker's from here on.
func (w *Worker) receive(p *inPort) int {
	b := &w.main
	b.n, w.side = 0, p.family
	n := p.Recv(b.descs[:])
	w.touched += b.touch(w.umem, n)
	if p.family == IPv4 {
		w.touched += b.touchHeadroom(w.umem, n)
	}
	var octets uint64
	for i := range n {
		octets += uint64(b.descs[i].Len)
	}
	b.n = n
	if w.stick {
		w.countMixed(b)
		return n
	}
	w.counters.RxPackets[p.family] += uint64(n)
	w.counters.RxBytes[p.family] += octets
	return n
}

// headerLine is the size of a cache line, which received packets start at: the
// headers of UDP over IPv6 fit one, those of TCP take two.
const headerLine = 64

// touch reads an octet of each cache line with headers of the first n packets.
// As a rule another CPU wrote them: asked for one behind the other the lines
// come together, while the parser would wait for each. The sum keeps the loads.
func (b *burst) touch(u *ring.UMEM, n int) (sum uint8) {
	for i := range n {
		d := &b.descs[i]
		sum += u.Mem[d.Addr]
		if d.Len > headerLine {
			sum += u.Mem[d.Addr+headerLine]
		}
	}
	return sum
}

// headerGrowth is how far in front of an IPv4 packet its translation begins.
const headerGrowth = 20

// touchHeadroom does so with the line that translation to IPv6 grows into,
// which nobody has used since the frame was here last.
func (b *burst) touchHeadroom(u *ring.UMEM, n int) (sum uint8) {
	for i := range n {
		if at := b.descs[i].Addr; at >= headerGrowth {
			sum += u.Mem[at-headerGrowth]
		}
	}
	return sum
}

// countMixed counts by EtherType where both families share an interface.
func (w *Worker) countMixed(b *burst) {
	for i := range b.n {
		d := &b.descs[i]
		f := IPv4
		if d.Len >= ethernetHeader && w.umem.Mem[d.Addr+12] == etherTypeIPv6>>8 {
			f = IPv6
		}
		w.counters.RxPackets[f]++
		w.counters.RxBytes[f] += uint64(d.Len)
	}
}
