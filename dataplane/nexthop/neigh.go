package nexthop

import (
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	askInterval  = time.Second      // between two attempts to resolve one neighbour
	askTimeout   = 10 * time.Second // after which an outcome is no longer expected
	hostLifetime = time.Minute      // that a lost neighbour keeps its index unused
	maxLost      = 1024             // lost neighbours that are worth a new generation
	maxPending   = 1024             // on-link destinations being resolved at a time: a scan must not fill the kernel's table

	nudValid = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
)

// neighKey names a neighbour. Comparable.
type neighKey struct {
	ifindex int32
	addr    netip.Addr
}

// neigh is one neighbour, known to the kernel or wanted by us. Owned by the
// manager's goroutine, but for used, which workers set.
type neigh struct {
	key      neighKey
	state    uint16 // NUD_*, 0 when the kernel has no entry
	mac      [6]byte
	isMAC    bool
	external bool // kept by a control plane (NTF_EXT_LEARNED): not ours to touch

	failed  bool // see Hop.Failed
	pending bool // asked for, no outcome yet
	asked   time.Time

	used   atomic.Uint32 // a packet went there since the last round
	active bool          // one did in the round before
	seen   time.Time     // the last round in which one had

	slots []uint32 // hops through this neighbour
}

func (n *neigh) valid() bool { return n.isMAC && n.state&nudValid != 0 }

// probe is a request to the kernel about one neighbour: with state 0 to use
// it as if it had a packet (NTF_USE), with NUD_PROBE to verify it now. A
// plain value.
type probe struct {
	key   neighKey
	state uint16
}

// neighbour returns the record of a neighbour, made if need be.
func (f *fib) neighbour(key neighKey) *neigh {
	n := f.neighs[key]
	if n == nil {
		n = &neigh{key: key}
		f.neighs[key] = n
	}
	return n
}

// gateway tells whether routes lead through a neighbour.
func (f *fib) gateway(n *neigh) bool {
	for _, i := range n.slots {
		if f.slots[i].sets > 0 {
			return true
		}
	}
	return false
}

// setNeigh takes one RTM_NEWNEIGH.
func (f *fib) setNeigh(now time.Time, m neighMsg) {
	if !f.ours(m.key.ifindex) {
		return
	}
	n := f.neighbour(m.key)
	before := n.view()
	n.state, n.external = m.state, m.external
	if m.isMAC {
		n.mac, n.isMAC = m.mac, true
	}
	switch {
	case n.valid():
		f.settle(n, false)
		n.asked = time.Time{}
	case n.state&unix.NUD_FAILED == 0: // incomplete: the outcome is still to come
	case before.valid && (n.active || n.used.Load() != 0):
		// The kernel's probes go to the address it knew, so a neighbour that
		// silently changed its MAC fails first. With traffic waiting, ask
		// the whole link at once.
		f.pend(n, now)
		f.probes = append(f.probes, probe{key: n.key})
	default:
		f.settle(n, true)
		n.asked = now // the next attempt not before a second has passed
	}
	f.changed(n, before)
	if n.valid() && !n.key.addr.IsLinkLocalUnicast() {
		f.addHost(n)
	}
}

// delNeigh takes one RTM_DELNEIGH. The hops stay, unresolved: sessions have
// their indices cached. A gateway is resolved again at once: the kernel
// forgets all neighbours of a link whose own MAC address changes.
func (f *fib) delNeigh(key neighKey) {
	n := f.neighs[key]
	if n == nil {
		return
	}
	before := n.view()
	n.state, n.isMAC = 0, false
	f.settle(n, n.pending)
	f.changed(n, before)
	if before.valid && f.gateway(n) && f.flags[key.ifindex]&unix.IFF_UP != 0 {
		f.probes = append(f.probes, probe{key: key})
	}
	if len(n.slots) == 0 {
		delete(f.neighs, key)
	}
}

// neighView is what a Hop shows of its neighbour. Comparable.
type neighView struct {
	valid, failed bool
	mac           [6]byte
}

func (n *neigh) view() neighView {
	return neighView{valid: n.valid(), failed: n.failed, mac: n.mac}
}

// changed notes the hops of a neighbour as out of date if they are.
func (f *fib) changed(n *neigh, before neighView) {
	after := n.view()
	if after == before {
		return
	}
	f.stale = append(f.stale, n.slots...)
	if after.failed != before.failed && f.gateway(n) {
		f.groups.dirty = true
	}
}

// pend and settle begin and end an attempt to resolve a neighbour.
func (f *fib) pend(n *neigh, now time.Time) {
	if !n.pending {
		f.pending++
	}
	n.pending, n.failed, n.asked = true, false, now
}

func (f *fib) settle(n *neigh, failed bool) {
	if n.pending {
		f.pending--
	}
	n.pending, n.failed = false, failed
}

// ask is called when a packet waits for the neighbour of a destination.
func (f *fib) ask(now time.Time, q Question) {
	i := f.last.Lookup6(q.Hi, q.Lo)
	dst := addr6(q.Hi, q.Lo)
	if q.Side == IPv4 {
		i = f.last.Lookup4(uint32(q.Lo))
		dst = addr4(uint32(q.Lo))
	}
	n := f.slots[i].neigh
	if f.slots[i].key.state == Connected {
		if f.pending >= maxPending {
			return
		}
		n = f.neighbour(neighKey{f.ifindex[q.Side], dst})
		f.addHost(n)
	}
	if n == nil || n.valid() || now.Sub(n.asked) < askInterval {
		return
	}
	before := n.view()
	f.pend(n, now)
	f.changed(n, before)
	f.probes = append(f.probes, probe{key: n.key})
}

// refused notes that the kernel would not even try: its table is full, or the
// link is gone.
func (f *fib) refused(key neighKey, now time.Time) {
	n := f.neighs[key]
	if n == nil || !n.pending {
		return
	}
	before := n.view()
	f.settle(n, true)
	n.asked = now
	f.changed(n, before)
}

// round is called every few seconds. Our traffic bypasses the kernel, which
// therefore sees neither that a neighbour is used nor that it answers: it
// would let a used neighbour grow stale and forget it. Hosts are touched when
// they are stale, which makes the kernel verify them within its delay;
// gateways, on which much more depends, are verified every round. Gateways
// that are not resolved are tried again, so that a group of hops gets its
// member back, and a first packet need not wait.
func (f *fib) round(now time.Time) {
	for _, n := range f.neighs {
		n.active = n.used.Swap(0) != 0
		if n.active {
			n.seen = now
		}
		if n.pending && now.Sub(n.asked) > askTimeout {
			f.refused(n.key, now)
		}
		gateway := f.gateway(n)
		switch {
		case !n.valid():
			if gateway && !n.pending {
				f.probes = append(f.probes, probe{key: n.key})
			}
		case !n.active || n.external:
		case gateway && n.state&(unix.NUD_STALE|unix.NUD_REACHABLE) != 0:
			f.probes = append(f.probes, probe{key: n.key, state: unix.NUD_PROBE})
		case n.state&unix.NUD_STALE != 0:
			f.probes = append(f.probes, probe{key: n.key})
		}
	}
	f.sweep(now)
}

// sweep gives back the indices of neighbours that are gone and that nobody
// sends to, once there are enough of them to be worth a new generation.
func (f *fib) sweep(now time.Time) {
	var lost []*neigh
	for key, n := range f.neighs {
		switch {
		case n.valid() || n.pending || n.active || now.Sub(n.seen) <= hostLifetime || now.Sub(n.asked) <= hostLifetime:
		case f.hostOf(n) != 0:
			lost = append(lost, n)
		case len(n.slots) == 0 && n.state == 0:
			delete(f.neighs, key)
		}
	}
	if len(lost) < maxLost && len(f.slots) <= MaxIndexed {
		return
	}
	for _, n := range lost {
		f.dropHost(n)
	}
}
