package reference

import (
	"encoding/binary"
	"slices"
)

// What the reference says of a packet that must not be translated.
const (
	Malformed   = "malformed" // by RFC 791, 8200, 768, 9293: lengths, checksums, chains, fragments that no sender makes
	Quoteless   = "quote"     // an ICMP error whose quote does not identify a session (RFC 6146 §3.4)
	SourceRoute = "source-route"

	SegmentsLeft        = "segments-left"
	UnsupportedProtocol = "unsupported-protocol"
	FragmentedICMP      = "fragmented-icmp"
	UDPZeroIPv6         = "udp-zero-checksum-ipv6"
	UDPZeroChecksum     = "udp-zero-checksum"
	UDPZeroFragment     = "udp-zero-checksum-fragment"
	ICMPChecksum        = "icmp-bad-checksum"
	ICMPTypeUnmapped    = "icmp-type-unmapped"
	ICMPCodeUnmapped    = "icmp-code-unmapped"
	ICMPPointerUnmapped = "icmp-pointer-unmapped"
	InnerError          = "icmp-inner-error"
	InnerUnsupported    = "icmp-inner-unsupported"
	InnerFragment       = "icmp-inner-fragment"
)

// Options is the configuration that a translation depends on.
type Options struct {
	ID           uint16 // of IPv4 packets that are no fragments
	TrafficClass bool   // copied, else zero
	ComputeUDP   bool   // checksums that IPv4 UDP lacks
	MTU6, MTU4   int    // of the next hops
	MSS          uint16 // SYNs announce no more; 0: as they are
}

// View is a packet as the reference reads it. Refuse is empty if it can be read.
type View struct {
	Packet
	Start  int // of the upper layer
	End    int // of the packet
	Refuse string
}

// Read reads any octets as a packet from an interface.
func Read(b []byte) View {
	if len(b) > 0 && b[0]>>4 == 6 {
		return read6(b, false)
	}
	return read4(b)
}

func read4(b []byte) (v View) {
	v.Refuse = Malformed
	if len(b) < 20 || b[0]>>4 != 4 {
		return v
	}
	ihl, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if ihl < 20 || total < ihl || total > len(b) || Sum(b[:ihl]) != 0xffff {
		return v
	}
	v.Packet, v.Start, v.End = Decode(b[:total]), ihl, total
	if why := badUpperLayer(v.Packet, 1); why != "" {
		return v
	}
	v.Refuse = ""
	if sourceRouted(b[20:ihl]) {
		v.Refuse = SourceRoute
	}
	return v
}

// sourceRouted looks for an unexpired source route (RFC 7915 §4.1): its
// pointer is not beyond its length, or the option is damaged.
func sourceRouted(o []byte) bool {
	for len(o) > 0 && o[0] != 0 {
		if o[0] == 1 {
			o = o[1:]
			continue
		}
		route := o[0] == 131 || o[0] == 137
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			return route // nothing behind a damaged option can be found
		}
		if route && (o[1] == 2 || o[2] <= o[1]) {
			return true
		}
		o = o[o[1]:]
	}
	return false
}

// read6 walks over the extension headers that RFC 7915 §5.1 names, at most
// eight of them. A quote was judged when it was sent: segments left do not matter.
func read6(b []byte, quoted bool) (v View) {
	v.Refuse = Malformed
	if len(b) < 40 || b[0]>>4 != 6 {
		return v
	}
	v.End = 40 + int(binary.BigEndian.Uint16(b[4:]))
	if v.End > len(b) && !quoted {
		return v
	}
	v.End = min(v.End, len(b))
	next, at, fragmented := b[6], 40, false
	for n := 0; slices.Contains([]byte{0, 43, 44, 60}, next); n++ {
		if v.End-at < 8 || n == 8 || next == 0 && at != 40 || fragmented && (next == 44 || !quoted) {
			return v // RFC 8200 §4.1 has hop-by-hop options first, RFC 7915 §5.1.1 nothing behind a fragment header
		}
		size := 8
		switch next {
		case 43:
			if b[at+3] != 0 && !quoted {
				v.Refuse = SegmentsLeft
				return v
			}
			fallthrough
		case 0, 60:
			size += 8 * int(b[at+1])
		case 44:
			fragmented = true
			if binary.BigEndian.Uint16(b[at+2:])>>3 != 0 {
				at += 8
				v.Packet, v.Start = Decode(b[:v.End]), at
				v.Refuse = ""
				if !quoted && badFragment(v.Packet) != "" {
					v.Refuse = Malformed
				}
				return v
			}
			if !quoted && b[at+3]&1 != 0 && (v.End-at-8)%8 != 0 || !quoted && b[at+3]&1 != 0 && v.End-at == 8 {
				return v // a first fragment ends on an 8-octet border and is not empty
			}
		}
		if at+size > v.End {
			return v
		}
		next, at = b[at], at+size
	}
	v.Packet, v.Start = Decode(b[:v.End]), at
	if !quoted && badUpperLayer(v.Packet, 58) != "" {
		return v
	}
	v.Refuse = ""
	return v
}

// badFragment finds what no sender makes of a fragment.
func badFragment(m Packet) string {
	n := len(m.Upper)
	if n == 0 || m.MF && n%8 != 0 || m.Off+n > 65535 {
		return Malformed
	}
	return ""
}

// badUpperLayer looks at the fragment and the upper layer's header, which a
// first fragment holds whole (RFC 7112).
func badUpperLayer(m Packet, icmp byte) string {
	if (m.MF || m.Off != 0) && badFragment(m) != "" {
		return Malformed
	}
	if m.Off != 0 {
		return ""
	}
	n, bad := len(m.Upper), false
	switch m.Proto {
	case 6:
		bad = n < 20 || m.Upper[12]>>4 < 5 || int(m.Upper[12]>>4)*4 > n
	case 17:
		bad = n < 8 || binary.BigEndian.Uint16(m.Upper[4:]) < 8 || int(binary.BigEndian.Uint16(m.Upper[4:])) > n && !m.MF
	case icmp:
		bad = n < 8
	}
	if bad {
		return Malformed
	}
	return ""
}

// Refuses says why a packet that can be read is not translated.
func Refuses(m Packet, o *Options) string {
	icmp := byte(1)
	if m.V6() {
		icmp = 58
	}
	switch {
	case m.Proto == icmp && (m.Off != 0 || m.MF && isEcho(m)):
		return FragmentedICMP // RFC 7915 §1.2
	case m.Proto == icmp && !isEcho(m), !slices.Contains([]byte{6, 17, icmp}, m.Proto):
		return UnsupportedProtocol // RFC 6146 §3.4
	case m.Proto != 17 || m.Off != 0 || m.Upper[6] != 0 || m.Upper[7] != 0:
		return ""
	case m.V6():
		return UDPZeroIPv6 // RFC 8200 §8.1
	case !o.ComputeUDP:
		return UDPZeroChecksum // RFC 7915 §4.5
	case m.MF:
		return UDPZeroFragment
	}
	return ""
}

func isEcho(m Packet) bool {
	if m.V6() {
		return m.Upper[0] == 128 || m.Upper[0] == 129
	}
	return m.Upper[0] == 8 || m.Upper[0] == 0
}

// IsError: the types whose message quotes a packet (RFC 792, RFC 4443).
func IsError(m Packet) bool {
	switch {
	case m.Off != 0 || len(m.Upper) == 0:
		return false
	case m.V6():
		return m.Proto == 58 && m.Upper[0] >= 1 && m.Upper[0] <= 4
	}
	return m.Proto == 1 && slices.Contains([]byte{3, 4, 5, 11, 12}, m.Upper[0])
}

// TranslateAny translates what is no error, valid checksum or not.
func TranslateAny(old Packet, e Endpoint, o *Options) Packet {
	m := translateHeader(old, e, o.ID)
	m.TTL--
	if !o.TrafficClass {
		m.TOS = 0
	}
	if old.Off != 0 {
		return m
	}
	translateUpper(old, &m, e)
	if m.Proto == 17 && old.Upper[6] == 0 && old.Upper[7] == 0 {
		m.Fill()
	} else {
		m.Adjust(old)
	}
	if m.Proto == 6 && m.Upper[13]&2 != 0 && o.MSS != 0 {
		m.Upper = ClampMSS(m.Upper, o.MSS)
	}
	return m
}
