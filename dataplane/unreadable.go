package dataplane

import "handoff64/dataplane/packet"

// Codes of ICMPv6 Parameter Problem (type 4).
const (
	erroneousField    = 0 // RFC 4443 §3.4
	unknownNextHeader = 1
	tooManyHeaders    = 8 // RFC 8883 §3.1
)

// segmentsLeftOffset is where a routing header says how far it is from used up
// (RFC 8200 §4.4).
const segmentsLeftOffset = 3

// unreadable drops a packet that parse refused. Most are malformed, which
// routers pass over in silence (RFC 1812 §5.2.2); what is well-formed and
// cannot be translated is answered.
func (w *Worker) unreadable(m *meta, s packet.Status) {
	switch s {
	case packet.SourceRoute:
		if w.rules.Pool4.Contains(m.p.Dst4) {
			w.answer4(m, 3, 5, 0) // RFC 7915 §4.1: source route failed
		}
	case packet.SegmentsLeft, packet.TooManyHeaders, packet.MisplacedHopByHop:
		w.answerHeader6(m, s)
	}
	w.drop(m, parseReasons[s])
}

// answerHeader6 tells the sender of an IPv6 packet which of its extension
// headers kept it from being translated, unless the packet is not for us or
// may hold an ICMPv6 error.
func (w *Worker) answerHeader6(m *meta, s packet.Status) {
	if w.rules.pool6Index(m.p.DstHi, m.p.DstLo) < 0 {
		return
	}
	l3, at := int(m.p.L3), int(m.p.L4)
	if !packet.ReadOn6(m.frame[:m.p.End], &m.p) {
		return
	}
	switch s {
	case packet.SegmentsLeft: // RFC 7915 §5.1
		w.answer6(m, 4, erroneousField, uint32(at-l3+segmentsLeftOffset))
	case packet.TooManyHeaders:
		w.answer6(m, 4, tooManyHeaders, uint32(at-l3))
	case packet.MisplacedHopByHop: // RFC 8200 §4: as if the zero were unknown
		w.answer6(m, 4, unknownNextHeader, uint32(packet.PointerTo6(m.frame, l3, at)))
	}
}
