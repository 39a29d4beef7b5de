package server

import (
	"time"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// datagram is one UDP datagram from a NAT64, or from somebody who claims to be
// one. data belongs to the socket's buffers.
type datagram struct {
	own       addr4 // our address that was asked
	from      addr4
	fromPort  uint16
	data      []byte
	truncated bool // there was more than the buffer holds
}

// handler turns datagrams into changes and answers, which it leaves in out.
//
//	datagram → decode → authenticate ─→ entries    notify.go   echo each
//	                        │        ├→ IPv6       query.go    entry and packet, or ICMPv6
//	                        │        └→ IPv4       hosted.go   entry and packet, packet alone, or ICMP
//	                        └ unknown token: validation packet (validate.go)
//
// It touches no socket and no file. One goroutine at a time: Server.mu guards it
// together with the table.
type handler struct {
	table       *table
	key         *wire.ValidationKey
	attenuation attenuator
	discardPort uint16
	counts      *counters

	// Set before each burst.
	out   *batch
	clock time.Time
	now   int64 // microseconds since 1970; never runs backwards

	payload       wire.Payload
	groups        wire.Groups
	parsed, inner packet.Parsed
	scratch       [maxDatagram]byte // an ICMP error, a fragment
	room          []byte            // an IPv4 packet with room in front

	mode  Mode
	nat   *nat           // nil: there is no device
	later laterFragments // of mixed mode
}

// begin starts a burst.
func (h *handler) begin(out *batch, clock time.Time) {
	h.out, h.clock = out, clock
	h.now = max(h.now, clock.UnixMicro())
}

// handle takes one datagram.
func (h *handler) handle(d *datagram) {
	h.counts.received.Add(1)
	h.counts.receivedOctets.Add(uint64(len(d.data)))
	h.counts.payloads[h.receive(d)].Add(1)
}

func (h *handler) receive(d *datagram) outcome {
	switch {
	case d.truncated:
		return refusedTruncated
	case !unicast4(d.from) || d.fromPort == 0:
		return refusedSource
	case wire.IsMultiEntry(d.data):
		return h.receiveGroups(d)
	}
	p := &h.payload
	if s := wire.Decode(d.data, p); s != wire.OK {
		return refusedFormat(s)
	}
	if s := p.ToServer(); s != wire.OK {
		return refusedFormat(s)
	}
	m := credentials{token: p.Token, rotation: p.Rotation}
	if p.Has(wire.TypeAuthenticator) {
		m.authenticator = p.Authenticator
	}
	if p.PacketVersion == 4 {
		m.packet = p.Packet
	}
	c, o := h.authenticate(d, &m)
	if c == nil {
		return o
	}
	return h.act(d, c, p)
}

// act does what an authenticated payload asks for. An entry comes first: the
// packet beside it may be one of its own. Once the entry has been stored the
// payload is an accepted one, whatever is wrong with the packet.
func (h *handler) act(d *datagram, c *channel, p *wire.Payload) outcome {
	if !p.Has(wire.TypeEntry) {
		return h.embedded(d, c, p)
	}
	o := h.notify(d, c, p.Authenticator, &p.Entry)
	if o.refused() || p.PacketVersion == 0 {
		return o
	}
	if with := h.embedded(d, c, p); !with.refused() {
		return with
	}
	h.counts.packetsRefused.Add(1)
	return o
}

func (h *handler) embedded(d *datagram, c *channel, p *wire.Payload) outcome {
	if p.PacketVersion == 6 {
		return h.query(d, c, p)
	}
	return h.hosted(d, c, p)
}

// sendEntry answers with format (c): authenticator, entry and, unless it is nil,
// a packet.
func (h *handler) sendEntry(d *datagram, c *channel, i uint32, auth, pkt []byte) {
	e := &c.entries[i]
	w := wire.Entry{
		MappedPort: e.mapped, Prefix: c.prefixes[e.prefix], Client: c.clients[e.client].addr, ClientPort: e.clientPort,
	}
	start := len(h.out.data)
	h.out.data = wire.AppendAuthenticator(h.out.data, auth)
	h.out.data = wire.AppendEntry(h.out.data, &w)
	if pkt != nil {
		h.out.data = wire.AppendPacket(h.out.data, pkt)
	}
	h.out.add(d.own, d.from, d.fromPort, start)
}

// sendBack answers with format (a): token and IPv4 packet.
func (h *handler) sendBack(d *datagram, token, pkt []byte) {
	start := len(h.out.data)
	h.out.data = wire.AppendToken(h.out.data, token)
	h.out.data = wire.AppendPacket(h.out.data, pkt)
	h.out.add(d.own, d.from, d.fromPort, start)
}
