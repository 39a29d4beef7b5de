package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// BurstSize is how many packets a worker takes from a port at once.
const BurstSize = 64

// verdict is what the steps so far decided. A packet leaves the pipeline in
// four ways only: sent, passed to the kernel, parked, or dropped.
type verdict uint8

const (
	undecided verdict = iota
	forward           // translated, its Ethernet header written
	ready             // sent the short way (shortcut.go): translated, the burst's descriptor is that of what leaves
	turned            // hairpin: translated once, goes round as an IPv4 packet
	gone              // dropped, parked or with another worker: its frame is not ours any more
)

// class is what a packet needs from the tables.
type class uint8

const (
	classSession class = iota // TCP, UDP, echo: its own session
	classError                // ICMP error: the session of the packet that it quotes
)

// via is how a packet came to the worker.
type via uint8

const (
	viaPort       via = iota // from an interface
	viaKernel                // from the host itself
	viaHairpin               // translated once already, now an IPv4 packet for another client
	viaServer                // back from a handoff server, not translated
	viaServerDone            // back from a handoff server, translated
)

// fresh packets come from a station that can be answered; the others were here
// before.
func (v via) fresh() bool { return v <= viaKernel }

// meta is what the steps know of one packet. Offsets count from the start of
// its frame. Fields are valid from the step on that is named.
type meta struct {
	p     packet.Parsed // parse
	quote packet.Parsed // lookup, classError only

	frame []byte // rx: the whole frame
	addr  uint64 // rx: UMEM address of the first octet
	len   uint32 // rx: octets from the Ethernet header on

	since   conntrack.Tick // rx, only if waited: parked since
	waited  bool           // rx: was parked
	via     via            // rx
	dir     Direction      // parse: V6ToV4 or V4ToV6
	verdict verdict
	class   class // classify

	pool6  uint8  // classify, V6ToV4: which prefix
	server uint32 // classify, V6ToV4: the IPv4 address inside the destination

	hash uint64           // lookup
	k64  conntrack.Key64  // lookup, V6ToV4
	k46  conntrack.Key46  // lookup, V4ToV6
	v64  conntrack.View64 // lookup
	v46  conntrack.View46 // lookup

	role    role        // rx, fragments
	home    uint8       // rx, roleForeign: the worker that has the datagram
	left    Left        // for taps: how it left, if neither sent nor dropped
	outcome outcome     // valid for roleFirst and roleForeign
	reason  DropReason  // parse for roleSpoilt; drop
	ref     datagramRef // rx, fragments: roleFirst, roleForeign
	what    decision    // rx, fragments: roleFollower; of a first fragment only whole and peer

	hop        *nexthop.Hop // translate
	start, end int          // translate: the outgoing IP packet
}

// burst is the packets that one round of the pipeline works on. Owned by one
// worker; nothing in it survives the round.
type burst struct {
	n     int
	frags int // classify: how many are fragments
	meta  [BurstSize]meta
	descs [BurstSize]ring.Desc
}

// add puts the packet that d describes into the burst.
func (b *burst) add(u *ring.UMEM, d ring.Desc, v via) *meta {
	m := &b.meta[b.n]
	b.n++
	m.frame = u.Frame(d.Addr)
	m.addr, m.len = d.Addr, d.Len
	m.verdict, m.via, m.waited, m.role = undecided, v, false, roleNone
	return m
}

// describe puts the packets of the burst's descriptors into it, but for those
// whose bits are set.
func (b *burst) describe(u *ring.UMEM, without uint64) {
	n := b.n
	b.n = 0
	for i := range n {
		if without>>i&1 != 0 {
			b.n++
			continue
		}
		b.add(u, b.descs[i], viaPort)
	}
}

// offset of the Ethernet header within the frame.
func (m *meta) offset() int { return int(m.addr) & (len(m.frame) - 1) }
