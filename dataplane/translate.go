package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// translateReasons gives each way translation can fail its name.
var translateReasons = [xlat.NumStatus]DropReason{
	xlat.UnsupportedProtocol: DropProtocol,
	xlat.FragmentedICMP:      DropFragmentICMP,
	xlat.UDPZeroIPv6:         DropUDPZeroChecksum,
	xlat.UDPZeroChecksum:     DropUDPZeroChecksum,
	xlat.UDPZeroFragment:     DropUDPZeroChecksum,
	xlat.NoHeadroom:          DropHeadroom,
	xlat.ICMPChecksum:        DropICMPChecksum,
	xlat.ICMPTypeUnmapped:    DropICMPType,
	xlat.ICMPCodeUnmapped:    DropICMPType,
	xlat.ICMPPointerUnmapped: DropICMPType,
	xlat.InnerError:          DropQuote,
	xlat.InnerUnsupported:    DropQuote,
	xlat.InnerFragment:       DropQuote,
}

// translate rewrites every packet that found its session, where it lies. What
// can send it back (hop limit, route, size) is looked at before the first
// octet changes, so that errors quote the packet as it came and a parked one
// can start again.
func (w *Worker) translate(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		if m.verdict != undecided {
			continue
		}
		if m.dir == V6ToV4 {
			w.translate64(m)
		} else {
			w.translate46(m)
		}
	}
}

func (w *Worker) translate64(m *meta) {
	if m.p.TTL <= 1 { // RFC 7915 §5.1
		w.answer6(m, 3, 0, 0)
		w.drop(m, DropHopLimit)
		return
	}
	next, cut := turned, uint32(0)
	if !w.rules.Pool4.Contains(m.server) {
		next = forward
		if !w.route64(m) {
			return
		}
		mtu := w.mtu(IPv4, m.hop.MTU)
		if size := uint32(xlat.Size4(&m.p)); size > mtu {
			cut = mtu // RFC 7915 §5.1.1: what leaves without DF is fragmented
		}
		if cut != 0 && !xlat.LeavesWithoutDF(&m.p) {
			// RFC 7915 §5.2: what fits the IPv4 link is 20 octets more on this side
			w.answer6(m, 2, 0, max(mtu+20, minIPv6MTU))
			w.drop(m, DropTooBig6)
			return
		}
	} else if !w.rules.Hairpin {
		w.answer6(m, 1, 1, 0)
		w.drop(m, DropHairpinOff)
		return
	}
	w.opts.ID = w.ids.next()
	var s xlat.Status
	if m.class == classError {
		f := w.errorFlow64(m)
		w.opts.MTU6, w.opts.MTU4 = w.pathMTUs(m.k64.Client, m.server)
		m.start, m.end, s = xlat.Error6to4(m.frame, &m.p, &m.quote, &f, &w.opts)
	} else {
		// field by field: a literal is made aside and copied, and a wide load of
		// narrow stores has to wait until they have left the store buffer
		var f xlat.Flow64
		f.Delta = w.delta64(m)
		f.Src, f.Dst = m.v64.Mapped, m.server
		f.SrcPort, f.DstPort = m.v64.MappedPort, m.p.DstPort
		m.start, s = xlat.V6ToV4(m.frame, &m.p, &f, &w.opts)
		m.end = int(m.p.End)
		if m.p.TCPFlags&conntrack.FlagSYN != 0 && w.rules.MSS != MSSOff && s == xlat.OK {
			w.clampMSS(m)
		}
	}
	if s != xlat.OK {
		w.untranslatable(m, s)
		return
	}
	m.verdict = next
	if cut != 0 && m.end-m.start > int(cut) {
		w.fragment(m, int(cut))
	}
}

// untranslatable drops a packet that xlat refused. A UDP datagram without a
// checksum is well-formed and yet not carried, so its sender is told (RFC 7915
// §4.4, §5.4); the others are ICMP errors, or pieces of datagrams, or our own
// limits.
func (w *Worker) untranslatable(m *meta, s xlat.Status) {
	if s == xlat.UDPZeroIPv6 || s == xlat.UDPZeroChecksum {
		w.prohibited(m)
	}
	w.drop(m, translateReasons[s])
}

// delta64 is the session's checksum difference. It was made for a server
// address with a zero suffix; what a client put there instead (RFC 6052 §2.2
// has it ignored) stands in the packet's checksum and is taken out here.
func (w *Worker) delta64(m *meta) uint16 {
	p := &w.rules.Pool6[m.pool6]
	if p.Bits == 96 {
		return m.v64.Delta
	}
	hi, lo := p.Embed(m.server)
	if hi == m.p.DstHi && lo == m.p.DstLo {
		return m.v64.Delta
	}
	suffix := packet.Delta(packet.SumAddr6(m.p.DstHi, m.p.DstLo), packet.SumAddr6(hi, lo))
	return packet.Fold(uint64(m.v64.Delta) + uint64(suffix))
}

// minIPv6MTU is the smallest MTU of an IPv6 link (RFC 8200 §5).
const minIPv6MTU = 1280

func (w *Worker) translate46(m *meta) {
	if m.p.TTL <= 1 { // RFC 7915 §4.1
		w.answer4(m, 11, 0, 0)
		w.drop(m, DropTTL)
		return
	}
	if !w.route46(m) {
		return
	}
	if m.class == classError {
		f := w.errorFlow46(m)
		w.opts.MTU6, w.opts.MTU4 = w.pathMTUs(m.v46.Client, m.quote.Dst4)
		var s xlat.Status
		if m.start, m.end, s = xlat.Error4to6(m.frame, &m.p, &m.quote, &f, &w.opts); s != xlat.OK {
			w.drop(m, translateReasons[s])
			return
		}
		m.verdict = forward
		return
	}
	mtu := w.mtuOf(IPv6, m.hop)
	size := uint32(xlat.Size6(&m.p))
	if m.p.DF && size > mtu { // RFC 7915 §4, RFC 1191
		overhead := uint32(packet.IPv6Len - packet.IPv4Len)
		if isFragment(&m.p) {
			overhead += packet.FragmentLen
		}
		w.answer4(m, 3, 4, mtu-overhead)
		w.drop(m, DropTooBig4)
		return
	}
	var f xlat.Flow46
	w.flow46(m, &f)
	start, s := xlat.V4ToV6(m.frame, &m.p, &f, &w.opts)
	if s != xlat.OK {
		w.untranslatable(m, s)
		return
	}
	m.start, m.end, m.verdict = start, int(m.p.End), forward
	if m.p.TCPFlags&conntrack.FlagSYN != 0 && w.rules.MSS != MSSOff {
		w.clampMSS(m)
	}
	if limit := min(mtu, w.rules.LowestIPv6MTU); size > limit && !m.p.DF {
		w.fragment(m, int(limit))
	}
}

// flow46 is what the session says of a packet towards the client. The source
// carries the server's IPv4 address in the prefix that the client used.
func (w *Worker) flow46(m *meta, f *xlat.Flow46) {
	v := &m.v46
	f.SrcHi, f.SrcLo = w.rules.Pool6[v.Pool6].Embed(m.p.Src4)
	f.DstHi, f.DstLo = v.Client.Hi, v.Client.Lo
	f.SrcPort, f.DstPort, f.Delta = m.p.SrcPort, v.ClientPort, v.Delta
}

// errorFlow64 addresses an ICMP error from the IPv6 side; errors.go decides on
// its source.
func (w *Worker) errorFlow64(m *meta) xlat.ErrorFlow64 {
	f := xlat.ErrorFlow64{
		Src: w.errorSource4(m), Dst: m.server,
		InnerSrc: m.k64.Server, InnerSrcPort: m.quote.SrcPort,
		InnerDst: m.v64.Mapped, InnerDstPort: m.v64.MappedPort,
	}
	if m.k64.Proto == conntrack.ICMP {
		f.InnerSrcPort = m.v64.MappedPort // an echo has one identifier, where a port would be the source's
	}
	return f
}

// errorFlow46 addresses an ICMP error from the IPv4 side; errors.go decides on
// its source.
func (w *Worker) errorFlow46(m *meta) xlat.ErrorFlow46 {
	v := &m.v46
	p := &w.rules.Pool6[v.Pool6]
	f := xlat.ErrorFlow46{
		DstHi: v.Client.Hi, DstLo: v.Client.Lo,
		InnerSrcHi: v.Client.Hi, InnerSrcLo: v.Client.Lo, InnerSrcPort: v.ClientPort,
		InnerDstPort: m.quote.DstPort,
	}
	f.SrcHi, f.SrcLo = p.Embed(w.errorSource6(m, p))
	f.InnerDstHi, f.InnerDstLo = p.Embed(m.quote.Dst4)
	return f
}

// fragment sends a translated packet without DF as fragments of at most mtu
// octets: towards IPv6 because routers there do not fragment, so the translator
// must (RFC 7915 §4); towards IPv4 if the sender cannot make its packets small
// enough (§5.1.1). What is a fragment already keeps its identification; a whole
// IPv4 packet's becomes that of its fragments (§4.1). The first counts as the
// packet itself, the others as generated.
func (w *Worker) fragment(m *meta, mtu int) {
	src := m.frame[m.start:m.end]
	n := xlat.Fragments6(src, mtu)
	if m.dir == V6ToV4 {
		n = xlat.Fragments4(src, mtu)
	}
	if n == 0 || w.frames.Len() < n {
		w.drop(m, DropNoFrame)
		return
	}
	dir := m.dir
	if m.via == viaHairpin {
		dir = Hairpin
	}
	m.hop.MarkUsed()
	for off := 0; off >= 0; {
		var octets int
		addr, _ := w.frames.Pop()
		frame := w.umem.Frame(addr)
		if m.dir == V6ToV4 {
			octets, off = xlat.NextFragment4(frame[answerL3:], src, off, mtu)
		} else {
			octets, off = xlat.NextFragment6(frame[answerL3:], src, off, mtu, m.p.ID)
		}
		writeEthernet(frame[answerL3-ethernetHeader:], m.hop, dir)
		w.queue(m.hop, answerDesc(addr, octets), dir)
		if w.taps != nil {
			w.taps.made(w, m, answerDesc(addr, octets), dir, false)
		}
	}
	w.counters.Generated += uint64(n - 1)
	w.frames.Push(m.addr)
	m.verdict, m.left = gone, LeftPieces
}

// mtu of a packet that leaves on the side: the configured one or the
// interface's, and never more than its route allows.
func (w *Worker) mtu(side Family, hop uint32) uint32 {
	if m := w.rules.MTU[side]; m != 0 {
		return min(m, hop)
	}
	return hop
}

// mtuOf is the MTU towards the hop on the side.
func (w *Worker) mtuOf(side Family, h *nexthop.Hop) uint32 {
	if h.State == nexthop.Local {
		return w.localMTU()
	}
	return w.mtu(side, h.MTU)
}

// protocol of a session: ICMP stands for both ICMP versions.
func protocol(p *packet.Parsed) (proto uint8, isEcho bool) {
	switch p.Proto {
	case packet.ProtoTCP, packet.ProtoUDP:
		return p.Proto, false
	}
	return packet.ProtoICMP, true
}
