package server

import (
	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// query takes an IPv6 packet for this host that a NAT64 has no entry for
// (draft §10).
func (h *handler) query(d *datagram, c *channel, p *wire.Payload) outcome {
	q := &h.parsed
	if packet.Parse6(p.Packet, 0, q) != packet.Good {
		return refusedPacket
	}
	if addr4(p.Packet[packet.IPv6Dst+12:][:4]) != c.knownAs {
		return refusedDestination
	}
	if !unicast6(fromWords(q.SrcHi, q.SrcLo)) {
		return refusedClient
	}
	if h.resumesLease(c, p) {
		return h.toLessee(d, c, p)
	}
	switch h.mode {
	case LocalNAT:
		return h.queryLocal(d, c, p)
	case Mixed:
		return h.queryMixed(d, c, p)
	}
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		return h.queryEntry(d, c, p)
	case packet.KindEchoRequest:
		return h.echo(d, p)
	case packet.KindICMPError:
		if h.nat != nil {
			return h.errorToLocal(d, c, p) // of a lease, maybe
		}
		return h.errorFromClient(d, c, p)
	case packet.KindFragment:
		return refusedFragment
	case packet.KindEchoReply, packet.KindICMPOther:
		return refusedICMP
	}
	return h.unsupported6(d, p)
}

// queryEntry finds or makes the entry of a TCP or UDP packet and returns both in
// format (c).
func (h *handler) queryEntry(d *datagram, c *channel, p *wire.Payload) outcome {
	i, o := h.entryFor(d, c, p)
	if o != accepted {
		return o
	}
	h.sendEntry(d, c, i, p.Authenticator, p.Packet)
	return answered
}

// entryFor finds or makes the entry of a TCP or UDP packet.
func (h *handler) entryFor(d *datagram, c *channel, p *wire.Payload) (uint32, outcome) {
	q := &h.parsed
	if q.SrcPort == 0 {
		return 0, refusedClient
	}
	k := tupleOf(p.Packet, q.SrcPort)
	i := c.find(k)
	// A NAT64 that has moved its end of the channel to a port that an entry has
	// would refuse that entry.
	if i != 0 && c.entries[i].mapped == d.fromPort {
		h.table.remove(c, i, h.now, &h.out.changes)
		i = 0
	}
	if i != 0 {
		c.touch(i)
	} else {
		var o outcome
		if i, o = h.table.create(c, k, p.Hint, d.fromPort, h.now, &h.out.changes); o != accepted {
			return 0, o
		}
	}
	h.knowEntryAuthenticator(c, i, p.Authenticator)
	return i, accepted
}

// knowEntryAuthenticator keeps the newest authenticator of an entry's client,
// for its leases too.
func (h *handler) knowEntryAuthenticator(c *channel, i uint32, auth []byte) {
	if h.table.setAuthenticator(c, i, auth, &h.out.changes) {
		h.rebind(c, c.entries[i].client)
	}
}

// errorFromClient takes an ICMPv6 error that no entry of the NAT64's fits. The
// packet that it quotes was sent by this host to a client, and the entry is that
// client's, whoever sent the error: a router, often. So the authenticator is the
// one stored for the client.
func (h *handler) errorFromClient(d *datagram, c *channel, p *wire.Payload) outcome {
	q, inner := &h.parsed, &h.inner
	if packet.ParseQuoted6(p.Packet, int(q.L4)+packet.ICMPLen, int(q.End), inner) != packet.Good {
		return refusedPacket
	}
	if inner.Kind != packet.KindTCP && inner.Kind != packet.KindUDP {
		return refusedICMP
	}
	from := fromWords(inner.SrcHi, inner.SrcLo)
	if addr4(from[12:]) != c.knownAs {
		return refusedForeign
	}
	i := c.find(tuple{prefix: prefix96(from[:12]), client: fromWords(inner.DstHi, inner.DstLo), port: inner.DstPort})
	if i == 0 {
		return refusedICMP
	}
	c.touch(i)
	h.sendEntry(d, c, i, c.clientOf(i).auth, p.Packet)
	return matched
}
