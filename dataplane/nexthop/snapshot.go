package nexthop

import (
	"encoding/binary"
	"net/netip"

	"github.com/gaissmai/bart"
)

// MaxIndexed is the highest hop index that fits into the 16 bits a session
// has for it. Hops beyond it work, but are looked up for every packet.
const MaxIndexed = 1<<16 - 1

// A value of the prefix table is a hop index, or a group index, with flags.
const (
	groupFlag  uint32 = 1 << 31 // the rest is an index into Snapshot.groups
	onLinkFlag uint32 = 1 << 30 // a Connected hop: look among the neighbours first
	indexMask         = onLinkFlag - 1
)

// member is one hop of a group. It takes the destinations whose hash is at
// most upTo and above that of the member before it (hash-threshold, RFC 2992).
type member struct {
	upTo  uint32
	value uint32 // hop index, perhaps with onLinkFlag
}

// Snapshot is the state of all next hops at one moment. It is immutable and
// safe for concurrent use; the zero value is not usable.
type Snapshot struct {
	// Gen changes whenever an index that was returned before may now name
	// another hop, or another index is now the right one. A changed MAC
	// address, or a neighbour that is resolved or lost, changes neither Gen
	// nor index, only the Hop.
	Gen        uint32
	Hops       []*Hop // no element is nil; index 0 is the NoRoute hop
	IPv6, IPv4 Link

	prefixes *bart.Table[uint32] // both families; never modified once published
	hosts    *bart.Table[uint32] // on-link neighbours, /32 and /128: hop index
	groups   [][]member
	seed     uint64 // spreads destinations over groups differently from router to router
}

// Lookup4 returns the index of the hop for an IPv4 destination. It is always
// a valid index into Hops.
func (s *Snapshot) Lookup4(dst uint32) uint32 {
	return s.lookup(addr4(dst), uint64(dst))
}

// Lookup6 returns the index of the hop for an IPv6 destination, whose octets
// 0–7 are hi. It is always a valid index into Hops.
func (s *Snapshot) Lookup6(hi, lo uint64) uint32 {
	return s.lookup(addr6(hi, lo), hi*0x9e3779b97f4a7c15^lo)
}

func (s *Snapshot) lookup(dst netip.Addr, key uint64) uint32 {
	v, _ := s.prefixes.Lookup(dst) // no match: 0, the NoRoute hop
	if v&groupFlag != 0 {
		v = choose(s.groups[v&indexMask], spread(key^s.seed))
	}
	if v&onLinkFlag != 0 {
		if host, ok := s.hosts.Lookup(dst); ok {
			return host
		}
	}
	return v & indexMask
}

// choose returns the value of the member that the hash falls to. The last
// member's bound is the largest hash, so the loop always ends inside.
func choose(group []member, hash uint32) uint32 {
	for i := range group {
		if hash <= group[i].upTo {
			return group[i].value
		}
	}
	return 0
}

// spread is the finalizer of MurmurHash3: every bit of the key reaches every
// bit of the hash, so that neighbouring destinations spread evenly.
func spread(k uint64) uint32 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return uint32(k >> 32)
}

// Word is what a session may cache of a lookup: the low 16 bits of Gen, then
// the index. It is 0, nothing to cache, for a hop whose index is too high, and
// for Connected: once the destination has become a known neighbour, another
// index is the right one, and that does not change Gen.
func (s *Snapshot) Word(index uint32) uint32 {
	if index > MaxIndexed || s.Hops[index].State == Connected {
		return 0
	}
	return s.Gen<<16 | index
}

// Cached returns the index that Word put into a session, if it is still good.
// A word that survives 65,536 generations untouched may be taken for a
// current one; it then names some hop of the table for as long as the
// generation lasts.
func (s *Snapshot) Cached(word uint32) (index uint32, ok bool) {
	index = word & MaxIndexed
	return index, word != 0 && word>>16 == s.Gen&0xffff && int(index) < len(s.Hops)
}

func addr6(hi, lo uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}

func addr4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}
