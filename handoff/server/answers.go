package server

import (
	"sync/atomic"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
	"handoff64/handoff/localnat"
	"handoff64/handoff/tundev"
)

// answerRoom is what an answer needs in front of it in its buffer: the longest
// authenticator (512 octets with its header), and room for the IPv6 headers.
const answerRoom = 512 + localnat.Headroom

// jumbo is the MTU up to which the device may be set by hand.
const jumbo = 9216

// answers is the way of local programs' packets to clients: from the device to
// the socket, past handler and committer, as nothing about them changes the
// table.
//
//	TUN ─ several packets ─► find binding ─► translate ─► authenticator in front ─► socket, several datagrams
//
// One goroutine runs it. What it shares with the handler are bindings, paths and
// counters.
type answers struct {
	*localnat.Translator
	device    device
	bindings  *bindings
	committed *atomic.Uint64
	mtu       int // of the device
	out       *sender
	errors    *parcels // ICMP errors for local programs
	counts    *localCounters

	now           int64
	bufs          [][]byte
	sizes         []int
	pieces        []byte // fragments wait here until they are sent
	parsed, inner packet.Parsed
	piece         [maxDatagram]byte
	scratch       [576]byte // an ICMPv4 error (RFC 1812 §4.3.2.3)
}

func newAnswers(n *nat, out *sender) *answers {
	a := &answers{
		Translator: localnat.New(), device: n.device, bindings: n.bindings, committed: n.committed, mtu: n.mtu, out: out,
		errors: newParcels(), counts: n.counts, sizes: make([]int, n.device.BatchSize()), bufs: make([][]byte, n.device.BatchSize()),
	}
	for i := range a.bufs {
		a.bufs[i] = make([]byte, answerRoom+max(n.mtu, jumbo))
	}
	return a
}

// run answers until the device is closed.
func (a *answers) run() error {
	for {
		n, err := a.device.Read(a.bufs, a.sizes, answerRoom)
		if tundev.Closed(err) {
			return nil
		}
		if err != nil { // one message of the kernel's that makes no sense
			a.counts.lost[lostPacket].Add(1)
			if n <= 0 {
				continue
			}
		}
		a.burst(n, time.Now())
	}
}

// burst sends what was read.
func (a *answers) burst(n int, clock time.Time) {
	a.now = max(a.now, clock.UnixMicro())
	a.pieces = a.pieces[:0]
	for i := range n {
		if l := a.answer(a.bufs[i], answerRoom+a.sizes[i]); l != notLost {
			a.counts.lost[l].Add(1)
		}
	}
	a.out.flush()
	a.errors.write(a.device, a.counts)
}

// answer translates the IPv4 packet at buf[answerRoom:end] and queues it.
func (a *answers) answer(buf []byte, end int) loss {
	p := &a.parsed
	if end > maxDatagram || packet.Parse4(buf[:end], answerRoom, p) != packet.Good {
		return lostPacket
	}
	x := a.bindings.find(p.Dst4)
	switch {
	case x == nil:
		return lostNoClient
	case x.lease > a.committed.Load():
		return lostEarly
	case p.Src4 != word4(x.Own):
		return lostForeign
	case p.TTL <= 1:
		a.tell(buf[:end], packet.ICMPv4TimeExceeded, 0, 0)
		return lostHops
	case p.Kind == packet.KindICMPOther:
		return lostTranslation
	case p.Kind == packet.KindICMPError:
		return a.answerError(buf, x)
	}
	datagram := x.path.datagram(a.now)
	room := datagram - len(x.head)
	if size := xlat.Size6(p); size > room && p.DF {
		a.tell(buf[:end], packet.ICMPv4Unreachable, fragmentationNeeded, uint32(room-(size-int(p.End-p.L3))))
		return lostTooBig
	}
	mss := uint16(max(0, datagram-x.inbound-packet.IPv6Len-packet.TCPLen))
	pkt, s := a.ToClient(buf, p, &x.Pair, 0, mss)
	if s != xlat.OK {
		return lostTranslation
	}
	return a.send(buf, pkt, x, room)
}

// answerError translates an ICMPv4 error of this host's.
func (a *answers) answerError(buf []byte, x *binding) loss {
	p, inner := &a.parsed, &a.inner
	if packet.ParseQuoted4(buf, int(p.L4)+packet.ICMPLen, int(p.End), inner) != packet.Good {
		return lostPacket
	}
	if inner.Src4 != word4(x.Address) || inner.Dst4 != word4(x.Own) {
		return lostForeign
	}
	datagram := x.path.datagram(a.now)
	m := localnat.MTUs{IPv6: datagram - x.inbound, IPv4: a.mtu}
	pkt, s := a.ErrorToClient(buf, p, inner, &x.Pair, 0, m)
	if s != xlat.OK {
		return lostTranslation
	}
	return a.send(buf, pkt, x, datagram-len(x.head))
}

// send queues a translated packet, a part of buf, behind its authenticator: in
// pieces if it is too long. Fragments are cut before they are put into control
// datagrams, so that no router has to do it with those.
func (a *answers) send(buf, pkt []byte, x *binding, room int) loss {
	k := destinationKey{x.path.own, x.path.nat64, uint16(x.path.port.Load())}
	a.counts.answers.Add(1)
	a.counts.answersOctets.Add(uint64(len(pkt)))
	if len(pkt) <= room {
		start := cap(buf) - cap(pkt) // where pkt lies in buf
		copy(buf[start-len(x.head):], x.head)
		a.out.add(k, buf[start-len(x.head):start+len(pkt)])
		return notLost
	}
	if !localnat.Pieces(a.piece[:], pkt, room, func(piece []byte) {
		at := len(a.pieces)
		a.pieces = append(append(a.pieces, x.head...), piece...)
		a.out.add(k, a.pieces[at:len(a.pieces):len(a.pieces)])
	}) {
		return lostTooBig
	}
	return notLost
}

// tell sends an ICMPv4 error to the program that sent a packet, in the name of
// whom that was for.
func (a *answers) tell(buf []byte, typ, code uint8, param uint32) {
	if !xlat.MayAnswer4(&a.parsed) {
		return
	}
	n := xlat.BuildError4(a.scratch[:], buf[answerRoom:], typ, code, param, a.parsed.Dst4)
	if a.errors.full() {
		a.errors.write(a.device, a.counts)
	}
	a.errors.add(a.scratch[:n])
}
