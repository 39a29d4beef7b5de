package dataplane

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// Two kinds of datagrams can be translated only when all of their fragments
// are here, because the first carries a checksum that depends on the others:
//
//   - UDP over IPv4 without a checksum, which IPv6 must have. RFC 6146 §3.4: the
//     NAT64 MUST compute it.
//   - Echo requests and replies. ICMPv6 sums the message's whole length, ICMPv4
//     does not, and no fragment tells it. RFC 7915 §1.2 leaves fragmented ICMP
//     out, for a translator without state cannot know it; this one can, and
//     RFC 6146 §3.4 has it handle fragments.
//
// They stay in their frames; nothing is copied together.

// needsAll says whether the first fragment cannot go without the others.
func (w *Worker) needsAll(m *meta) bool {
	switch m.p.Kind {
	case packet.KindEchoRequest, packet.KindEchoReply:
		// What goes to a handoff server is not translated here (handoff draft §8).
		return m.dir == V4ToV6 || !w.capable(m.server)
	case packet.KindUDP:
		return m.dir == V4ToV6 && w.opts.UDPZeroCompute &&
			binary.BigEndian.Uint16(m.frame[m.p.L4+packet.UDPChecksum:]) == 0
	}
	return false
}

// gathered goes on with a datagram that is complete: its first fragment takes
// the steps, the others follow when it has passed.
func (w *Worker) gathered(d *datagram) {
	d.whole = d.end
	if d.proto == packet.ProtoUDP {
		if !w.sumDatagram(d) {
			w.refuse(d, DropBadHeaderLength)
			return
		}
	}
	d.state = deciding
	w.datagrams.takeFirst(d)
}

// sumDatagram writes the checksum of a UDP datagram over IPv4 that has none.
// The translation updates it as any other. It returns false if the UDP length
// goes beyond what there is.
func (w *Worker) sumDatagram(d *datagram) bool {
	h := &w.datagrams.holds
	var first []byte
	for i := d.front; i != 0; i = h.slots[i].next {
		if s := &h.slots[i]; s.at.at == 0 {
			first = w.umem.Frame(s.desc.Addr)[s.from:]
		}
	}
	n := binary.BigEndian.Uint16(first[packet.UDPLength:])
	if n > d.end {
		return false
	}
	sum := packet.Pseudo4(uint32(d.key.srcLo), uint32(d.key.dstLo), n, packet.ProtoUDP)
	for i := d.front; i != 0; i = h.slots[i].next {
		s := &h.slots[i]
		if s.at.at < n { // octets behind the UDP length are no part of it
			part := w.umem.Frame(s.desc.Addr)[s.from:]
			sum = packet.Sum(part[:min(s.at.len, n-s.at.at)], sum)
		}
	}
	ck := ^packet.Fold(sum)
	if ck == 0 {
		ck = 0xffff // zero would say that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(first[packet.UDPChecksum:], ck)
	return true
}
