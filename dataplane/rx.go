package dataplane

// receive starts a burst with what the port has. The frames are the worker's
// from here on.
func (w *Worker) receive(p *inPort) int {
	b := &w.main
	b.n, w.side = 0, p.family
	n := p.Recv(b.descs[:])
	var octets uint64
	for i := range n {
		b.add(w.umem, b.descs[i], viaPort)
		octets += uint64(b.descs[i].Len)
	}
	if w.stick {
		w.countMixed(b)
		return n
	}
	w.counters.RxPackets[p.family] += uint64(n)
	w.counters.RxBytes[p.family] += octets
	return n
}

// countMixed counts by EtherType where both families share an interface.
func (w *Worker) countMixed(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		f, off := IPv4, m.offset()
		if m.len >= ethernetHeader && m.frame[off+12] == etherTypeIPv6>>8 {
			f = IPv6
		}
		w.counters.RxPackets[f]++
		w.counters.RxBytes[f] += uint64(m.len)
	}
}
