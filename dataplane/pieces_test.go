package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/dataplane/packet"
)

// These helpers cut packets into fragments and put fragments together, slowly
// and with nothing of the code under test.

// piece4 is one IPv4 fragment from serverA to mappedA.
func piece4(t testing.TB, id uint16, at int, more bool, data []byte, proto layers.IPProtocol) []byte {
	t.Helper()
	ip := ip4(serverA, mappedA, proto)
	ip.Id, ip.FragOffset = id, uint16(at/8)
	if more {
		ip.Flags = layers.IPv4MoreFragments
	}
	return build(t, ether(layers.EthernetTypeIPv4), ip, gopacket.Payload(data))
}

// cuts says where the pieces of n octets begin if each but the last has size.
func cuts(n, size int) (at []int) {
	for i := 0; i == 0 || i < n; i += size {
		at = append(at, i)
	}
	return at
}

// pieces4 cuts an IPv4 packet without options, Ethernet header included.
func pieces4(t testing.TB, b []byte, id uint16, size int) (all [][]byte) {
	t.Helper()
	head, data := b[:ethernetHeader+20], b[ethernetHeader+20:ethernetHeader+int(binary.BigEndian.Uint16(b[ethernetHeader+2:]))]
	for _, at := range cuts(len(data), size) {
		f := append(bytes.Clone(head), data[at:min(at+size, len(data))]...)
		h := f[ethernetHeader:]
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
		binary.BigEndian.PutUint16(h[4:], id)
		word := uint16(at / 8)
		if at+size < len(data) {
			word |= 0x2000
		}
		binary.BigEndian.PutUint16(h[6:], word)
		all = append(all, rechecksummed(f))
	}
	return all
}

// pieces6 cuts an IPv6 packet without extension headers.
func pieces6(t testing.TB, b []byte, id uint32, size int) (all [][]byte) {
	t.Helper()
	head := b[:ethernetHeader+40]
	data := b[ethernetHeader+40 : ethernetHeader+40+int(binary.BigEndian.Uint16(b[ethernetHeader+4:]))]
	for _, at := range cuts(len(data), size) {
		f := append(bytes.Clone(head), head[ethernetHeader+6], 0, 0, 0, 0, 0, 0, 0)
		f = append(f, data[at:min(at+size, len(data))]...)
		h := f[ethernetHeader:]
		h[6] = 44
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40))
		word := uint16(at)
		if at+size < len(data) {
			word |= 1
		}
		binary.BigEndian.PutUint16(h[42:], word)
		binary.BigEndian.PutUint32(h[44:], id)
		all = append(all, f)
	}
	return all
}

// whole puts the fragments of one datagram together, in whatever order they
// are, and returns it as one frame. It fails unless each fragment has the
// identification and they cover the datagram exactly once.
func whole(t testing.TB, id uint32, all [][]byte) []byte {
	t.Helper()
	var head []byte
	parts := map[int][]byte{}
	end := -1
	for _, f := range all {
		at, more, gotID, data, h := fragmentOf(t, f)
		if gotID != id {
			t.Fatalf("identification %x, want %x", gotID, id)
		}
		if _, twice := parts[at]; twice {
			t.Fatalf("two fragments at %d", at)
		}
		parts[at] = data
		if at == 0 {
			head = h
		}
		if !more {
			end = at + len(data)
		}
	}
	for at := 0; at != end; {
		data, ok := parts[at]
		if !ok || len(data) == 0 {
			t.Fatalf("nothing at %d of %d", at, end)
		}
		delete(parts, at)
		head = append(head, data...)
		at += len(data)
	}
	if len(parts) != 0 {
		t.Fatalf("%d fragments too many", len(parts))
	}
	h := head[ethernetHeader:]
	if h[0]>>4 == 6 {
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40))
		return head
	}
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	return rechecksummed(head)
}

// fragmentOf reads one fragment; head is what a whole packet would start with.
func fragmentOf(t testing.TB, f []byte) (at int, more bool, id uint32, data, head []byte) {
	t.Helper()
	h := f[ethernetHeader:]
	if h[0]>>4 == 4 {
		if packet.Fold(packet.Sum(h[:20], 0)) != 0xffff || int(binary.BigEndian.Uint16(h[2:])) != len(h) {
			t.Fatalf("a bad IPv4 header: % x", h[:20])
		}
		word := binary.BigEndian.Uint16(h[6:])
		head = bytes.Clone(f[:ethernetHeader+20])
		binary.BigEndian.PutUint16(head[ethernetHeader+6:], word&0x4000)
		return int(word&0x1fff) * 8, word&0x2000 != 0, uint32(binary.BigEndian.Uint16(h[4:])), h[20:], head
	}
	if h[6] != 44 || int(binary.BigEndian.Uint16(h[4:])) != len(h)-40 {
		t.Fatalf("no IPv6 fragment: % x", h[:48])
	}
	word := binary.BigEndian.Uint16(h[42:])
	head = bytes.Clone(f[:ethernetHeader+40])
	head[ethernetHeader+6] = h[40]
	return int(word &^ 7), word&1 != 0, binary.BigEndian.Uint32(h[44:]), h[48:], head
}

// upperOf returns the transport part of a whole packet and checks its checksum
// against the addresses in the packet.
func upperOf(t testing.TB, b []byte) []byte {
	t.Helper()
	h := b[ethernetHeader:]
	var upper []byte
	var pseudo uint64
	if h[0]>>4 == 6 {
		upper = h[40:]
		pseudo = packet.Sum(h[8:40], uint64(len(upper))+uint64(h[6]))
	} else {
		upper = h[20:]
		if h[9] != 1 {
			pseudo = packet.Sum(h[12:20], uint64(len(upper))+uint64(h[9]))
		}
	}
	if packet.Fold(packet.Sum(upper, pseudo)) != 0xffff {
		t.Fatalf("bad transport checksum in %d octets", len(upper))
	}
	return upper
}

func quoting4(t testing.TB, quoted []byte) []byte {
	return build(t, ether(layers.EthernetTypeIPv4), ip4(serverA, mappedA, layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 3)}, gopacket.Payload(quoted[ethernetHeader:]))
}

func addressOf(b []byte) (src, dst netip.Addr) {
	h := b[ethernetHeader:]
	if h[0]>>4 == 6 {
		return netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(h[24:]))
	}
	return netip.AddrFrom4([4]byte(h[12:])), netip.AddrFrom4([4]byte(h[16:]))
}
