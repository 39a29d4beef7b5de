package server

import (
	"sync/atomic"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
	"handoff64/handoff/localnat"
	"handoff64/handoff/tundev"
	"handoff64/handoff/wire"
)

// device is the TUN device: tests have one in memory. One goroutine may read
// while others write. Buffers are as package tundev describes.
type device interface {
	Read(bufs [][]byte, sizes []int, offset int) (n int, err error)
	Write(bufs [][]byte, offset int) (int, error)
	Close() error
	BatchSize() int
}

// nat is what the handler translates with. Guarded as the handler is, but for
// what it points to.
type nat struct {
	*localnat.Translator
	now       *parcels // packets whose lease or entry is durable: written after the burst
	bindings  *bindings
	committed *atomic.Uint64 // entries and leases up to this number are durable
	mtu       int            // of the device
	device    device
	counts    *localCounters
}

// queryLocal takes an IPv6 packet in local-nat mode. What belongs to an entry
// goes on as in minimal mode: the connection is known under the NAT64's address.
// A SYN begins a new one.
func (h *handler) queryLocal(d *datagram, c *channel, p *wire.Payload) outcome {
	q := &h.parsed
	switch q.Kind {
	case packet.KindTCP, packet.KindUDP:
		if !opens(q) && c.find(tupleOf(p.Packet, q.SrcPort)) != 0 {
			return h.queryEntry(d, c, p)
		}
	case packet.KindICMPError:
		return h.errorToLocal(d, c, p)
	case packet.KindICMPOther:
		return refusedICMP
	}
	return h.toLessee(d, c, p)
}

// resumesLease says whether a packet belongs to a connection that was opened
// under an address of the pool, before the mode was changed: no entry knows it,
// and a local socket does.
func (h *handler) resumesLease(c *channel, p *wire.Payload) bool {
	q := &h.parsed
	if h.nat == nil || h.mode == LocalNAT || q.Kind != packet.KindTCP || opens(q) {
		return false
	}
	k := tupleOf(p.Packet, q.SrcPort)
	l := c.findLease(k.prefix, k.client, 0)
	if l == nil || c.find(k) != 0 || h.table.pool.index(l.address) < 0 {
		return false
	}
	live, _, err := h.table.live.view(h.now)
	if err != nil {
		return false
	}
	_, ok := live[peer{l.address, q.SrcPort}]
	return ok
}

// opens says whether a packet begins a TCP connection.
func opens(q *packet.Parsed) bool {
	const syn, ack = 0x02, 0x10
	return q.Kind == packet.KindTCP && q.TCPFlags&(syn|ack) == syn
}

// tupleOf is what the entry of a client's packet is found by.
func tupleOf(pkt []byte, port uint16) tuple {
	return tuple{prefix: prefix96(pkt[packet.IPv6Dst:][:12]), client: addr6(pkt[packet.IPv6Src:][:16]), port: port}
}

// believable says whether a client may have sent an IPv6 packet that is to be
// delivered here. An address within the prefix stands for an IPv4 host, and a
// packet from there has been translated already.
func believable(pkt []byte) bool {
	src := addr6(pkt[packet.IPv6Src:][:16])
	switch {
	case src[0] == 0xfe && src[1]&0xc0 == 0x80: // link-local
		return false
	case string(src[:12]) == string(pkt[packet.IPv6Dst:][:12]):
		return false
	case [10]byte(src[:10]) == [10]byte{} && (src[10] == 0xff && src[11] == 0xff || src[10] == 0 && src[11] == 0): // ::1, ::/96, IPv4-mapped
		return false
	}
	return unicast6(src)
}

// toLessee delivers a client's packet under its own address of the pool.
func (h *handler) toLessee(d *datagram, c *channel, p *wire.Payload) outcome {
	if o := h.deliverable(d, p); o != accepted {
		return o
	}
	k := tupleOf(p.Packet, 0)
	l := c.findLease(k.prefix, k.client, 0)
	if l != nil && h.table.pool.index(l.address) < 0 { // of another pool, before a restart
		h.end(l)
		l = nil
	}
	if l == nil {
		var o outcome
		if l, o = h.lease(c, k); o != accepted {
			if o == noAddress {
				h.answer6(d, p, packet.ICMPv6Unreachable, unreachableAddress, 0)
			}
			return o
		}
	}
	l.touch(h.now)
	h.knowAuthenticator(l, p.Authenticator)
	pair := pairOf(l)
	pkt, s := h.nat.ToLocal(p.Packet, &h.parsed, &pair, 0, h.mssToLocal(c, p))
	if s != xlat.OK {
		return refusedTranslation
	}
	h.deliver(l.id, pkt)
	return delivered
}

// Codes of ICMPv6 errors (RFC 4443 §3).
const (
	unreachableProhibited = 1
	unreachableAddress    = 3
	unknownNextHeader     = 1
)

// deliverable says whether a packet may be translated for delivery at all.
func (h *handler) deliverable(d *datagram, p *wire.Payload) outcome {
	switch {
	case h.nat == nil:
		return refusedICMP
	case !believable(p.Packet):
		return refusedClient
	case h.parsed.TTL <= 1:
		h.answer6(d, p, packet.ICMPv6TimeExceeded, 0, 0)
		return expired
	}
	return accepted
}

// lease gives a client an address.
func (h *handler) lease(c *channel, k tuple) (*lease, outcome) {
	l, o := h.table.leaseAddress(c, k, h.now, &h.out.changes, h.nat.unbind)
	if o == accepted {
		h.nat.bindings.bind(l)
	}
	return l, o
}

// end ends a lease.
func (h *handler) end(l *lease) {
	h.nat.unbind(l)
	h.table.release(l, h.now, &h.out.changes)
}

func (n *nat) unbind(l *lease) { n.bindings.set(word4(l.address), nil) }

// knowAuthenticator keeps the newest authenticator of a lease's client.
func (h *handler) knowAuthenticator(l *lease, auth []byte) {
	c := l.channel
	if string(c.clients[l.client].auth) == string(auth) {
		return
	}
	h.table.setClientAuthenticator(c, l.client, auth, &h.out.changes)
	h.rebind(c, l.client)
}

// rebind publishes what has changed about a client.
func (h *handler) rebind(c *channel, client uint32) {
	if h.nat == nil {
		return
	}
	for prefix := range c.prefixes {
		if l := c.leases.byKey[leaseKey{client, uint16(prefix), 0}]; l != nil {
			h.nat.bindings.bind(l)
		}
	}
}

// mssToLocal is the largest segment that local programs may send to a client.
func (h *handler) mssToLocal(c *channel, p *wire.Payload) uint16 {
	if h.parsed.Kind != packet.KindTCP || h.parsed.TCPFlags&2 == 0 {
		return 0
	}
	return uint16(h.room4(c, len(p.Authenticator)) - packet.IPv4Len - packet.TCPLen)
}

// room4 is the largest IPv4 packet that reaches a client of the channel in one
// control datagram.
func (h *handler) room4(c *channel, authenticator int) int {
	room := c.path.datagram(h.now) - 2 - authenticator - (packet.IPv6Len - packet.IPv4Len)
	return min(room, h.nat.mtu)
}

// deliver hands an IPv4 packet to the local programs: now if what it depends on
// is durable, else once it is.
func (h *handler) deliver(id uint64, pkt []byte) {
	n := h.nat
	if id > n.committed.Load() {
		h.out.deliver(pkt)
		return
	}
	if n.now.full() {
		n.now.write(n.device, n.counts)
	}
	n.now.add(pkt)
	n.counts.delivered.Add(1)
	n.counts.deliveredOctets.Add(uint64(len(pkt)))
}

// deliver puts a packet into the batch, to be delivered when that is durable.
func (b *batch) deliver(pkt []byte) {
	start := len(b.data)
	b.data = append(b.data, make([]byte, tundev.Offset)...)
	b.data = append(b.data, pkt...)
	b.parcels = append(b.parcels, span{start, len(b.data)})
}

// span is a part of batch.data.
type span struct{ start, end int }

// handOver delivers what a batch that is now durable holds.
func (b *batch) handOver(d device, c *localCounters) {
	if len(b.parcels) == 0 {
		return
	}
	bufs := make([][]byte, len(b.parcels))
	for i, s := range b.parcels {
		bufs[i] = b.data[s.start:s.end:s.end]
		c.deliveredOctets.Add(uint64(s.end - s.start - tundev.Offset))
	}
	c.delivered.Add(uint64(len(bufs)))
	if _, err := d.Write(bufs, tundev.Offset); err != nil {
		c.writeErrors.Add(1)
	}
}

// errorToLocal delivers an ICMPv6 error about a packet that a local program sent
// to a client: of a lease's, or of an entry's.
func (h *handler) errorToLocal(d *datagram, c *channel, p *wire.Payload) outcome {
	q, inner := &h.parsed, &h.inner
	if packet.ParseQuoted6(p.Packet, int(q.L4)+packet.ICMPLen, int(q.End), inner) != packet.Good {
		return refusedPacket
	}
	from, to := fromWords(inner.SrcHi, inner.SrcLo), fromWords(inner.DstHi, inner.DstLo)
	if addr4(from[12:]) != c.knownAs {
		return refusedForeign
	}
	if h.mode != Mixed && isPorted(inner) && c.find(tuple{prefix96(from[:12]), to, inner.DstPort}) != 0 {
		return h.errorFromClient(d, c, p)
	}
	if !believable(p.Packet) {
		return refusedClient
	}
	pair, id, port, o := h.partner(c, prefix96(from[:12]), to, inner)
	if o != accepted {
		return o
	}
	m := localnat.MTUs{IPv6: c.path.datagram(h.now) - 2 - len(p.Authenticator), IPv4: h.nat.mtu}
	pkt, s := h.nat.ErrorToLocal(p.Packet, q, inner, &pair, port, m)
	if s != xlat.OK {
		return refusedTranslation
	}
	h.deliver(id, pkt)
	return delivered
}

func isPorted(p *packet.Parsed) bool {
	return p.Kind == packet.KindTCP || p.Kind == packet.KindUDP
}

// partner finds whom a packet of ours went to that an error quotes.
func (h *handler) partner(c *channel, p prefix96, client addr6, inner *packet.Parsed) (localnat.Pair, uint64, uint16, outcome) {
	if h.mode == Mixed {
		pair := h.pairMixed(c, p, client)
		if i := c.find(tuple{p, client, inner.DstPort}); i != 0 && isPorted(inner) {
			c.touch(i)
			return pair, c.entries[i].id, c.entries[i].mapped, accepted
		}
		if l := c.findLease(p, client, inner.Proto); l != nil && !isPorted(inner) {
			return pair, l.id, 0, accepted
		}
	}
	if l := c.findLease(p, client, 0); l != nil {
		return pairOf(l), l.id, 0, accepted
	}
	return localnat.Pair{}, 0, 0, refusedICMP
}

// answer6 sends an ICMPv6 error about a client's packet, if there may be one, in
// format (b).
func (h *handler) answer6(d *datagram, p *wire.Payload, typ, code uint8, param uint32) bool {
	q := &h.parsed
	if !xlat.MayAnswer6(q) {
		return false
	}
	n := xlat.BuildError6(h.scratch[:], p.Packet, typ, code, param, q.DstHi, q.DstLo)
	start := len(h.out.data)
	h.out.data = wire.AppendAuthenticator(h.out.data, p.Authenticator)
	h.out.data = wire.AppendPacket(h.out.data, h.scratch[:n])
	h.out.add(d.own, d.from, d.fromPort, start)
	return true
}
