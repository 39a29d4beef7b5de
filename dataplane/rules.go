package dataplane

import (
	"net/netip"
	"slices"

	"handoff64/conntrack"
	"handoff64/dataplane/xlat"
)

// Rules is the configuration that packet steps read. It is immutable: a change
// is a new Rules, published with Worker.SetRules.
type Rules struct {
	Pool6 []xlat.Prefix
	Pool4 Ranges4
	Deny  Ranges4

	WellKnownStrict  bool // RFC 6052 §3.1 to the letter
	AddressDependent bool // filtering
	TCPIncoming      bool
	Hairpin          bool
	MSS              MSSClamp
	// ErrorsFromDestination: translated ICMP errors come from the far end of the
	// session (RFC 6146 §3.6.1), not from the router that sent them.
	ErrorsFromDestination bool
	Handoff               bool // handoff.enabled: its draft says what a refused protocol is answered with

	Translation   xlat.Options
	LowestIPv6MTU uint32
	MTU           [families]uint32 // 0: what the interface and the route say
	ICMPSource6   conntrack.Addr6  // zero: the interface's address
	ICMPSource4   uint32           // zero: the interface's address

	ICMPErrorsPerSecond int // all workers together; 0 sends none

	FragmentTimeout conntrack.Tick // 0: FRAGMENT_MIN
	Host            HostRules
}

// Ranges4 is a sorted list of disjoint IPv4 address ranges.
type Ranges4 []range4

type range4 struct{ first, last uint32 }

// NewRanges4 merges prefixes into ranges, so that a pool of neighbouring
// addresses costs one comparison.
func NewRanges4(prefixes []netip.Prefix) Ranges4 {
	rs := make(Ranges4, 0, len(prefixes))
	for _, p := range prefixes {
		first := v4(p.Masked().Addr())
		rs = append(rs, range4{first, first | uint32(1<<(32-p.Bits())-1)})
	}
	slices.SortFunc(rs, func(a, b range4) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	merged := rs[:0]
	for _, r := range rs {
		if n := len(merged); n > 0 && (r.first <= merged[n-1].last || r.first == merged[n-1].last+1) {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// Contains says whether addr lies in one of the ranges.
func (rs Ranges4) Contains(addr uint32) bool {
	for i := range rs {
		if addr-rs[i].first <= rs[i].last-rs[i].first {
			return true
		}
	}
	return false
}

func v4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// pool6Index is the position of the prefix that the address lies in, or -1.
func (r *Rules) pool6Index(hi, lo uint64) int {
	for i := range r.Pool6 {
		if r.Pool6[i].Contains(hi, lo) {
			return i
		}
	}
	return -1
}

// refuse64 says why no session may be opened from the client to the server,
// NotDropped when it may. Established sessions are not asked again.
func (r *Rules) refuse64(srcHi, srcLo uint64, server uint32, pool6 int) DropReason {
	if !unicast6(srcHi, srcLo) {
		return DropBadSource
	}
	if r.pool6Index(srcHi, srcLo) >= 0 {
		return DropSourceInPool6 // RFC 6146 §3.5: else packets could circle
	}
	// handoff draft §8: first octet 0 or 127 is never a server
	if first := server >> 24; first == 0 || first == 127 || !unicast4(server) || r.Deny.Contains(server) {
		return DropDenied
	}
	if !r.mayHold(pool6, server) {
		return DropWellKnownPrefix
	}
	return NotDropped
}

// mayHold says whether the prefix may represent the address (RFC 6052 §3.1).
func (r *Rules) mayHold(pool6 int, a uint32) bool {
	return !r.WellKnownStrict || !r.Pool6[pool6].IsWellKnown() || !xlat.NonGlobal(a)
}

// prefixFor is the position of the first prefix that may represent the
// address, in which a client sees who opened a session from the IPv4 side; -1
// when there is none.
func (r *Rules) prefixFor(a uint32) int {
	for i := range r.Pool6 {
		if r.mayHold(i, a) {
			return i
		}
	}
	return -1
}

// refuse46 does the same for a session opened from the IPv4 side.
func (r *Rules) refuse46(server uint32) DropReason {
	if first := server >> 24; first == 0 || first == 127 || !unicast4(server) || r.Deny.Contains(server) {
		return DropBadSource
	}
	return NotDropped
}

// unicast6: not multicast, unspecified, loopback, link-local or IPv4-mapped
// (RFC 4291 §2.4, §2.5.5.2).
func unicast6(hi, lo uint64) bool {
	switch {
	case hi == 0 && lo>>32 == 0xffff:
		return false
	case hi>>56 == 0xff:
		return false
	case hi>>54 == 0xfe80>>6:
		return false
	case hi == 0 && lo <= 1:
		return false
	}
	return true
}

// unicast4: not multicast, reserved or limited broadcast (RFC 1112, RFC 1122 §3.2.1.3).
func unicast4(a uint32) bool { return a>>28 < 0xe }
