// Package nexthop answers where a translated packet goes: it mirrors the
// kernel's routes, neighbours, links and addresses, followed live over
// netlink, in immutable snapshots that packet workers read without a lock.
//
//	netlink socket ──► decode.go ──► fib (one goroutine) ──► *Snapshot ──► workers
//	  routes                          rib.go   routes of a prefix, best first
//	  neighbours                      hops.go  one index per next hop, kept as long as it may be cached
//	  links, addresses                fib.go   longest prefix match → hop index
//	                                  neigh.go neighbour states, liveness
//	workers ──► Ask (asks.go) ──► table.go ──► RTM_NEWNEIGH, NTF_USE: the kernel resolves
//
// A lookup is two steps. The longest matching prefix gives a hop, or a group
// of hops that a hash of the destination chooses from. If that hop is an
// on-link prefix, the destination itself is looked up among the neighbours.
// Keeping neighbours out of the prefix table makes a more specific route win
// over a neighbour that the kernel happens to remember.
//
// Only the tables "local" and "main" are followed; policy rules, VRFs and
// routes that encapsulate (MPLS, SRv6) are not, and IPv4 routes that apply to
// one type of service only are left out.
package nexthop

import (
	"net/netip"
	"sync/atomic"
)

// Side is one of the translator's two interfaces.
type Side uint8

const (
	IPv6 Side = iota // where the clients are
	IPv4             // where the servers are
)

func (s Side) String() string {
	if s == IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// State says what becomes of a packet for a Hop.
type State uint8

const (
	NoRoute     State = iota // nothing matches, or a throw route does
	Resolved                 // Eth is complete: send
	Unresolved               // the neighbour's address is not known: Ask, unless Failed
	Connected                // an on-link prefix, and the destination is no known neighbour: Ask
	Blackhole                // route type blackhole, or a broadcast or multicast destination: drop silently
	Prohibit                 // route type prohibit: ICMP administratively prohibited
	Unreachable              // route type unreachable: ICMP host unreachable
	Elsewhere                // the route leaves through an interface that is not ours
	Local                    // an address of this host
)

var stateNames = [...]string{"no route", "resolved", "unresolved", "connected", "blackhole", "prohibit", "unreachable", "elsewhere", "local"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// Hop is one next hop as it was when its Snapshot was published. It is
// immutable, so that workers may hold it for a burst; what changes about a
// hop shows in the next snapshot, under the same index. Safe for concurrent
// use. The zero value is the NoRoute hop.
type Hop struct {
	Eth    [12]byte   // destination MAC, source MAC, as they go on the wire
	State  State      //
	Failed bool       // of Unresolved: the last resolution failed and none is under way
	Side   Side       // the interface it leaves through
	MTU    uint32     // the smaller of the interface's MTU and the route's mtu metric
	Via    netip.Addr // the neighbour: gateway, or on-link destination; invalid when there is none

	used *atomic.Uint32 // shared by all versions of the hop; nil without a kernel
}

// MarkUsed notes that a packet went to this hop, so that the kernel is made
// to go on probing the neighbour: our traffic bypasses it, and it would take
// the neighbour for idle. The flag is read before it is written, to keep its
// cache line shared among the workers.
func (h *Hop) MarkUsed() {
	if h.used != nil && h.used.Load() == 0 {
		h.used.Store(1)
	}
}

// Link is one of the two interfaces as of a Snapshot. A plain value.
type Link struct {
	Index int
	Name  string
	MAC   [6]byte
	MTU   uint32
	Up    bool // administratively up and with a carrier
	Gone  bool // deleted, or moved to another namespace: it does not come back

	Addr6Hi, Addr6Lo uint64 // the best global address, else link-local, else zero
	Addr4            uint32 // the primary address, else zero
}
