package reference

import (
	"encoding/binary"
	"slices"
)

// ICMP64 and ICMP46 are the tables of RFC 7915 §5.2 and §4.2 for the
// errors whose header is all zeros behind the checksum.
var (
	ICMP64 = map[[2]byte][2]byte{
		{1, 0}: {3, 1}, {1, 1}: {3, 10}, {1, 2}: {3, 1}, {1, 3}: {3, 1}, {1, 4}: {3, 3},
		{3, 0}: {11, 0}, {3, 1}: {11, 1}, {4, 1}: {3, 2},
	}
	ICMP46 = map[[2]byte][2]byte{
		{3, 0}: {1, 0}, {3, 1}: {1, 0}, {3, 3}: {1, 4}, {3, 5}: {1, 0}, {3, 6}: {1, 0}, {3, 7}: {1, 0}, {3, 8}: {1, 0},
		{3, 9}: {1, 1}, {3, 10}: {1, 1}, {3, 11}: {1, 0}, {3, 12}: {1, 0}, {3, 13}: {1, 1}, {3, 15}: {1, 1},
		{11, 0}: {3, 0}, {11, 1}: {3, 1},
	}
)

// Error translates an ICMP error. unit and attr are the length attribute's
// unit and octet as it comes in, newUnit and newAttr as it goes out.
func Error(old Packet, outer, inner Endpoint, id uint16) Packet {
	table, unit, attr, newUnit, newAttr, limit := ICMP64, 8, 4, 4, 5, 65535-20
	if len(old.Src) == 4 {
		table, unit, attr, newUnit, newAttr, limit = ICMP46, 4, 5, 8, 4, 1280-40
	}
	to := table[[2]byte{old.Upper[0], old.Upper[1]}]
	quote, ext := old.Upper[8:], []byte(nil)
	if n := int(old.Upper[attr]) * unit; n > 0 && len(quote)-n >= 4 {
		quote, ext = quote[:n], quote[n:]
	}
	was := Decode(quote)
	behind := quote[len(quote)-(len(quote)-was.HeaderLen(quote)-len(was.Upper)):] // zeros behind a short packet
	now := translateHeader(was, inner, 0)
	translateUpper(was, &now, inner)
	now.Adjust(was)
	quote = slices.Concat(now.Encode(), behind)

	m := translateHeader(old, outer, id)
	m.TTL--
	m.Upper = []byte{to[0], to[1], 0, 0, 0, 0, 0, 0}
	carries := m.Proto == 1 || to[0] == 1 || to[0] == 3
	if padded := max((len(quote)+newUnit-1)/newUnit*newUnit, 128); ext != nil && carries && 8+padded+len(ext) <= limit && padded/newUnit <= 255 {
		m.Upper[newAttr] = byte(padded / newUnit)
		quote = slices.Concat(quote, make([]byte, padded-len(quote)), ext)
	}
	if to[0] == 4 {
		m.Upper[7] = 6 // protocol unreachable points at the next header
	}
	m.Upper = append(m.Upper, quote[:min(len(quote), limit-8)]...)
	m.Sent = len(m.Upper)
	m.DF = !m.V6() && m.Sent+20 > 1260
	m.Fill()
	return m
}

// HeaderLen is where the upper layer starts in the packet that m was decoded from.
func (m Packet) HeaderLen(pkt []byte) int {
	if !m.V6() {
		return int(pkt[0]&15) * 4
	}
	return 40 + int(binary.BigEndian.Uint16(pkt[4:])) - m.Sent
}
