package server

import (
	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// hosted takes an IPv4 packet to the NAT64 that the NAT64 has no entry for
// (draft §10): from this host, or an ICMP error about one of a client's packets.
func (h *handler) hosted(d *datagram, c *channel, p *wire.Payload) outcome {
	q := &h.parsed
	if packet.Parse4(p.Packet, 0, q) != packet.Good {
		return refusedPacket
	}
	if q.Dst4 != word4(d.from) {
		return refusedDestination
	}
	if q.Kind == packet.KindICMPError {
		return h.errorFromNetwork(d, c, p)
	}
	if q.Src4 != word4(c.knownAs) {
		return refusedForeign
	}
	if h.mode == Mixed {
		return h.hostedMixed(d, c, p)
	}
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		return h.hostedPacket(d, c, p)
	case packet.KindFragment:
		return refusedFragment
	case packet.KindEchoReply, packet.KindICMPOther:
		return refusedICMP
	}
	return h.unsupported4(d, p)
}

// hostedPacket returns a TCP or UDP packet of a local program's: with its entry
// in format (c), or alone in format (a) when there is none. The latter is also
// how a validation packet that has come back is answered: it is the only sign
// by which a NAT64 learns that a server is here.
func (h *handler) hostedPacket(d *datagram, c *channel, p *wire.Payload) outcome {
	i := c.findMapped(h.parsed.DstPort)
	if i == 0 {
		h.sendBack(d, p.Token, p.Packet)
		return returned
	}
	c.touch(i)
	h.sendEntry(d, c, i, c.clientOf(i).auth, p.Packet)
	return matched
}

// errorFromNetwork takes an ICMP error that quotes a packet of a client's after
// translation: from the NAT64's address and a mapped port to this host.
func (h *handler) errorFromNetwork(d *datagram, c *channel, p *wire.Payload) outcome {
	q, inner := &h.parsed, &h.inner
	if packet.ParseQuoted4(p.Packet, int(q.L4)+packet.ICMPLen, int(q.End), inner) != packet.Good {
		return refusedPacket
	}
	if inner.Src4 != word4(d.from) || inner.Dst4 != word4(c.knownAs) {
		return refusedForeign
	}
	if l := c.leases.byProtocol[inner.Proto]; l != nil && h.mode == Mixed {
		return h.errorMixed(d, c, p, l.client, l.prefix, 0)
	}
	if !isPorted(inner) {
		return refusedICMP
	}
	i := c.findMapped(inner.SrcPort)
	if i == 0 {
		return refusedICMP
	}
	c.touch(i)
	if e := &c.entries[i]; h.mode == Mixed {
		return h.errorMixed(d, c, p, e.client, e.prefix, e.clientPort)
	}
	h.sendEntry(d, c, i, c.clientOf(i).auth, p.Packet)
	return matched
}
