package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// HostRules say what of the packets to pool4 addresses is the host's own. For
// whole packets the XDP filter has decided that; fragments come all, because
// only a datagram's first fragment shows whose it is. The zero value leaves
// nothing to the host. It is plain data; see filterFrom, which makes the
// filter's rules out of the same configuration.
type HostRules struct {
	Enabled bool
	// Exclusive leaves the host nothing but ControlPort, errors about it, and the
	// protocols that are not in OurProtocols.
	Exclusive bool
	// Pool has the NAT's port ranges; static mappings are in the table.
	Pool []PoolPorts
	// UDP is where UDP differs from TCP: one port that is the host's in spite of
	// Pool, and one that is the NAT's. Zero: none.
	ControlPort, DiscardPort uint16
	// OurProtocols has a bit for each protocol without ports that is ours.
	OurProtocols [4]uint64
}

// PoolPorts are the NAT's ports of a range of pool4 addresses.
type PoolPorts struct {
	First, Last uint32
	Ports       [][2]uint16
}

// hasProtocol says whether a protocol without ports is the host's.
func (h *HostRules) hasProtocol(proto uint8) bool {
	return h.Enabled && h.OurProtocols[proto>>6]>>(proto&63)&1 == 0
}

// inPool says whether the port, or the identifier, is one that the NAT gives out.
func (h *HostRules) inPool(addr uint32, port uint16) bool {
	for i := range h.Pool {
		p := &h.Pool[i]
		if addr-p.First > p.Last-p.First {
			continue
		}
		for _, r := range p.Ports {
			if r[0] <= port && port <= r[1] {
				return true
			}
		}
	}
	return false
}

// isHosts says whether an IPv4 datagram, by its first fragment, is the host's
// own, as the filter says it of whole packets.
func (w *Worker) isHosts(m *meta) bool {
	h := &w.rules.Host
	if !h.Enabled {
		return false
	}
	if h.Exclusive {
		return w.isHostsInSpite(m)
	}
	switch m.p.Kind {
	case packet.KindTCP, packet.KindUDP:
		return !w.isOurs(conntrack.Proto(m.p.Proto), m.p.Dst4, m.p.DstPort)
	case packet.KindEchoRequest:
		// A ping to the pool4 address itself is the host's to answer.
		return !w.isStatic(conntrack.ICMP, m.p.Dst4, m.p.DstPort)
	case packet.KindEchoReply:
		return !w.isOurs(conntrack.ICMP, m.p.Dst4, m.p.DstPort)
	case packet.KindICMPError:
		return m.p.ICMPType == packet.ICMPv4Redirect || !w.quotesOurs(m)
	case packet.KindICMPOther:
		return true
	}
	return h.hasProtocol(m.p.Proto)
}

// isHostsInSpite is isHosts for addresses that are the NAT's alone.
func (w *Worker) isHostsInSpite(m *meta) bool {
	h := &w.rules.Host
	switch m.p.Kind {
	case packet.KindTCP, packet.KindEchoRequest, packet.KindEchoReply, packet.KindICMPOther:
		return false
	case packet.KindUDP:
		return h.ControlPort != 0 && m.p.DstPort == h.ControlPort
	case packet.KindICMPError:
		q := &m.quote
		if m.p.ICMPType == packet.ICMPv4Redirect || packet.ParseQuoted4(m.frame, int(m.p.L4)+icmpHeader, int(m.p.End), q) != packet.Good {
			return false
		}
		return q.Kind == packet.KindUDP && h.ControlPort != 0 && q.SrcPort == h.ControlPort || q.Kind == packet.KindOther && h.hasProtocol(q.Proto)
	}
	return h.hasProtocol(m.p.Proto)
}

// isOurs says whether a transport address is the NAT's.
func (w *Worker) isOurs(proto conntrack.Proto, addr uint32, port uint16) bool {
	h := &w.rules.Host
	if proto == conntrack.UDP && port != 0 {
		switch port {
		case h.ControlPort:
			return false
		case h.DiscardPort:
			return true
		}
	}
	return h.inPool(addr, port) || w.isStatic(proto, addr, port)
}

func (w *Worker) isStatic(proto conntrack.Proto, addr uint32, port uint16) bool {
	b, ok := w.table.FindBIB(proto, addr, port)
	return ok && b.Static
}

// quotesOurs says whether the packet that an ICMP error quotes left from the
// NAT.
func (w *Worker) quotesOurs(m *meta) bool {
	q := &m.quote
	if packet.ParseQuoted4(m.frame, int(m.p.L4)+icmpHeader, int(m.p.End), q) != packet.Good || q.Kind == packet.KindFragment {
		return false
	}
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		return w.isOurs(conntrack.Proto(q.Proto), q.Src4, q.SrcPort)
	case packet.KindEchoRequest, packet.KindEchoReply:
		return w.isOurs(conntrack.ICMP, q.Src4, q.SrcPort)
	case packet.KindOther:
		return !w.rules.Host.hasProtocol(q.Proto) && w.rules.Pool4.Contains(q.Src4)
	}
	return false
}
