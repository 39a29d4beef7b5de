package dataplane

import "handoff64/dataplane/packet"

// classify decides for every packet whether it is for us and what it needs
// from the tables. The XDP filter has already left to the kernel what is the
// host's; what arrives here and is not for the NAT64 is dropped by name.
func (w *Worker) classify(b *burst) {
	b.frags = 0
	for i := range b.n {
		m := &b.meta[i]
		if m.verdict != undecided {
			continue
		}
		if m.via == viaServerDone {
			w.passOn(m)
			continue
		}
		if m.dir == V6ToV4 {
			p := w.rules.pool6Index(m.p.DstHi, m.p.DstLo)
			if p < 0 {
				w.drop(m, DropNotPool6)
				continue
			}
			m.pool6 = uint8(p)
			m.server = w.rules.Pool6[p].Extract(m.p.DstHi, m.p.DstLo)
		} else if !w.rules.Pool4.Contains(m.p.Dst4) {
			w.drop(m, DropNotPool4)
			continue
		}
		if isFragment(&m.p) {
			w.classifyFragment(m)
			b.frags++
			continue
		}
		switch m.p.Kind {
		case packet.KindTCP, packet.KindUDP, packet.KindEchoRequest, packet.KindEchoReply:
			m.class = classSession
		case packet.KindICMPError:
			m.class = classError
		case packet.KindICMPOther:
			w.refuseICMP(m)
		default:
			w.refuseProtocol(m)
		}
	}
}

// classifyFragment leaves fragments to their own step (fragments.go), but for
// those over IPv4 of a protocol without ports: each of them says what it is.
func (w *Worker) classifyFragment(m *meta) {
	switch {
	case m.dir == V6ToV4 || m.p.Proto == packet.ProtoTCP || m.p.Proto == packet.ProtoUDP || m.p.Proto == packet.ProtoICMP:
	case m.via == viaPort && w.rules.Host.hasProtocol(m.p.Proto):
		w.pass(m)
	default:
		w.refuseProtocol(m)
	}
}

// refuseICMP: an ICMPv6 message for a handoff server is the server's business
// (handoff draft §8), any other has no counterpart.
func (w *Worker) refuseICMP(m *meta) {
	if m.dir == V6ToV4 && w.capable(m.server) {
		w.tunnel6(m, w.ofSource(m), 0)
		return
	}
	w.drop(m, DropICMPType)
}

// refuseProtocol deals with what is neither TCP, UDP nor ICMP. Handoff servers
// get it over the control channel, and so does, within limits, any host that
// sends such a packet (handoff draft §8). Otherwise it answers as RFC 6146 §3.4
// asks: on the IPv4 side with Protocol Unreachable, on the IPv6 side with Port
// Unreachable. Only with handoff on does a client get Parameter Problem
// "unrecognized Next Header" (protocol.md §6).
func (w *Worker) refuseProtocol(m *meta) {
	if m.dir == V6ToV4 && w.capable(m.server) {
		w.tunnel6(m, w.ofSource(m), 0)
		return
	}
	if m.dir == V4ToV6 && w.handoff != nil {
		w.tunnel4(m, m.p.Src4)
		return
	}
	switch {
	case m.dir == V4ToV6:
		w.answer4(m, 3, 2, 0)
	case w.rules.Handoff:
		w.answer6(m, 4, unknownNextHeader, uint32(packet.PointerTo6(m.frame, int(m.p.L3), int(m.p.L4)))) // RFC 4443 §3.4
	default:
		w.answer6(m, 1, 4, 0)
	}
	w.drop(m, DropProtocol)
}
