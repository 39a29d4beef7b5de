package server

import (
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
	"handoff64/handoff/localnat"
	"handoff64/handoff/wire"
)

// Mixed mode (draft §11): local programs see the NAT64's address. A client's
// packet is translated and delivered here; the answer takes the ordinary way to
// the NAT64, which has no entry for it and brings it here over the control
// channel; translated, it goes back there in format (b).
//
//	client ─► NAT64 ═ IPv6 ═► query ─► TUN ─► local program
//	client ◄─ NAT64 ◄═ IPv6, (b) ═ hosted ◄═ IPv4 ═ NAT64 ◄─┘

// queryMixed takes an IPv6 packet in mixed mode.
func (h *handler) queryMixed(d *datagram, c *channel, p *wire.Payload) outcome {
	q := &h.parsed
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		return h.mappedToLocal(d, c, p)
	case packet.KindEchoRequest:
		// An answer of the kernel's would end at the NAT64, which takes pings to
		// its address for its own (draft §8).
		return h.echo(d, p)
	case packet.KindICMPError:
		return h.errorToLocal(d, c, p)
	case packet.KindEchoReply, packet.KindICMPOther:
		return refusedICMP
	case packet.KindFragment:
		if q.Proto == packet.ProtoICMPv6 {
			return refusedFragment
		}
		if q.Proto == packet.ProtoTCP || q.Proto == packet.ProtoUDP {
			return h.laterToLocal(d, c, p)
		}
	}
	return h.protocolToLocal(d, c, p)
}

// pairMixed is the two ends of a client's packets as mixed mode has them.
func (h *handler) pairMixed(c *channel, p prefix96, client addr6) localnat.Pair {
	return localnat.Pair{Client: client, Server: embed(p, c.knownAs), Address: c.key.nat64, Own: c.key.own}
}

// mappedToLocal delivers a TCP or UDP packet under its entry's mapped port.
func (h *handler) mappedToLocal(d *datagram, c *channel, p *wire.Payload) outcome {
	if o := h.deliverable(d, p); o != accepted {
		return o
	}
	i, o := h.entryFor(d, c, p)
	if o != accepted {
		return o
	}
	e := &c.entries[i]
	k := tupleOf(p.Packet, 0)
	pair := h.pairMixed(c, k.prefix, k.client)
	pkt, s := h.nat.ToLocal(p.Packet, &h.parsed, &pair, e.mapped, h.mssToLocal(c, p))
	if s != xlat.OK {
		return refusedTranslation
	}
	h.deliver(e.id, pkt)
	return delivered
}

// laterToLocal delivers a fragment other than the first: the address says all
// that there is to translate. Its client has an entry, or no first fragment of
// it was ever delivered.
func (h *handler) laterToLocal(d *datagram, c *channel, p *wire.Payload) outcome {
	if o := h.deliverable(d, p); o != accepted {
		return o
	}
	k := tupleOf(p.Packet, 0)
	client, ok := c.clientIndex[k.client]
	if !ok {
		return refusedFragment
	}
	pair := h.pairMixed(c, k.prefix, k.client)
	pkt, s := h.nat.ToLocal(p.Packet, &h.parsed, &pair, 0, 0)
	if s != xlat.OK {
		return refusedTranslation
	}
	h.deliver(c.clients[client].id, pkt)
	return delivered
}

// protocolToLocal delivers a packet of a protocol without ports: one client of
// a NAT64 has such a protocol to itself, the first one, until it is silent and
// another comes.
func (h *handler) protocolToLocal(d *datagram, c *channel, p *wire.Payload) outcome {
	if o := h.deliverable(d, p); o != accepted {
		return o
	}
	k, protocol := tupleOf(p.Packet, 0), h.parsed.Proto
	l := c.leases.byProtocol[protocol]
	if l != nil && l != c.findLease(k.prefix, k.client, protocol) {
		if h.now-l.used < minIdle {
			h.answer6(d, p, packet.ICMPv6Unreachable, unreachableProhibited, 0)
			return protocolTaken
		}
		h.table.release(l, h.now, &h.out.changes)
		l = nil
	}
	if l == nil {
		var o outcome
		if l, o = h.table.insertLease(c, k.prefix, k.client, protocol, c.key.nat64, h.now, &h.out.changes); o != accepted {
			return o
		}
	}
	l.touch(h.now)
	h.knowAuthenticator(l, p.Authenticator)
	pair := h.pairMixed(c, k.prefix, k.client)
	pkt, s := h.nat.ToLocal(p.Packet, &h.parsed, &pair, 0, 0)
	if s != xlat.OK {
		return refusedTranslation
	}
	h.deliver(l.id, pkt)
	return delivered
}

// hostedMixed takes an IPv4 packet of this host's that the NAT64 brought back,
// and answers with its translation.
func (h *handler) hostedMixed(d *datagram, c *channel, p *wire.Payload) outcome {
	q := &h.parsed
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		i := c.findMapped(q.DstPort)
		if i == 0 {
			h.sendBack(d, p.Token, p.Packet)
			return returned
		}
		c.touch(i)
		h.later.note(c, q, i)
		e := &c.entries[i]
		return h.toClient(d, c, p, e.client, e.prefix, e.clientPort)
	case packet.KindFragment:
		if i := h.later.find(c, q); i != 0 {
			e := &c.entries[i]
			return h.toClient(d, c, p, e.client, e.prefix, 0)
		}
		if q.Proto == packet.ProtoTCP || q.Proto == packet.ProtoUDP || q.Proto == packet.ProtoICMP {
			return refusedFragment
		}
	case packet.KindEchoRequest, packet.KindEchoReply, packet.KindICMPOther:
		return refusedICMP
	}
	if l := c.leases.byProtocol[q.Proto]; l != nil {
		return h.toClient(d, c, p, l.client, l.prefix, 0)
	}
	return h.unsupported4(d, p)
}

// toClient translates an IPv4 packet of this host's and sends it in format (b).
func (h *handler) toClient(d *datagram, c *channel, p *wire.Payload, client uint32, prefix uint16, port uint16) outcome {
	q, who := &h.parsed, &c.clients[client]
	if q.TTL <= 1 {
		h.localError4(d, p, packet.ICMPv4TimeExceeded, 0, 0)
		return expired
	}
	room := c.path.datagram(h.now) - 2 - len(who.auth)
	if xlat.Size6(q) > room && q.DF {
		h.localError4(d, p, packet.ICMPv4Unreachable, fragmentationNeeded, uint32(room-(xlat.Size6(q)-int(q.End-q.L3))))
		return tooBig
	}
	pair := h.pairMixed(c, c.prefixes[prefix], who.addr)
	b := h.headroom(p.Packet)
	if b == nil {
		return refusedPacket
	}
	mss := uint16(max(0, c.path.datagram(h.now)-inbound(len(p.Token), len(who.auth))-packet.IPv6Len-packet.TCPLen))
	pkt, s := h.nat.ToClient(b, q, &pair, port, mss)
	if s != xlat.OK {
		return refusedTranslation
	}
	h.sendTranslated(d, who.auth, pkt, room)
	return translated
}

// fragmentationNeeded is the code of an ICMPv4 unreachable message (RFC 1191).
const fragmentationNeeded = 4

// headroom copies a packet to where there is room in front of it, and moves the
// offsets of what was parsed accordingly. Nil: no buffer is that long.
func (h *handler) headroom(pkt []byte) []byte {
	n := localnat.Headroom
	h.room = append(append(h.room[:0], make([]byte, n)...), pkt...)
	if packet.Parse4(h.room, n, &h.parsed) != packet.Good {
		return nil
	}
	return h.room
}

// sendTranslated answers with format (b), in fragments if need be.
func (h *handler) sendTranslated(d *datagram, auth, pkt []byte, room int) {
	send := func(piece []byte) {
		start := len(h.out.data)
		h.out.data = wire.AppendAuthenticator(h.out.data, auth)
		h.out.data = wire.AppendPacket(h.out.data, piece)
		h.out.add(d.own, d.from, d.fromPort, start)
	}
	if len(pkt) <= room {
		send(pkt)
		return
	}
	localnat.Pieces(h.scratch[:], pkt, min(room, len(h.scratch)), send)
}

// localError4 tells a local program about its packet, in the NAT64's name.
func (h *handler) localError4(d *datagram, p *wire.Payload, typ, code uint8, param uint32) {
	if !xlat.MayAnswer4(&h.parsed) {
		return
	}
	n := xlat.BuildError4(h.scratch[:], p.Packet, typ, code, param, word4(d.from))
	h.deliver(0, h.scratch[:n])
}

// errorMixed translates an ICMPv4 error about a client's packet.
func (h *handler) errorMixed(d *datagram, c *channel, p *wire.Payload, client uint32, prefix, port uint16) outcome {
	who := &c.clients[client]
	room := c.path.datagram(h.now) - 2 - len(who.auth)
	pair := h.pairMixed(c, c.prefixes[prefix], who.addr)
	b := h.headroom(p.Packet)
	if b == nil || packet.ParseQuoted4(b, int(h.parsed.L4)+packet.ICMPLen, int(h.parsed.End), &h.inner) != packet.Good {
		return refusedPacket
	}
	m := localnat.MTUs{IPv6: c.path.datagram(h.now) - inbound(len(p.Token), len(who.auth)), IPv4: h.nat.mtu}
	pkt, s := h.nat.ErrorToClient(b, &h.parsed, &h.inner, &pair, port, m)
	if s != xlat.OK {
		return refusedTranslation
	}
	h.sendTranslated(d, who.auth, pkt, room)
	return translated
}

// laterFragments remembers which entry the first fragments of local programs'
// datagrams belonged to: the later ones have no ports. The newest few are
// enough, as fragments follow each other closely. Part of the handler.
type laterFragments struct {
	ring [64]firstFragment
	next int
}

type firstFragment struct {
	c     *channel
	entry uint32
	id    uint32
	proto uint8
}

// note remembers a first fragment.
func (x *laterFragments) note(c *channel, q *packet.Parsed, entry uint32) {
	if !q.MoreFrags {
		return
	}
	x.ring[x.next] = firstFragment{c, entry, q.ID, q.Proto}
	x.next = (x.next + 1) % len(x.ring)
}

// find returns the entry that a later fragment belongs to, or 0.
func (x *laterFragments) find(c *channel, q *packet.Parsed) uint32 {
	for i := range x.ring {
		// From the newest to the oldest: identifications are used again.
		f := &x.ring[(x.next-1-i+2*len(x.ring))%len(x.ring)]
		if f.c == c && f.id == q.ID && f.proto == q.Proto && c.entries[f.entry].id != 0 {
			return f.entry
		}
	}
	return 0
}
