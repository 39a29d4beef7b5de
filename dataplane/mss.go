package dataplane

import (
	"math"

	"handoff64/conntrack"
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
// each. Each round of a hairpinned packet has one client.
func (w *Worker) fittingMSS(m *meta) uint32 {
	client, server := conntrack.Addr6{Hi: m.p.SrcHi, Lo: m.p.SrcLo}, m.server
	if m.dir == V4ToV6 {
		client, server = m.v46.Client, m.p.Src4
	}
	mtu6, mtu4 := w.pathMTUs(client, server)
	return min(mtu6-headers6TCP, mtu4-headers4TCP)
}

// pathMTUs are the MTUs of the first links from here to a client and to a
// server: no more than the sides' own and the routes'. Between two clients
// (hairpinning) lies no IPv4 link. Two route lookups: for rare packets only.
func (w *Worker) pathMTUs(client conntrack.Addr6, server uint32) (mtu6, mtu4 uint32) {
	mtu6 = w.routeMTU(IPv6, w.snap.IPv6.MTU, w.snap.Lookup6(client.Hi, client.Lo))
	if w.rules.Pool4.Contains(server) {
		return mtu6, math.MaxUint16
	}
	return mtu6, w.routeMTU(IPv4, w.snap.IPv4.MTU, w.snap.Lookup4(server))
}

// routeMTU is the MTU of a side over the hop. A destination without a route
// has no MTU of its own.
func (w *Worker) routeMTU(side Family, link, hop uint32) uint32 {
	h := w.snap.Hops[hop]
	if side == IPv6 && w.toHost(h) {
		return w.localMTU()
	}
	mtu := w.mtu(side, link)
	if h.MTU != 0 {
		mtu = min(mtu, h.MTU)
	}
	return mtu
}
