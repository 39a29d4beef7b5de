package handoff

import (
	"encoding/binary"
	"math/rand/v2"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// strangers limits what is sent because of packets whose source nobody has
// checked, so that the NAT64 is no use for reflection: what leaves is always
// less than what came, in packets and in octets, and no more than so many a
// second. Three things must agree: the draft's attenuation (§9), the credit,
// and the rate. Owned by the worker's goroutine; made by newStrangers.
type strangers struct {
	skip      int   // the draft's counter
	packets   int64 // credit in quarter packets
	octets    int64 // credit in quarter octets
	perSecond int64
	rate      int64 // packets that may be sent now, in units of 1/second
	last      int64 // when rate was filled
}

const (
	// A stranger's packet earns three quarters of itself; sending costs all.
	earned, cost = 3, 4
	// maxCredit bounds what is saved up: 16 packets of full size.
	maxCreditPackets = 16 * cost
	maxCreditOctets  = 16 * 1500 * cost

	udpOverhead = 20 + 8 // IPv4 and UDP header of a datagram
	second      = int64(1e9)
)

func newStrangers(perSecond int) strangers {
	return strangers{skip: 2, perSecond: int64(perSecond), rate: second}
}

// admit takes note of a stranger's packet and says whether it may be tunnelled
// behind head octets of messages.
func (s *strangers) admit(now int64, packet, head int) bool {
	s.packets = min(s.packets+earned, maxCreditPackets)
	s.octets = min(s.octets+earned*int64(packet), maxCreditOctets)
	s.fill(now)
	if !s.attenuate() {
		return false
	}
	datagrams, octets := onWire(packet, head)
	if s.rate < second || s.packets < cost*datagrams || s.octets < cost*octets {
		return false
	}
	s.rate -= second
	s.packets -= cost * datagrams
	s.octets -= cost * octets
	return true
}

// attenuate is the draft's counter (§9), which lets three of five pass.
func (s *strangers) attenuate() bool {
	if s.skip == 0 {
		s.skip = 1 + int(rand.Uint32()&1)
		return false
	}
	s.skip--
	return true
}

// fill adds what the time since the last packet allows, up to a tenth of a
// second's worth and one packet at least.
func (s *strangers) fill(now int64) {
	depth := max(s.perSecond*second/10, second)
	elapsed := min(now-s.last, second)
	s.last = now
	s.rate = min(s.rate+elapsed*s.perSecond, depth)
	if s.perSecond == 0 {
		s.rate = 0
	}
}

// onWire is what a tunnelled packet becomes in packets and octets. The path's
// MTU is unknown, but the packet came along some path in one piece: it is taken
// to be no more than that, within what a path must and usually can carry.
func onWire(packet, head int) (datagrams, octets int64) {
	const ipHeader = 20
	mtu := min(max(packet, 576), 1280)
	perFragment := (mtu - ipHeader) &^ 7
	body := 8 + head + packet
	datagrams = int64((body + perFragment - 1) / perFragment)
	return datagrams, int64(body) + datagrams*ipHeader
}

// vouched says whether a packet is itself a control payload, from the server's
// port, that holds a token or authenticator of ours for that server: then its
// sender has seen what we sent there, and is no stranger. Validation packets
// are such (draft §9).
func (w *Worker) vouched(t *conntrack.ToServer, packet []byte) bool {
	if t.Kind != conntrack.Tunnel4 {
		return false
	}
	payload, ok := udpFrom(packet, t.Server, w.serverPort)
	if !ok {
		return false
	}
	var p wire.Payload
	if wire.Decode(payload, &p) != wire.OK {
		return false
	}
	server := octets4(t.Server)
	if p.Has(wire.TypeToken) && w.keys.CheckToken(server, p.Token) {
		return true
	}
	return p.Has(wire.TypeAuthenticator) && w.vouchedFor(server, &p)
}

// vouchedFor looks for the client of an authenticator, which does not name it:
// it is the entry's, the embedded packet's, or one of those that the server was
// told of last (in a validation packet both addresses are ::).
func (w *Worker) vouchedFor(server [4]byte, p *wire.Payload) bool {
	if p.Has(wire.TypeEntry) && w.keys.CheckAuthenticator(server, p.Entry.Client, p.Authenticator) {
		return true
	}
	if p.PacketVersion == 6 {
		src, dst := [16]byte(p.Packet[8:24]), [16]byte(p.Packet[24:40])
		if w.keys.CheckAuthenticator(server, src, p.Authenticator) || w.keys.CheckAuthenticator(server, dst, p.Authenticator) {
			return true
		}
	}
	for _, client := range w.servers.remembered(binary.BigEndian.Uint32(server[:])) {
		if w.keys.CheckAuthenticator(server, octets6(client), p.Authenticator) {
			return true
		}
	}
	return false
}

// udpFrom is the payload of an unfragmented UDP packet from the address and
// port.
func udpFrom(packet []byte, src uint32, port uint16) ([]byte, bool) {
	header := int(packet[0]&0xf) * 4
	if packet[9] != 17 || binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 || len(packet) < header+8 {
		return nil, false
	}
	udp := packet[header:]
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint32(packet[12:]) != src || binary.BigEndian.Uint16(udp) != port || n < 8 || n > len(udp) {
		return nil, false
	}
	return udp[8:n], true
}
