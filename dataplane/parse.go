package dataplane

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

const (
	ethernetHeader = packet.EthernetLen
	etherTypeIPv4  = packet.EtherTypeIPv4
	etherTypeIPv6  = packet.EtherTypeIPv6
)

// parseReasons gives each way a packet can be unreadable its name.
var parseReasons = [...]DropReason{
	packet.Truncated:          DropTruncated,
	packet.BadVersion:         DropBadVersion,
	packet.BadHeaderLength:    DropBadHeaderLength,
	packet.BadHeaderChecksum:  DropBadHeaderChecksum,
	packet.SourceRoute:        DropSourceRoute,
	packet.SegmentsLeft:       DropSegmentsLeft,
	packet.BadExtensionHeader: DropBadExtensionHeader,
	packet.BadFragment:        DropBadFragment,
	packet.TooManyHeaders:     DropBadExtensionHeader,
	packet.MisplacedHopByHop:  DropBadExtensionHeader,
	packet.TinyFragment:       DropFragmentTiny,
	packet.LongFragment:       DropFragmentTooLong,
}

// parse finds the headers of every packet of the burst. Nothing in a packet is
// trusted before this.
func (w *Worker) parse(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		if m.verdict != undecided {
			continue
		}
		off := m.offset()
		end := off + int(m.len)
		if m.len < ethernetHeader || end > len(m.frame) {
			w.drop(m, DropTruncated)
			continue
		}
		var s packet.Status
		data := m.frame[:end]
		switch binary.BigEndian.Uint16(m.frame[off+12:]) {
		case etherTypeIPv6:
			m.dir = V6ToV4
			s = packet.Parse6(data, off+ethernetHeader, &m.p)
		case etherTypeIPv4:
			m.dir = V4ToV6
			s = packet.Parse4(data, off+ethernetHeader, &m.p)
		default:
			w.drop(m, DropNotIP)
			continue
		}
		if s != packet.Good {
			if spoils(s, &m.p) {
				m.role, m.reason = roleSpoilt, parseReasons[s]
				continue
			}
			w.unreadable(m, s)
		}
	}
}

// spoils says whether the fault lies with the datagram of which the packet is a
// fragment, so that the others are worth nothing either.
func spoils(s packet.Status, p *packet.Parsed) bool {
	switch s {
	case packet.TinyFragment, packet.LongFragment, packet.BadExtensionHeader, packet.BadHeaderLength:
		return isFragment(p)
	}
	return false
}
