package server

import (
	"encoding/binary"
	"net/netip"
)

// addr4 and addr6 are addresses as they stand on the wire: plain arrays, so
// that keys and entries hold no pointers for the collector to visit.
type (
	addr4 = [4]byte
	addr6 = [16]byte
)

// prefix96 is the NAT64 prefix of an entry (draft §4): always a /96.
type prefix96 = [12]byte

// embed is the IPv6 address that stands for v4 below a /96 (RFC 6052 §2.2).
func embed(p prefix96, v4 addr4) (a addr6) {
	copy(a[:], p[:])
	copy(a[12:], v4[:])
	return a
}

// words is an IPv6 address as package packet has it.
func words(a addr6) (hi, lo uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

// fromWords is words backwards.
func fromWords(hi, lo uint64) (a addr6) {
	binary.BigEndian.PutUint64(a[:8], hi)
	binary.BigEndian.PutUint64(a[8:], lo)
	return a
}

func word4(a addr4) uint32 { return binary.BigEndian.Uint32(a[:]) }

// unicast4 says whether a host can have this address. Answers to anything else
// would reach many or nobody. Loopback is allowed: both ends may share a host.
func unicast4(a addr4) bool { return a[0] != 0 && a[0] < 224 }

// unicast6 is unicast4 for a client.
func unicast6(a addr6) bool { return a[0] != 0xff && a != addr6{} }

func netip4(a addr4) netip.Addr { return netip.AddrFrom4(a) }
func netip6(a addr6) netip.Addr { return netip.AddrFrom16(a) }
