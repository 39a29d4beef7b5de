package xlat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// The reference translator: slow and obvious. It takes a packet apart into a
// model, follows the RFC on the model, and writes the result from nothing.
// It shares no code with what it is compared against.

// model is an IP packet taken apart. Addresses have 4 or 16 octets.
type model struct {
	src, dst []byte
	tos, ttl byte
	proto    byte
	id       uint32
	df, mf   bool
	off      int  // octets
	header   bool // an IPv6 fragment header is there
	sent     int  // octets of upper layer that the header speaks of; more than len(upper) in a quote
	upper    []byte
}

func (m model) v6() bool { return len(m.src) == 16 }

// slowSum adds 16-bit words as RFC 1071 defines it.
func slowSum(parts ...[]byte) int {
	all := slices.Concat(parts...)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := 0
	for i := 0; i < len(all); i += 2 {
		sum += int(all[i])<<8 | int(all[i+1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return sum
}

// decode takes a packet apart. A quote may be cut anywhere behind its headers.
func decode(pkt []byte) model {
	var m model
	if pkt[0]>>4 == 4 {
		n := int(pkt[0]&15) * 4
		flags := binary.BigEndian.Uint16(pkt[6:])
		m = model{
			src: pkt[12:16], dst: pkt[16:20], tos: pkt[1], ttl: pkt[8], proto: pkt[9],
			id: uint32(binary.BigEndian.Uint16(pkt[4:])), df: flags&0x4000 != 0, mf: flags&0x2000 != 0,
			off: int(flags&0x1fff) * 8, sent: int(binary.BigEndian.Uint16(pkt[2:])) - n, upper: pkt[n:],
		}
	} else {
		m = model{
			src: pkt[8:24], dst: pkt[24:40], tos: pkt[0]<<4 | pkt[1]>>4, ttl: pkt[7], proto: pkt[6],
			sent: int(binary.BigEndian.Uint16(pkt[4:])), upper: pkt[40:],
		}
		for m.off == 0 && slices.Contains([]byte{0, 43, 44, 60}, m.proto) {
			n := 8
			if m.proto == 44 {
				w := binary.BigEndian.Uint16(m.upper[2:])
				m.header, m.off, m.mf = true, int(w&^7), w&1 != 0
				m.id = binary.BigEndian.Uint32(m.upper[4:])
			} else {
				n += int(m.upper[1]) * 8
			}
			m.proto = m.upper[0]
			m.upper = m.upper[n:]
			m.sent -= n
		}
	}
	m.upper = bytes.Clone(m.upper[:min(m.sent, len(m.upper))])
	return m
}

// encode writes the packet out.
func (m model) encode() []byte {
	if m.v6() {
		n, next := m.sent, m.proto
		if m.header {
			n, next = n+8, 44
		}
		h := []byte{0x60 | m.tos>>4, m.tos << 4, 0, 0, byte(n >> 8), byte(n), next, m.ttl}
		h = slices.Concat(h, m.src, m.dst)
		if m.header {
			w := m.off
			if m.mf {
				w |= 1
			}
			h = append(h, m.proto, 0, byte(w>>8), byte(w))
			h = binary.BigEndian.AppendUint32(h, m.id)
		}
		return append(h, m.upper...)
	}
	w := m.off / 8
	if m.df {
		w |= 0x4000
	}
	if m.mf {
		w |= 0x2000
	}
	n := m.sent + 20
	h := []byte{0x45, m.tos, byte(n >> 8), byte(n), byte(m.id >> 8), byte(m.id), byte(w >> 8), byte(w), m.ttl, m.proto, 0, 0}
	h = slices.Concat(h, m.src, m.dst)
	binary.BigEndian.PutUint16(h[10:], ^uint16(slowSum(h)))
	return append(h, m.upper...)
}

// pseudo is the pseudo-header that the upper layer's checksum covers.
func (m model) pseudo() []byte {
	switch {
	case m.proto == 1:
		return nil
	case m.v6():
		n := binary.BigEndian.AppendUint32(nil, uint32(m.length()))
		return slices.Concat(m.src, m.dst, n, []byte{0, 0, 0, m.proto})
	}
	return slices.Concat(m.src, m.dst, []byte{0, m.proto, byte(m.length() >> 8), byte(m.length())})
}

// length is that of the upper layer as its checksum has it: UDP's own.
func (m model) length() int {
	if m.proto == 17 && len(m.upper) >= 6 {
		return int(binary.BigEndian.Uint16(m.upper[4:]))
	}
	return m.sent
}

// checksumAt is where the checksum stands in the upper layer, -1 if it has none.
func (m model) checksumAt() int {
	switch m.proto {
	case 6:
		return 16
	case 17:
		return 6
	case 1, 58:
		return 2
	}
	return -1
}

// covered is what the checksum covers, beside the pseudo-header.
func (m model) covered() []byte {
	if m.proto == 17 {
		return m.upper[:m.length()]
	}
	return m.upper
}

// fill computes the checksum from nothing.
func (m model) fill() {
	at := m.checksumAt()
	binary.BigEndian.PutUint16(m.upper[at:], 0)
	ck := ^uint16(slowSum(m.pseudo(), m.covered()))
	if ck == 0 && m.proto == 17 {
		ck = 0xffff
	}
	binary.BigEndian.PutUint16(m.upper[at:], ck)
}

// correct says whether the checksum is right. Zero and ffff are the same
// number in ones' complement; a sum of zero is that of an ICMPv4 message of
// nothing but zeros, whose checksum no update can tell from a right one.
func (m model) correct() bool {
	return slowSum(m.pseudo(), m.covered())%0xffff == 0
}

// adjust gives m, of which only the upper layer's first octets may be known,
// the checksum that corresponds to old's. Modulo 65535 the unknown rest has
// the same sum in both.
func (m model) adjust(old model) {
	at := m.checksumAt()
	if len(m.upper) < at+2 {
		return
	}
	was := int(binary.BigEndian.Uint16(old.upper[at:]))
	if m.proto == 17 && was == 0 {
		return
	}
	head := func(x model) int { // what differs: pseudo-header and the octets in front of or behind the checksum
		u := bytes.Clone(x.upper[:8])
		if at < 8 {
			u[at], u[at+1] = 0, 0
		}
		return slowSum(x.pseudo(), u)
	}
	ck := (was + head(old) - head(m)) % 0xffff
	if ck < 0 {
		ck += 0xffff
	}
	if ck == 0 && m.proto == 17 {
		ck = 0xffff
	}
	binary.BigEndian.PutUint16(m.upper[at:], uint16(ck))
}

// checkSums verifies the header checksum of an IPv4 packet, and the upper
// layer's where the whole of it is there and it has one.
func checkSums(pkt []byte) error {
	if n := int(pkt[0]&15) * 4; pkt[0]>>4 == 4 && slowSum(pkt[:n]) != 0xffff {
		return fmt.Errorf("the IPv4 header checksum is wrong")
	}
	m := decode(pkt)
	if m.checksumAt() < 0 || m.mf || m.off != 0 {
		return nil
	}
	if m.proto == 17 && m.upper[6] == 0 && m.upper[7] == 0 {
		return nil
	}
	if !m.correct() {
		return fmt.Errorf("the checksum of protocol %d is wrong", m.proto)
	}
	return nil
}

// endpoint is what the reference puts in for one packet: addresses, and ports
// or the echo identifier.
type endpoint struct {
	src, dst         []byte
	srcPort, dstPort uint16
}

// refTranslate translates a packet other than an ICMP error. id is the
// identification of IPv4 packets that are not fragments.
func refTranslate(old model, e endpoint, id uint16) model {
	m := refHeader(old, e, id)
	m.ttl--
	if old.off != 0 {
		return m
	}
	refUpper(old, &m, e)
	zero := m.proto == 17 && old.upper[6] == 0 && old.upper[7] == 0
	if m.mf {
		m.adjust(old)
	} else if zero || old.correct() {
		m.fill()
	}
	return m
}

// refHeader is RFC 7915 §4.1 and §5.1 without the decrement.
func refHeader(old model, e endpoint, id uint16) model {
	m := old
	m.upper = bytes.Clone(old.upper)
	m.src, m.dst = e.src, e.dst
	m.df, m.header = false, false
	switch {
	case m.v6():
		m.header = old.mf || old.off != 0
	case old.header:
		m.id = old.id & 0xffff
	default:
		m.id = uint32(id)
		m.df = old.sent+20 > 1260
	}
	if m.v6() && old.proto == 1 {
		m.proto = 58
	} else if !m.v6() && old.proto == 58 {
		m.proto = 1
	}
	return m
}

// refUpper puts in ports, or type and identifier.
func refUpper(old model, m *model, e endpoint) {
	if old.proto == 6 || old.proto == 17 {
		binary.BigEndian.PutUint16(m.upper[0:], e.srcPort)
		binary.BigEndian.PutUint16(m.upper[2:], e.dstPort)
		return
	}
	m.upper[0] = map[byte]byte{8: 128, 0: 129, 128: 8, 129: 0}[old.upper[0]]
	binary.BigEndian.PutUint16(m.upper[4:], e.srcPort)
}
