// Package localnat is the NAT of a handoff server that translates for itself
// (draft-dupont-6man-nat64handoff-00 §11): a client's IPv6 packets become IPv4
// packets for programs of this host, and the programs' answers IPv6 packets
// again, by the rules of RFC 7915. It knows addresses and octets only: who has
// which address or port, and where packets come from and go to, its caller
// knows.
//
//	client ═ IPv6 ═► ToLocal ─► IPv4 to our own address ─► local program
//	client ◄═ IPv6 ═ ToClient ◄─ IPv4 to the client's ◄─── local program
package localnat

import (
	"encoding/binary"
	"math/rand/v2"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// Pair is a client and this host as either side sees them. A plain value.
type Pair struct {
	Client, Server [16]byte // IPv6: the client; our own address within the NAT64's prefix
	Address, Own   [4]byte  // IPv4: the client, as local programs see it; our own address
}

// Headroom is how much further to the front than an IPv4 packet a buffer must
// reach for ToClient and ErrorToClient.
const Headroom = 152

// Translator translates packets where they lie. Owned by one goroutine.
type Translator struct {
	o xlat.Options
}

// New makes a Translator.
func New() *Translator {
	return &Translator{o: xlat.Options{TrafficClassFromTOS: true, UDPZeroCompute: true, AnyProtocol: true}}
}

// MTUs are what limits the sizes that an ICMP error can report.
type MTUs struct {
	IPv6 int // the largest IPv6 packet that reaches the other side in one piece
	IPv4 int // the same of IPv4
}

// ToLocal translates the client's packet p in b and returns the IPv4 packet, a
// part of b. port takes the place of the client's port, or of an echo's
// identifier; 0 keeps it. mss, unless it is 0, bounds what a SYN announces. The
// hop limit is more than one.
func (t *Translator) ToLocal(b []byte, p *packet.Parsed, x *Pair, port, mss uint16) ([]byte, xlat.Status) {
	t.o.ID = uint16(rand.Uint32())
	f := xlat.Flow64{Src: word(x.Address), Dst: word(x.Own), SrcPort: p.SrcPort, DstPort: p.DstPort}
	if port != 0 {
		f.SrcPort = port
	}
	if isEcho(p) {
		f.Delta = xlat.EchoDelta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, &f)
	} else {
		f.Delta = xlat.Delta64(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, p.SrcPort, p.DstPort, &f)
	}
	clamp(b, p, mss)
	start, s := xlat.V6ToV4(b, p, &f, &t.o)
	if s != xlat.OK {
		return nil, s
	}
	return b[start:p.End], xlat.OK
}

// ToClient is ToLocal for the way back: port is the client's own. b reaches
// Headroom further to the front than the packet. The result may be longer than
// what can be sent: see Pieces.
func (t *Translator) ToClient(b []byte, p *packet.Parsed, x *Pair, port, mss uint16) ([]byte, xlat.Status) {
	f := xlat.Flow46{SrcPort: p.SrcPort, DstPort: p.DstPort}
	f.SrcHi, f.SrcLo = words(x.Server)
	f.DstHi, f.DstLo = words(x.Client)
	if port != 0 {
		f.DstPort = port
	}
	if isEcho(p) {
		f.Delta = xlat.EchoDelta46(p.DstPort, &f)
	} else {
		f.Delta = xlat.Delta46(p.Src4, p.Dst4, p.SrcPort, p.DstPort, &f)
	}
	clamp(b, p, mss)
	start, s := xlat.V4ToV6(b, p, &f, &t.o)
	if s != xlat.OK {
		return nil, s
	}
	return b[start:p.End], xlat.OK
}

// clamp bounds the segment size that a SYN announces.
func clamp(b []byte, p *packet.Parsed, mss uint16) {
	const syn = 0x02
	if mss != 0 && p.Kind == packet.KindTCP && p.TCPFlags&syn != 0 {
		xlat.ClampMSS(b[p.L4:p.End], mss)
	}
}

// ErrorToLocal translates the ICMPv6 error p about a packet of ours, which it
// quotes as inner. The error speaks with the client's voice: a router on the
// way has no IPv4 address of its own here. port is what local programs know as
// the client's port; 0 keeps it.
func (t *Translator) ErrorToLocal(b []byte, p, inner *packet.Parsed, x *Pair, port uint16, m MTUs) ([]byte, xlat.Status) {
	t.o.ID, t.o.MTU6, t.o.MTU4 = uint16(rand.Uint32()), uint32(m.IPv6), uint32(m.IPv4)
	f := xlat.ErrorFlow64{
		Src: word(x.Address), Dst: word(x.Own), InnerSrc: word(x.Own), InnerDst: word(x.Address),
		InnerSrcPort: inner.SrcPort, InnerDstPort: inner.DstPort,
	}
	if port != 0 {
		f.InnerDstPort = port
		if isEcho(inner) {
			f.InnerSrcPort = port
		}
	}
	start, end, s := xlat.Error6to4(b, p, inner, &f, &t.o)
	if s != xlat.OK {
		return nil, s
	}
	return b[start:end], xlat.OK
}

// ErrorToClient translates the ICMPv4 error p about a packet of the client's,
// which it quotes as inner. port is the client's own; 0 keeps the one quoted.
func (t *Translator) ErrorToClient(b []byte, p, inner *packet.Parsed, x *Pair, port uint16, m MTUs) ([]byte, xlat.Status) {
	t.o.MTU6, t.o.MTU4 = uint32(m.IPv6), uint32(m.IPv4)
	f := xlat.ErrorFlow46{InnerSrcPort: inner.SrcPort, InnerDstPort: inner.DstPort}
	f.SrcHi, f.SrcLo = words(x.Server)
	f.DstHi, f.DstLo = words(x.Client)
	f.InnerSrcHi, f.InnerSrcLo = f.DstHi, f.DstLo
	f.InnerDstHi, f.InnerDstLo = f.SrcHi, f.SrcLo
	if port != 0 {
		f.InnerSrcPort = port
	}
	start, end, s := xlat.Error4to6(b, p, inner, &f, &t.o)
	if s != xlat.OK {
		return nil, s
	}
	return b[start:end], xlat.OK
}

func isEcho(p *packet.Parsed) bool {
	return p.Kind == packet.KindEchoRequest || p.Kind == packet.KindEchoReply
}

// Pieces calls send for the fragments, of at most mtu octets each, that the IPv6
// packet must travel in (RFC 7915 §4), written to dst one after the other. It
// says false when the MTU has no room for any.
func Pieces(dst, pkt []byte, mtu int, send func(fragment []byte)) bool {
	id := rand.Uint32()
	for offset := 0; offset >= 0; {
		var n int
		if n, offset = xlat.NextFragment6(dst, pkt, offset, mtu, id); n == 0 {
			return false
		}
		send(dst[:n])
	}
	return true
}

func word(a [4]byte) uint32 { return binary.BigEndian.Uint32(a[:]) }

func words(a [16]byte) (hi, lo uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}
