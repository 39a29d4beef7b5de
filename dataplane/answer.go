package dataplane

import (
	"encoding/binary"

	"handoff64/dataplane/xlat"
	"handoff64/ring"
)

// answer6 sends an ICMPv6 error about the packet back to where it came from.
// The packet itself stays with the caller, who drops it under its reason.
// What did not come from an interface has no station to answer to. Errors are
// rate-limited (RFC 4443 §2.4 f) and never sent about errors.
func (w *Worker) answer6(m *meta, typ, code uint8, param uint32) {
	if !m.via.fresh() || m.toMany() || !xlat.MayAnswer6(&m.p) {
		return
	}
	frame, addr, ok := w.answerFrame()
	if !ok {
		return
	}
	hi, lo := w.rules.ICMPSource6.Hi, w.rules.ICMPSource6.Lo
	if hi|lo == 0 {
		hi, lo = w.snap.IPv6.Addr6Hi, w.snap.IPv6.Addr6Lo
		if !unicast6(hi, lo) { // none, or link-local, which no router forwards (RFC 4291 §2.5.6)
			hi, lo = m.p.DstHi, m.p.DstLo // the address of ours that it wrote to
		}
	}
	n := xlat.BuildError6(frame[answerL3:], m.frame[m.p.L3:m.p.End], typ, code, param, hi, lo)
	w.sendAnswer(m, frame, addr, n, V4ToV6)
}

// answer4 does the same with an ICMPv4 error (RFC 1812 §4.3.2). One about a
// hairpinned packet is for the client that sent it: it is translated as an
// error from the IPv4 side is (RFC 6146 §3.8, RFC 5508 REQ-7).
func (w *Worker) answer4(m *meta, typ, code uint8, param uint32) {
	switch {
	case !m.via.fresh() && m.via != viaHairpin, m.via.fresh() && m.toMany(), !xlat.MayAnswer4(&m.p):
		return
	}
	frame, addr, ok := w.answerFrame()
	if !ok {
		return
	}
	src := w.ownAddress4()
	if src == 0 {
		src = m.p.Dst4 // an interface without an address of its own: the pool4 address it wrote to
	}
	n := xlat.BuildError4(frame[answerL3:], m.frame[m.p.L3:m.p.End], typ, code, param, src)
	if m.via == viaHairpin {
		w.turnAnswer(frame, addr, n)
		return
	}
	w.sendAnswer(m, frame, addr, n, V6ToV4)
}

// turnAnswer collects an error about a hairpinned packet for sendBack.
func (w *Worker) turnAnswer(frame []byte, addr uint64, n int) {
	if w.back.n == BurstSize {
		w.counters.Suppressed++
		w.frames.Push(addr)
		return
	}
	binary.BigEndian.PutUint16(frame[answerL3-2:], etherTypeIPv4)
	w.counters.Generated++
	w.back.add(w.umem, answerDesc(addr, n), viaHairpin)
}

// sendBack takes the errors about hairpinned packets through the steps. None of
// them has another one for answer, so this ends.
func (w *Worker) sendBack() {
	if w.back.n > 0 {
		w.steps(&w.back)
		w.back.n = 0
	}
}

// toMany says whether the frame was sent to a link-layer multicast or broadcast
// address: what reaches many stations must not have each of them answer (RFC
// 1812 §4.3.2.7, RFC 4443 §2.4 e).
func (m *meta) toMany() bool { return m.frame[m.offset()]&1 != 0 }

// answerFrame takes a frame for an error, if the rate limit allows one.
func (w *Worker) answerFrame() (frame []byte, addr uint64, ok bool) {
	if !w.limit.take() {
		w.counters.Suppressed++
		return nil, 0, false
	}
	addr, ok = w.frames.Pop()
	if !ok {
		w.counters.Suppressed++
		return nil, 0, false
	}
	return w.umem.Frame(addr), addr, true
}

// sendAnswer puts the Ethernet header in front of an error of n octets and
// queues it. It goes to the station that the packet came from: that one has a
// way back to the sender, whatever our own routes say.
func (w *Worker) sendAnswer(m *meta, frame []byte, addr uint64, n int, dir Direction) {
	in := m.frame[m.offset():]
	out := frame[ring.Headroom:]
	copy(out[0:6], in[6:12])
	copy(out[6:12], in[0:6])
	t := uint16(etherTypeIPv6)
	if dir == V6ToV4 {
		t = etherTypeIPv4
	}
	binary.BigEndian.PutUint16(out[12:], t)
	w.counters.Generated++
	if m.via == viaKernel {
		w.enqueueKernel(answerDesc(addr, n), kernelCount(dir))
	} else {
		w.enqueue(answerDesc(addr, n), dir)
	}
	if w.taps != nil {
		w.taps.made(w, m, answerDesc(addr, n), dir, true)
	}
}

// answerL3 is where the IP header of a packet made here stands in its frame.
const answerL3 = ring.Headroom + ethernetHeader

// answerDesc describes a packet of n octets made here, in the free frame addr.
func answerDesc(addr uint64, n int) ring.Desc {
	return ring.Desc{Addr: addr + ring.Headroom, Len: uint32(n + ethernetHeader)}
}
