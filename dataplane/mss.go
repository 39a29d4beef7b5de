package dataplane

import (
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// MSSClamp says what the MSS option of SYN segments is lowered to: MSSOff,
// MSSAuto, or the number of octets itself.
type MSSClamp uint16

const (
	MSSOff  MSSClamp = 0
	MSSAuto MSSClamp = 0xffff // more than any segment can have
)

// What IP and TCP headers without options take from an MTU (RFC 9293 §3.7.1).
const (
	headers6TCP = packet.IPv6Len + packet.TCPLen
	headers4TCP = packet.IPv4Len + packet.TCPLen
)

// clampMSS lowers the maximum segment size that a SYN, with or without ACK,
// announces. Segments without SYN do not come here, so an established
// connection pays for none of this. Called before the packet is cut into
// fragments; the segment lies where it lay, whatever stands in front of it.
func (w *Worker) clampMSS(m *meta) {
	most := uint32(w.rules.MSS)
	if w.rules.MSS == MSSAuto {
		most = w.fittingMSS(m)
	}
	xlat.ClampMSS(m.frame[m.p.L4:m.p.End], uint16(min(most, 0xffff)))
}

// fittingMSS is the largest segment that needs no fragments on either side:
// what both interfaces and the routes to both ends carry, with the headers of
// each. A hairpinned packet sees no IPv4 link; each of its rounds has one client.
func (w *Worker) fittingMSS(m *meta) uint32 {
	clientHi, clientLo, server := m.p.SrcHi, m.p.SrcLo, m.server
	if m.dir == V4ToV6 {
		clientHi, clientLo, server = m.v46.Client.Hi, m.v46.Client.Lo, m.p.Src4
	}
	fits := w.routeMTU(IPv6, w.snap.Lookup6(clientHi, clientLo)) - headers6TCP
	if m.via == viaHairpin || w.rules.Pool4.Contains(server) {
		return fits
	}
	return min(fits, w.routeMTU(IPv4, w.snap.Lookup4(server))-headers4TCP)
}

// routeMTU is the MTU of a side for packets over the hop: no more than the
// side's own. A destination without a route has no MTU of its own.
func (w *Worker) routeMTU(side Family, hop uint32) uint32 {
	mtu := [families]uint32{IPv6: w.opts.MTU6, IPv4: w.opts.MTU4}[side]
	if route := w.snap.Hops[hop].MTU; route != 0 {
		mtu = min(mtu, route)
	}
	return mtu
}
