package reference

import (
	"encoding/binary"
	"slices"
)

// The ICMP rules of the reference: RFC 7915 §4.2, §4.3, §5.2 and §5.3, and the
// extensions of RFC 4884, as they stand there.

// mapped is an ICMP header: type, code and the word behind the checksum.
type mapped struct {
	typ, code byte
	word      uint32
}

// map46 is §4.2 for an error that quotes a packet of the total length.
func map46(u []byte, total int, o *Options) (mapped, string) {
	switch u[0] {
	case 3:
		switch u[1] {
		case 0, 1, 5, 6, 7, 8, 11, 12: // no route to destination
			return mapped{1, 0, 0}, ""
		case 2: // the pointer points to the Next Header field
			return mapped{4, 1, 6}, ""
		case 3:
			return mapped{1, 4, 0}, ""
		case 4:
			return mapped{2, 0, packetTooBig(int(binary.BigEndian.Uint16(u[6:])), total, o)}, ""
		case 9, 10, 13, 15: // administratively prohibited
			return mapped{1, 1, 0}, ""
		}
		return mapped{}, ICMPCodeUnmapped
	case 11:
		return mapped{3, u[1], 0}, ""
	case 12:
		if u[1] != 0 && u[1] != 2 {
			return mapped{}, ICMPCodeUnmapped
		}
		figure3 := map[byte]uint32{0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
		if at, ok := figure3[u[4]]; ok {
			return mapped{4, 0, at}, ""
		}
		return mapped{}, ICMPPointerUnmapped
	}
	return mapped{}, ICMPTypeUnmapped
}

// packetTooBig is §4.2's maximum(1280, minimum(MTU + 20, MTU_of_IPv6_nexthop,
// MTU_of_IPv4_nexthop + 20)), with the plateaus of RFC 1191 for an MTU of zero.
func packetTooBig(mtu, total int, o *Options) uint32 {
	if mtu == 0 {
		for _, plateau := range []int{1492, 2002, 4352, 8166, 17914, 32000, 65535} {
			if plateau >= 1280 && plateau < total {
				mtu = plateau
			}
		}
	}
	return uint32(max(1280, min(mtu+20, o.MTU6, o.MTU4+20)))
}

// map64 is §5.2 for an error whose quote has a fragment header or not.
func map64(u []byte, fragmentHeader bool, o *Options) (mapped, string) {
	rest := int(binary.BigEndian.Uint32(u[4:]))
	switch u[0] {
	case 1:
		codes := map[byte]byte{0: 1, 1: 10, 2: 1, 3: 1, 4: 3}
		if code, ok := codes[u[1]]; ok {
			return mapped{3, code, 0}, ""
		}
		return mapped{}, ICMPCodeUnmapped
	case 2: // minimum(MTU - 20, MTU_of_IPv4_nexthop, MTU_of_IPv6_nexthop - 20)
		less := 20
		if fragmentHeader {
			less = 28
		}
		mtu := min(rest-less, o.MTU4, o.MTU6-less)
		return mapped{3, 4, uint32(min(max(mtu, 68), 65535))}, "" // what IPv4 and the field can mean
	case 3:
		return mapped{11, u[1], 0}, ""
	}
	switch u[1] { // parameter problem
	case 1:
		return mapped{3, 2, 0}, ""
	case 0:
		figure6 := map[int]uint32{0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
		for i := 8; i < 40; i++ {
			figure6[i] = map[bool]uint32{true: 12, false: 16}[i < 24]
		}
		if at, ok := figure6[rest]; ok {
			return mapped{12, 0, at << 24}, ""
		}
		return mapped{}, ICMPPointerUnmapped
	}
	return mapped{}, ICMPCodeUnmapped
}

// readQuote reads the packet in an ICMP error: its headers and eight octets
// must be there (RFC 792).
func readQuote(b []byte, v6 bool) (v View) {
	if v6 {
		if v = read6(b, true); v.Refuse != "" {
			v.Refuse = Quoteless
		}
	} else {
		v.Refuse = Quoteless
		if len(b) < 20 || b[0]>>4 != 4 || b[0]&15 < 5 || int(b[0]&15)*4 > len(b) || int(binary.BigEndian.Uint16(b[2:])) < int(b[0]&15)*4 {
			return v
		}
		v = View{Packet: Decode(b), Start: int(b[0]&15) * 4}
		v.End = v.Start + len(v.Upper)
	}
	if v.Refuse == "" && v.Off == 0 && len(v.Upper) < 8 {
		v.Refuse = Quoteless
	}
	return v
}

// quoted4or6 says why a quote that can be read is not translated.
func quoted4or6(m Packet) string {
	icmp := byte(1)
	if m.V6() {
		icmp = 58
	}
	switch {
	case m.Off != 0:
		return InnerFragment // it names no session
	case m.Proto == 6 || m.Proto == 17:
		return ""
	case m.Proto != icmp:
		return InnerUnsupported
	case IsError(m):
		return InnerError // §4.3: not more than one embedded header
	case !isEcho(m):
		return InnerUnsupported
	case m.MF:
		return FragmentedICMP
	}
	return ""
}

// TranslateAnyError translates an ICMP error, or says why not.
func TranslateAnyError(v View, outer, inner Endpoint, o *Options) ([]byte, string) {
	old := v.Packet
	quote := readQuote(old.Upper[8:], old.V6())
	if quote.Refuse != "" {
		return nil, quote.Refuse
	}
	if old.MF {
		return nil, FragmentedICMP
	}
	if Sum(old.Pseudo(), old.Upper) != 0xffff { // RFC 5508 REQ-3
		return nil, ICMPChecksum
	}
	to, why := mapped{}, ""
	if old.V6() {
		to, why = map64(old.Upper, quote.Header, o)
	} else {
		to, why = map46(old.Upper, quote.Sent+quote.Start, o)
	}
	if why == "" {
		why = quoted4or6(quote.Packet)
	}
	if why != "" {
		return nil, why
	}
	return writeError(old, quote, to, outer, inner, o).Encode(), ""
}

// writeError puts the error together: the new header, the translated quote,
// and the extension if there is one and the new type has a place for its length.
func writeError(old Packet, quote View, to mapped, outer, inner Endpoint, o *Options) Packet {
	unit, attr, newUnit, newAttr, limit := 8, 4, 4, 5, 65535-20
	if !old.V6() {
		unit, attr, newUnit, newAttr, limit = 4, 5, 8, 4, 1280-40
	}
	original, ext := old.Upper[8:], []byte(nil)
	extensible := !old.V6() || old.Upper[0] == 1 || old.Upper[0] == 3 // RFC 4884 §4
	if n := int(old.Upper[attr]) * unit; extensible && n >= quote.Start+8 && len(original)-n >= 4 {
		original, ext = original[:n], original[n:]
	}
	known := original[:min(quote.End, len(original))]
	was := quote.Packet
	was.Upper = slices.Clone(known[quote.Start:])
	now := translateHeader(was, inner, 0)
	translateUpper(was, &now, inner)
	now.Adjust(was)
	if !o.TrafficClass {
		now.TOS = 0
	}
	body := slices.Concat(now.Encode(), original[len(known):])

	m := translateHeader(old, outer, o.ID)
	m.TTL--
	if !o.TrafficClass {
		m.TOS = 0
	}
	m.Upper = binary.BigEndian.AppendUint32([]byte{to.typ, to.code, 0, 0}, to.word)
	carries := !m.V6() || to.typ == 1 || to.typ == 3
	if padded := max((len(body)+newUnit-1)/newUnit*newUnit, 128); ext != nil && carries && 8+padded+len(ext) <= limit && padded/newUnit <= 255 {
		m.Upper[newAttr] = byte(padded / newUnit)
		body = slices.Concat(body, make([]byte, padded-len(body)), ext)
	}
	m.Upper = append(m.Upper, body[:min(len(body), limit-8)]...)
	m.Sent = len(m.Upper)
	m.DF = !m.V6() && !old.Header && m.Sent+20 > 1260
	m.Fill()
	return m
}
