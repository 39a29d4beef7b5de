package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
)

// tally counts checksums of captured packets, good ones and bad ones. It
// computes every one from the beginning, word by word, which is slow and
// obvious: the translator updates checksums by difference, and this is what
// it is compared with. Its zero value is ready; for one goroutine.
type tally struct {
	good   int
	bad    []string
	pieces map[string][]piece // fragments by datagram
}

// piece is one fragment of a datagram.
type piece struct {
	offset int
	more   bool
	data   []byte
}

// maxBad is how many bad checksums are described.
const maxBad = 5

// file checks every packet of a pcap file.
func (c *tally) file(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for n := 1; ; n++ {
		frame, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: packet %d: %w", name, n, err)
		}
		if len(frame) >= 14 {
			c.packet(fmt.Sprintf("%s packet %d", name, n), binary.BigEndian.Uint16(frame[12:]), frame[14:])
		}
	}
}

// packet checks one packet behind its Ethernet header.
func (c *tally) packet(where string, etherType uint16, b []byte) {
	switch etherType {
	case 0x0800:
		c.ipv4(where, b, true)
	case 0x86dd:
		c.ipv6(where, b, true)
	}
}

// ipv4 checks the header (RFC 791 §3.1) and what is behind it. Of a packet
// quoted in an ICMP error, not whole, only the header can be checked.
func (c *tally) ipv4(where string, b []byte, whole bool) {
	if len(b) < 20 || len(b) < int(b[0]&15)*4 {
		c.wrong(where, "IPv4 header cut off", b)
		return
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	c.check(where, "IPv4 header", b[:header])
	if total < header || total > len(b) {
		if whole {
			c.wrong(where, "IPv4 total length", b)
		}
		return
	}
	field := binary.BigEndian.Uint16(b[6:])
	p := piece{offset: int(field&0x1fff) * 8, more: field&0x2000 != 0, data: b[header:total]}
	pseudo := slices.Concat(b[12:20], []byte{0, b[9]})
	key := fmt.Sprintf("4 %x %x", b[12:20], b[4:6])
	c.payload(where, b[9], pseudo, key, p, whole)
}

// ipv6 checks what is behind the header and its extensions (RFC 8200).
func (c *tally) ipv6(where string, b []byte, whole bool) {
	if len(b) < 40 || len(b) < 40+int(binary.BigEndian.Uint16(b[4:])) {
		if whole {
			c.wrong(where, "IPv6 payload length", b)
		}
		return
	}
	next, rest := b[6], b[40:40+int(binary.BigEndian.Uint16(b[4:]))]
	var p piece
	key := ""
	for next == 0 || next == 43 || next == 44 || next == 60 { // hop-by-hop, routing, fragment, destination
		if len(rest) < 8 {
			c.wrong(where, "IPv6 extension header", b)
			return
		}
		length := 8 + int(rest[1])*8
		if next == 44 {
			length = 8
			field := binary.BigEndian.Uint16(rest[2:])
			p.offset, p.more = int(field&^7), field&1 != 0
			key = fmt.Sprintf("6 %x %x", b[8:40], rest[4:8])
		}
		if length > len(rest) {
			c.wrong(where, "IPv6 extension header", b)
			return
		}
		next, rest = rest[0], rest[length:]
	}
	p.data = rest
	c.payload(where, next, slices.Concat(b[8:40], []byte{0, next}), key, p, whole)
}

// payload puts fragments together, and checks what is complete.
func (c *tally) payload(where string, protocol byte, pseudo []byte, key string, p piece, whole bool) {
	if p.offset == 0 && !p.more {
		c.transport(where, protocol, pseudo, p.data)
		return
	}
	if !whole {
		return // a quoted fragment; the others are elsewhere
	}
	if c.pieces == nil {
		c.pieces = make(map[string][]piece)
	}
	p.data = bytes.Clone(p.data)
	c.pieces[key] = append(c.pieces[key], p)
	if data, ok := assemble(c.pieces[key]); ok {
		delete(c.pieces, key)
		c.transport(where+" (reassembled)", protocol, pseudo, data)
	}
}

// assemble returns the datagram if all its fragments are there.
func assemble(pieces []piece) ([]byte, bool) {
	slices.SortStableFunc(pieces, func(a, b piece) int { return a.offset - b.offset })
	var data []byte
	for _, p := range pieces {
		if p.offset != len(data) {
			return nil, false
		}
		data = append(data, p.data...)
	}
	return data, !pieces[len(pieces)-1].more
}

// transport checks TCP, UDP and ICMP, and the packet inside ICMP errors.
func (c *tally) transport(where string, protocol byte, pseudo, data []byte) {
	withPseudo := slices.Concat(pseudo, binary.BigEndian.AppendUint32(nil, uint32(len(data))), data)
	switch {
	case protocol == 6 && len(data) >= 20:
		c.check(where, "TCP", withPseudo)
	case protocol == 17 && len(data) >= 8:
		// RFC 768: zero means none, which IPv6 does not allow (RFC 8200 §8.1).
		if binary.BigEndian.Uint16(data[6:]) == 0 {
			if len(pseudo) > 12 {
				c.wrong(where, "UDP over IPv6 without a checksum", data)
			}
			return
		}
		c.check(where, "UDP", withPseudo)
	case protocol == 1 && len(data) >= 8:
		c.check(where, "ICMP", data)
		if data[0] == 3 || data[0] == 11 || data[0] == 12 {
			c.ipv4(where+", inside the ICMP error", data[8:], false)
		}
	case protocol == 58 && len(data) >= 4:
		c.check(where, "ICMPv6", withPseudo)
		if data[0] < 128 && len(data) >= 8 {
			c.ipv6(where+", inside the ICMPv6 error", data[8:], false)
		}
	case protocol == 6 || protocol == 17 || protocol == 1 || protocol == 58:
		c.wrong(where, "length of the transport header", data)
	}
}

// check adds up 16-bit words in ones' complement: RFC 1071 has the sum of
// everything, checksum included, be all ones.
func (c *tally) check(where, what string, b []byte) {
	sum := 0
	for i, octet := range b {
		if i%2 == 0 {
			sum += int(octet) << 8
		} else {
			sum += int(octet)
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		c.wrong(where, what+" checksum", b)
		return
	}
	c.good++
}

func (c *tally) wrong(where, what string, b []byte) {
	switch {
	case len(c.bad) < maxBad:
		c.bad = append(c.bad, fmt.Sprintf("%s: bad %s in %x", where, what, b[:min(len(b), 120)]))
	case len(c.bad) == maxBad:
		c.bad = append(c.bad, "and more")
	}
}

// The checker is only worth something if it notices.
func TestCheckerNoticesEveryFlippedBit(t *testing.T) {
	t.Parallel()
	// An IPv4 and an IPv6 UDP datagram with right checksums, and an ICMPv6
	// echo request in two fragments.
	v4 := []byte{0x45, 0, 0, 30, 0, 1, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 7, 0, 7, 0, 10, 0, 0, 'h', 'i'}
	seal(v4[:20], 10, nil)
	seal(v4[20:], 6, slices.Concat(v4[12:20], []byte{0, 17, 0, 10}))
	v6 := slices.Concat([]byte{0x60, 0, 0, 0, 0, 11, 17, 64}, make([]byte, 32), []byte{0, 7, 0, 7, 0, 11, 0, 0, 'o', 'd', 'd'})
	v6[23], v6[39] = 1, 2
	seal(v6[40:], 6, slices.Concat(v6[8:40], []byte{0, 0, 0, 11, 0, 0, 0, 17}))
	for _, tc := range []struct {
		name   string
		kind   uint16
		packet []byte
		blind  []int // octets that no checksum covers
	}{
		{"IPv4", 0x0800, v4, nil},
		{"IPv6", 0x86dd, v6, []int{0, 1, 2, 3, 6, 7}},
	} {
		var c tally
		c.packet("", tc.kind, tc.packet)
		if len(c.bad) > 0 || c.good == 0 {
			t.Fatalf("%s: a good packet: %d good, bad: %v", tc.name, c.good, c.bad)
		}
		for i := range tc.packet {
			if slices.Contains(tc.blind, i) {
				continue
			}
			for bit := range 8 {
				flipped := bytes.Clone(tc.packet)
				flipped[i] ^= 1 << bit
				var c tally
				if c.packet("", tc.kind, flipped); len(c.bad) == 0 {
					t.Errorf("%s: octet %d, bit %d: not noticed", tc.name, i, bit)
				}
			}
		}
	}
}

func TestCheckerPutsFragmentsTogether(t *testing.T) {
	t.Parallel()
	message := append([]byte{128, 0, 0, 0, 0, 1, 0, 1}, bytes.Repeat([]byte("fragment"), 3)...)
	addresses := make([]byte, 32)
	addresses[15], addresses[31] = 1, 2
	seal(message, 2, slices.Concat(addresses, []byte{0, 0, 0, byte(len(message)), 0, 0, 0, 58}))
	fragment := func(offset int, more byte, data []byte) []byte {
		return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(8 + len(data)), 44, 64}, addresses,
			[]byte{58, 0, byte(offset >> 8), byte(offset) | more, 0, 0, 0, 9}, data)
	}
	var c tally
	c.packet("", 0x86dd, fragment(16, 0, message[16:])) // the last one first
	if c.good != 0 {
		t.Fatal("half a datagram was checked")
	}
	c.packet("", 0x86dd, fragment(0, 1, message[:16]))
	if c.good != 1 || len(c.bad) != 0 {
		t.Fatalf("whole datagram: %d good, bad: %v", c.good, c.bad)
	}
	message[20] ^= 1
	c.packet("", 0x86dd, fragment(0, 1, message[:16]))
	c.packet("", 0x86dd, fragment(16, 0, message[16:]))
	if len(c.bad) != 1 {
		t.Fatalf("a changed datagram: bad: %v", c.bad)
	}
}

// seal writes the checksum of b and a pseudo-header into b at an offset.
func seal(b []byte, at int, pseudo []byte) {
	sum := 0
	all := slices.Concat(pseudo, b)
	for i, octet := range all {
		sum += int(octet) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[at:], ^uint16(sum))
}
