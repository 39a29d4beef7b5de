// Package reference translates packets slowly and obviously, for tests to compare
// with. It takes a packet apart, follows RFC 7915 on what it finds, and writes
// the result from nothing. It shares no code with what it is compared against.
package reference

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Packet is an IP packet taken apart. Addresses have 4 or 16 octets.
type Packet struct {
	Src, Dst []byte
	TOS, TTL byte
	Proto    byte
	ID       uint32
	DF, MF   bool
	Off      int  // octets
	Header   bool // an IPv6 fragment header is there
	Sent     int  // octets of upper layer that the header speaks of; more than len(Upper) in a quote
	Upper    []byte
}

// V6 says which version the packet has.
func (m Packet) V6() bool { return len(m.Src) == 16 }

// Sum adds 16-bit words as RFC 1071 defines it.
func Sum(parts ...[]byte) int {
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

// Decode takes a packet apart. A quote may be cut anywhere behind its headers.
func Decode(pkt []byte) Packet {
	var m Packet
	if pkt[0]>>4 == 4 {
		n := int(pkt[0]&15) * 4
		flags := binary.BigEndian.Uint16(pkt[6:])
		m = Packet{
			Src: pkt[12:16], Dst: pkt[16:20], TOS: pkt[1], TTL: pkt[8], Proto: pkt[9],
			ID: uint32(binary.BigEndian.Uint16(pkt[4:])), DF: flags&0x4000 != 0, MF: flags&0x2000 != 0,
			Off: int(flags&0x1fff) * 8, Sent: int(binary.BigEndian.Uint16(pkt[2:])) - n, Upper: pkt[n:],
		}
	} else {
		m = Packet{
			Src: pkt[8:24], Dst: pkt[24:40], TOS: pkt[0]<<4 | pkt[1]>>4, TTL: pkt[7], Proto: pkt[6],
			Sent: int(binary.BigEndian.Uint16(pkt[4:])), Upper: pkt[40:],
		}
		for m.Off == 0 && slices.Contains([]byte{0, 43, 44, 60}, m.Proto) {
			n := 8
			if m.Proto == 44 {
				w := binary.BigEndian.Uint16(m.Upper[2:])
				m.Header, m.Off, m.MF = true, int(w&^7), w&1 != 0
				m.ID = binary.BigEndian.Uint32(m.Upper[4:])
			} else {
				n += int(m.Upper[1]) * 8
			}
			m.Proto = m.Upper[0]
			m.Upper = m.Upper[n:]
			m.Sent -= n
		}
	}
	m.Upper = bytes.Clone(m.Upper[:min(m.Sent, len(m.Upper))])
	return m
}

// Encode writes the packet out.
func (m Packet) Encode() []byte {
	if m.V6() {
		n, next := m.Sent, m.Proto
		if m.Header {
			n, next = n+8, 44
		}
		h := []byte{0x60 | m.TOS>>4, m.TOS << 4, 0, 0, byte(n >> 8), byte(n), next, m.TTL}
		h = slices.Concat(h, m.Src, m.Dst)
		if m.Header {
			w := m.Off
			if m.MF {
				w |= 1
			}
			h = append(h, m.Proto, 0, byte(w>>8), byte(w))
			h = binary.BigEndian.AppendUint32(h, m.ID)
		}
		return append(h, m.Upper...)
	}
	w := m.Off / 8
	if m.DF {
		w |= 0x4000
	}
	if m.MF {
		w |= 0x2000
	}
	n := min(m.Sent+20, 0xffff) // a quote may say more than IPv4 can
	h := []byte{0x45, m.TOS, byte(n >> 8), byte(n), byte(m.ID >> 8), byte(m.ID), byte(w >> 8), byte(w), m.TTL, m.Proto, 0, 0}
	h = slices.Concat(h, m.Src, m.Dst)
	binary.BigEndian.PutUint16(h[10:], ^uint16(Sum(h)))
	return append(h, m.Upper...)
}

// Pseudo is the pseudo-header that the upper layer's checksum covers.
func (m Packet) Pseudo() []byte {
	switch {
	case m.Proto == 1:
		return nil
	case m.V6():
		n := binary.BigEndian.AppendUint32(nil, uint32(m.Length()))
		return slices.Concat(m.Src, m.Dst, n, []byte{0, 0, 0, m.Proto})
	}
	return slices.Concat(m.Src, m.Dst, []byte{0, m.Proto, byte(m.Length() >> 8), byte(m.Length())})
}

// Length is that of the upper layer as its checksum has it: UDP's own.
func (m Packet) Length() int {
	if m.Proto == 17 && len(m.Upper) >= 6 {
		return int(binary.BigEndian.Uint16(m.Upper[4:]))
	}
	return m.Sent
}

// ChecksumAt is where the checksum stands in the upper layer, -1 if it has none.
func (m Packet) ChecksumAt() int {
	switch m.Proto {
	case 6:
		return 16
	case 17:
		return 6
	case 1, 58:
		return 2
	}
	return -1
}

// Covered is what the checksum covers, beside the pseudo-header.
func (m Packet) Covered() []byte {
	if m.Proto == 17 {
		return m.Upper[:m.Length()]
	}
	return m.Upper
}

// Fill computes the checksum from nothing.
func (m Packet) Fill() {
	at := m.ChecksumAt()
	binary.BigEndian.PutUint16(m.Upper[at:], 0)
	ck := ^uint16(Sum(m.Pseudo(), m.Covered()))
	if ck == 0 && m.Proto == 17 {
		ck = 0xffff
	}
	binary.BigEndian.PutUint16(m.Upper[at:], ck)
}

// Correct says whether the checksum is right. Zero and ffff are the same
// number in ones' complement; a sum of zero is that of an ICMPv4 message of
// nothing but zeros, whose checksum no update can tell from a right one.
func (m Packet) Correct() bool {
	return Sum(m.Pseudo(), m.Covered())%0xffff == 0
}

// Adjust gives m, of which only the upper layer's first octets may be known,
// the checksum that corresponds to old's. Modulo 65535 the unknown rest has
// the same sum in both.
func (m Packet) Adjust(old Packet) {
	at := m.ChecksumAt()
	if len(m.Upper) < at+2 {
		return
	}
	was := int(binary.BigEndian.Uint16(old.Upper[at:]))
	if m.Proto == 17 && was == 0 {
		return
	}
	head := func(x Packet) int { // what differs: pseudo-header and the octets in front of or behind the checksum
		u := bytes.Clone(x.Upper[:8])
		if at < 8 {
			u[at], u[at+1] = 0, 0
		}
		return Sum(x.Pseudo(), u)
	}
	ck := (was + head(old) - head(m)) % 0xffff
	if ck < 0 {
		ck += 0xffff
	}
	if ck == 0 && m.Proto == 17 {
		ck = 0xffff
	}
	binary.BigEndian.PutUint16(m.Upper[at:], uint16(ck))
}

// CheckSums verifies the header checksum of an IPv4 packet, and the upper
// layer's where the whole of it is there and it has one.
func CheckSums(pkt []byte) error {
	if n := int(pkt[0]&15) * 4; pkt[0]>>4 == 4 && Sum(pkt[:n]) != 0xffff {
		return fmt.Errorf("the IPv4 header checksum is wrong")
	}
	m := Decode(pkt)
	if m.ChecksumAt() < 0 || m.MF || m.Off != 0 {
		return nil
	}
	if m.Proto == 17 && m.Upper[6] == 0 && m.Upper[7] == 0 {
		return nil
	}
	if !m.Correct() {
		return fmt.Errorf("the checksum of protocol %d is wrong", m.Proto)
	}
	return nil
}

// Endpoint is what the reference puts in for one packet: addresses, and ports
// or the echo identifier.
type Endpoint struct {
	Src, Dst         []byte
	SrcPort, DstPort uint16
}

// Translate translates a packet other than an ICMP error. id is the
// identification of IPv4 packets that are not fragments.
func Translate(old Packet, e Endpoint, id uint16) Packet {
	m := translateHeader(old, e, id)
	m.TTL--
	if old.Off != 0 {
		return m
	}
	translateUpper(old, &m, e)
	zero := m.Proto == 17 && old.Upper[6] == 0 && old.Upper[7] == 0
	if m.MF {
		m.Adjust(old)
	} else if zero || old.Correct() {
		m.Fill()
	}
	return m
}

// translateHeader is RFC 7915 §4.1 and §5.1 without the decrement.
func translateHeader(old Packet, e Endpoint, id uint16) Packet {
	m := old
	m.Upper = bytes.Clone(old.Upper)
	m.Src, m.Dst = e.Src, e.Dst
	m.DF, m.Header = false, false
	switch {
	case m.V6():
		m.Header = old.MF || old.Off != 0
	case old.Header:
		m.ID = old.ID & 0xffff
	default:
		m.ID = uint32(id)
		m.DF = old.Sent+20 > 1260
	}
	if m.V6() && old.Proto == 1 {
		m.Proto = 58
	} else if !m.V6() && old.Proto == 58 {
		m.Proto = 1
	}
	return m
}

// translateUpper puts in ports, or type and identifier.
func translateUpper(old Packet, m *Packet, e Endpoint) {
	if old.Proto == 6 || old.Proto == 17 {
		binary.BigEndian.PutUint16(m.Upper[0:], e.SrcPort)
		binary.BigEndian.PutUint16(m.Upper[2:], e.DstPort)
		return
	}
	m.Upper[0] = map[byte]byte{8: 128, 0: 129, 128: 8, 129: 0}[old.Upper[0]]
	binary.BigEndian.PutUint16(m.Upper[4:], e.SrcPort)
}
