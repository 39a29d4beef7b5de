package server

import (
	"crypto/subtle"
	"math/rand/v2"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// attenuator decides which packets with an unknown token are answered at all
// (draft §9). Used by the handler's goroutine alone.
type attenuator struct {
	left   int
	random *rand.Rand
}

func newAttenuator(random *rand.Rand) attenuator { return attenuator{left: 2, random: random} }

// pass says whether to go on with a packet. The draft's text speaks of 40 %,
// its algorithm lets 60 % pass: one is dropped for every one or two that pass.
func (a *attenuator) pass() bool {
	if a.left == 0 {
		a.left = 1 + a.random.IntN(2)
		return false
	}
	a.left--
	return true
}

// credentials are the parts of a payload that say who sends it. Slices of the
// datagram.
type credentials struct {
	token, rotation []byte
	authenticator   []byte // nil when there is none
	packet          []byte // an embedded IPv4 packet, or nil
}

// same compares without telling by its duration where two tokens differ.
func same(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }

// authenticate finds out who sends a payload: the channel, or what became of the
// payload without one. Nothing is stored before a NAT64 has proved that it
// receives what is sent to its address (draft §9).
func (h *handler) authenticate(d *datagram, m *credentials) (*channel, outcome) {
	k := channelKey{own: d.own, nat64: d.from}
	if c := h.table.channels[k]; c != nil && c.port == d.fromPort {
		if same(c.token, m.token) {
			return c, accepted
		}
		// The token of the key that has just expired vouches for the new one.
		if m.rotation != nil && same(c.token, m.rotation) {
			h.table.rotate(c, m.token, &h.out.changes)
			h.counts.rotations.Add(1)
			return c, accepted
		}
	}
	if knownAs, ok := h.validated(d, m); ok {
		if !h.table.authenticate(k, d.fromPort, m.token, knownAs, h.now, &h.out.changes) {
			return nil, refusedNAT64s
		}
		h.counts.authenticated.Add(1)
		c := h.table.channels[k]
		for l := range c.leases.wholes() {
			h.rebind(c, l.client) // it may know us by another address now
		}
		return c, accepted
	}
	return nil, h.challenge(d, m)
}

// validated looks for our MAC in what came back (draft §9). The packet's source
// is our address as the NAT64 sees it, which is another one than its packets
// reach us under when a 1:1 NAT stands between.
func (h *handler) validated(d *datagram, m *credentials) (knownAs addr4, ok bool) {
	if m.packet == nil {
		return addr4{}, false
	}
	mac, ok := wire.ValidationMAC(m.packet)
	if !ok || !h.key.Check(h.clock, m.token, d.from, d.fromPort, mac) {
		return addr4{}, false
	}
	knownAs = addr4(m.packet[packet.IPv4Src:])
	to := addr4(m.packet[packet.IPv4Dst:])
	return knownAs, unicast4(knownAs) && to == d.from
}

// challenge sends the validation packet (draft §9): UDP from our port to the
// NAT64's port 9, an ordinary packet from this host that matches no entry. A
// NAT64 returns it over the control channel; anybody else discards it. It is
// never larger than what it answers.
func (h *handler) challenge(d *datagram, m *credentials) outcome {
	if !h.attenuation.pass() {
		return refusedAttenuated
	}
	var mac [wire.ValidationMACLen]byte
	h.key.MAC(h.clock, m.token, d.from, d.fromPort, &mac)

	start := len(h.out.data)
	if m.authenticator != nil {
		h.out.data = wire.AppendValidation(h.out.data, wire.TypeAuthenticator, m.authenticator, &mac)
	} else {
		h.out.data = wire.AppendValidation(h.out.data, wire.TypeToken, m.token, &mac)
	}
	if len(h.out.data)-start > len(d.data) {
		h.out.data = h.out.data[:start]
		return refusedLarger
	}
	h.out.add(d.own, d.from, h.discardPort, start)
	return challenged
}
