package dataplane

import (
	"encoding/binary"
	"math/bits"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// Nearly every packet is a plain one: TCP or UDP without options, extension
// headers or fragments, of an established session, with a next hop that is
// known, and small enough for it. Such packets take a shortcut through the
// steps, in three passes over the burst, for the same reason as in lookup:
//
//	choose   the steps parse and classify, and the key
//	locate   where each session probably lies
//	finish   its session, its hop, the translation in place
//
// A pass that finds anything unusual about a packet leaves it as it came, to
// the steps themselves: nothing is dropped, answered, opened or parked here.
// Neither packets nor sessions can tell the difference (shortcut_test.go).
//
// Packets stay in order: tx sends all of a burst as it came. The states of
// connections follow in order what takes the shortcut, FIN and RST too. What
// takes the steps beside it (SYNs, options, packets that are too big) they see
// as if it had come at the end of the burst.

// shortlist is the packets of one direction that take the shortcut so far.
// Owned by the worker; nothing in it survives the burst.
type shortlist struct {
	n      int
	done   uint64 // bit set: positions in the burst of those that are translated
	hashes [BurstSize]uint64
	slots  [BurstSize]uint32
	tuples [BurstSize]conntrack.Tuple
	heads  [BurstSize]*packet.Window
	who    [BurstSize]uint8 // position in the burst
	nEnds  int
	ends   [BurstSize]uint8 // positions in the list of what ends a connection
}

// shortcut sends what it can of a burst that a port has received. It returns
// false when packets are left, which then are in the burst for the steps.
func (w *Worker) shortcut(b *burst) (all bool) {
	if w.taps != nil { // who looks on wants to see the steps
		b.describe(w.umem, 0)
		return false
	}
	w.choose(b)
	w.locate()
	w.finish(b)
	return w.sendShort(b)
}

// locate asks for the slots of what is listed, as lookup does.
func (w *Worker) locate() {
	if s := &w.short[V6ToV4]; s.n > 0 {
		w.table.Touch64(s.hashes[:s.n])
		w.table.Locate64(s.hashes[:s.n], s.slots[:s.n])
		w.table.TouchPeers64(s.hashes[:s.n], s.slots[:s.n], s.ends[:s.nEnds])
	}
	if s := &w.short[V4ToV6]; s.n > 0 {
		w.table.Touch46(s.hashes[:s.n])
		w.table.Locate46(s.hashes[:s.n], s.slots[:s.n])
		w.table.TouchPeers46(s.hashes[:s.n], s.slots[:s.n], s.ends[:s.nEnds])
	}
}

func (w *Worker) finish(b *burst) {
	w.finish64(b, &w.short[V6ToV4])
	w.finish46(b, &w.short[V4ToV6])
}

// sendShort queues a burst that has come through as a whole. Of any other it
// marks what has, for tx to send in its turn.
func (w *Worker) sendShort(b *burst) (all bool) {
	done64, done46 := w.short[V6ToV4].done, w.short[V4ToV6].done
	switch whole := ^uint64(0) >> (BurstSize - b.n); {
	case done64 == whole:
		w.enqueueAll(b.descs[:b.n], V6ToV4)
	case done46 == whole:
		w.enqueueAll(b.descs[:b.n], V4ToV6)
	default:
		b.describe(w.umem, done64|done46)
		b.mark(done64, V6ToV4)
		b.mark(done46, V4ToV6)
		return false
	}
	return true
}

// mark notes, for tx, which packets have taken the shortcut.
func (b *burst) mark(done uint64, dir Direction) {
	for ; done != 0; done &= done - 1 {
		m := &b.meta[bits.TrailingZeros64(done)]
		m.verdict, m.dir = ready, dir
	}
}

func (s *shortlist) clear() { s.n, s.nEnds, s.done = 0, 0, 0 }

// add ends the entry of a packet at the position i of the burst.
func (s *shortlist) add(i int, h *packet.Window, proto uint8) {
	at := s.n & (BurstSize - 1)
	s.heads[at], s.who[at] = h, uint8(i)
	if proto == packet.ProtoTCP && h.TCPFlags()&(conntrack.FlagFIN|conntrack.FlagRST) != 0 {
		s.ends[s.nEnds&(BurstSize-1)] = uint8(s.n)
		s.nEnds++
	}
	s.n++
}

// choose lists the plain packets that the NAT64 is to translate.
func (w *Worker) choose(b *burst) {
	s64, s46 := &w.short[V6ToV4], &w.short[V4ToV6]
	s64.clear()
	s46.clear()
	inFrame := uint64(w.umem.FrameSize - 1)
	for i := range b.n {
		d := &b.descs[i]
		at, n := int(d.Addr&inFrame), int(d.Len)
		if at < headerGrowth || at+max(n, len(packet.Window{})) > w.umem.FrameSize {
			continue
		}
		room := (*[headerGrowth + len(packet.Window{})]byte)(w.umem.Mem[d.Addr-headerGrowth:])
		switch binary.BigEndian.Uint16(room[headerGrowth+12:]) {
		case etherTypeIPv6:
			w.choose64(s64, i, (*packet.Window)(room[headerGrowth:]), n)
		case etherTypeIPv4:
			w.choose46(s46, i, (*packet.Window)(room[:]), n)
		}
	}
}

// choose64 takes a packet of n octets onto the list if it is plain, its
// destination lies in a prefix of 96 bits, and is no address of ours (hairpin).
func (w *Worker) choose64(s *shortlist, i int, h *packet.Window, n int) {
	if !h.Plain6(n) {
		return
	}
	hi, lo := h.Dst6()
	p := w.rules.pool6Index(hi, lo)
	if p < 0 || w.rules.Pool6[p].Bits != 96 || w.rules.Pool4.Contains(uint32(lo)) {
		return
	}
	proto, _ := h.Upper6()
	var client conntrack.Addr6
	client.Hi, client.Lo = h.Src6()
	at := s.n & (BurstSize - 1)
	s.tuples[at], s.hashes[at] = w.table.Tuple64(client, uint32(lo), h.Ports(), conntrack.Proto(proto), uint8(p))
	s.add(i, h, proto)
}

// choose46 does so for a packet to an address of pool4.
func (w *Worker) choose46(s *shortlist, i int, h *packet.Window, n int) {
	if !h.Plain4(n) || !w.rules.Pool4.Contains(h.Dst4()) {
		return
	}
	proto, _ := h.Upper4()
	at := s.n & (BurstSize - 1)
	s.tuples[at], s.hashes[at] = w.table.Tuple46(h.Src4(), h.Dst4(), h.Ports(), conntrack.Proto(proto))
	s.add(i, h, proto)
}

// finish64 translates the packets of the list that have all they need.
func (w *Worker) finish64(b *burst, s *shortlist) {
	for i := range s.n {
		i := i & (BurstSize - 1)
		h := s.heads[i]
		v, ok := w.table.At64(&s.tuples[i], s.hashes[i], s.slots[i])
		if !ok {
			continue
		}
		hop, ok := w.cached(v.Hop())
		proto, n := h.Upper6()
		size := n + packet.IPv4Len
		if !ok || uint32(size) > w.mtu(IPv4, hop.MTU) {
			continue
		}
		if proto != packet.ProtoTCP {
			v.Touch(w.now)
		} else if !w.table.PassTCP64(v, s.hashes[i], h.TCPFlags(), w.now) {
			continue
		}
		w.opts.ID = w.ids.next()
		xlat.Plain64(h, v.Mapped(), v.Port(), v.Delta(), &w.opts)
		hop.MarkUsed()
		writeEthernet(h[packet.WindowV4-ethernetHeader:], hop, V6ToV4)
		at := s.who[i] & (BurstSize - 1)
		s.done |= 1 << at
		b.descs[at].Addr += headerGrowth
		b.descs[at].Len = uint32(size + ethernetHeader)
	}
}

// finish46 is finish64 for the other direction. What has to be fragmented
// towards IPv6 is not plain.
func (w *Worker) finish46(b *burst, s *shortlist) {
	for i := range s.n {
		i := i & (BurstSize - 1)
		h := s.heads[i]
		v, client, ok := w.table.At46(&s.tuples[i], s.hashes[i], s.slots[i])
		if !ok {
			continue
		}
		hop, ok := w.cached(v.Hop())
		proto, n := h.Upper4()
		size := n + packet.IPv6Len
		if !ok || uint32(size) > min(w.mtu(IPv6, hop.MTU), w.rules.LowestIPv6MTU) {
			continue
		}
		if proto != packet.ProtoTCP {
			v.Touch(w.now)
		} else if !w.table.PassTCP46(v, s.hashes[i], h.TCPFlags(), w.now) {
			continue
		}
		srcHi, srcLo := w.rules.Pool6[v.Pool6()].Embed(h.Src4())
		xlat.Plain46(h, srcHi, srcLo, client.Hi, client.Lo, v.Port(), v.Delta(), &w.opts)
		hop.MarkUsed()
		writeEthernet(h[:], hop, V4ToV6)
		at := s.who[i] & (BurstSize - 1)
		s.done |= 1 << at
		b.descs[at].Addr -= headerGrowth
		b.descs[at].Len = uint32(size + ethernetHeader)
	}
}

// cached is the hop that a session remembers, if it is known.
func (w *Worker) cached(word uint32) (hop *nexthop.Hop, ok bool) {
	i, ok := w.snap.Cached(word)
	if !ok {
		return nil, false
	}
	hop = w.snap.Hops[i]
	return hop, hop.State == nexthop.Resolved
}
