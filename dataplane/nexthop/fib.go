package nexthop

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// fib turns what the kernel says into snapshots. It knows no sockets and no
// clock. Owned by the manager's goroutine, but for what it publishes.
type fib struct {
	linkTable
	hopTable
	*rib
	groups groupTable
	neighs map[neighKey]*neigh

	prefixes, hosts *bart.Table[uint32] // as published
	hostEdits       []hostEdit
	rehost          bool // an on-link route changed, and with it perhaps the MTU of its hosts

	pending  int     // neighbours being resolved
	probes   []probe // for the kernel, to be sent by whoever called
	lost     [2]bool // the family's routes must be read anew
	relinked bool    // a link or address changed
	seed     uint64
	last     *Snapshot
}

// hostEdit is a change of the hosts table that is due. A plain value.
type hostEdit struct {
	addr  netip.Addr
	index uint32
	gone  bool
}

func newFIB(ifindex6, ifindex4 int, seed uint64) *fib {
	return &fib{
		linkTable: linkTable{ifindex: [2]int32{int32(ifindex6), int32(ifindex4)}, flags: make(map[int32]uint32)},
		hopTable:  newHopTable(),
		rib:       newRIB(),
		neighs:    make(map[neighKey]*neigh),
		prefixes:  new(bart.Table[uint32]),
		hosts:     new(bart.Table[uint32]),
		seed:      seed,
		last:      &Snapshot{Gen: 1},
	}
}

// pendingChanges tells whether publish has anything to do.
func (f *fib) pendingChanges() bool {
	return len(f.dirty) > 0 || len(f.stale) > 0 || len(f.hostEdits) > 0 || f.groups.dirty || f.relinked || f.renumbered
}

// publish makes the next snapshot out of all that has changed.
func (f *fib) publish() *Snapshot {
	f.updatePrefixes()
	for _, s := range f.freed {
		f.displace(s)
	}
	f.freed = f.freed[:0]
	f.updateHosts()
	if f.groups.publish(f.failed) {
		f.renumbered = true
	}
	gen := f.last.Gen
	if f.renumbered {
		gen++
	}
	f.renumbered = false
	f.last = &Snapshot{
		Gen:      gen,
		Hops:     f.updateHops(),
		IPv6:     f.link(IPv6),
		IPv4:     f.link(IPv4),
		prefixes: f.prefixes,
		hosts:    f.hosts,
		groups:   f.groups.published,
		seed:     f.seed,
	}
	return f.last
}

// failed tells whether a group member's neighbour is known not to answer.
func (f *fib) failed(value uint32) bool {
	n := f.slots[value&indexMask].neigh
	return n != nil && n.failed
}

// edit changes a table that readers may hold: few changes copy the nodes on
// their way (…Persist), many copy the whole table once.
type edit struct {
	t    *bart.Table[uint32]
	mine bool // t is a private copy
}

func newEdit(t *bart.Table[uint32], changes int) edit {
	const pathNodes = 16 // about what one persistent change copies
	if changes*pathNodes > t.Size() {
		return edit{t.Clone(), true}
	}
	return edit{t, false}
}

func (e *edit) set(p netip.Prefix, v uint32) {
	if e.mine {
		e.t.Insert(p, v)
		return
	}
	e.t = e.t.InsertPersist(p, v)
}

func (e *edit) remove(p netip.Prefix) {
	if e.mine {
		e.t.Delete(p)
		return
	}
	e.t = e.t.DeletePersist(p)
}

// updatePrefixes makes the choice for every prefix that was touched.
func (f *fib) updatePrefixes() {
	if len(f.dirty) == 0 {
		return
	}
	e := newEdit(f.prefixes, len(f.dirty))
	for _, p := range f.dirty {
		d := f.dests[p]
		d.dirty = false
		if len(d.routes) == 0 {
			delete(f.dests, p)
		}
		before, after := d.chosen, f.best(d)
		d.chosen = after
		if after != before {
			f.renumbered = true
			f.replace(&e, p, before, after)
		}
		if before != nil {
			f.release(before)
		}
	}
	f.dirty = f.dirty[:0]
	f.prefixes = e.t
}

func (f *fib) replace(e *edit, p netip.Prefix, before, after *hopSet) {
	if before != nil && f.onLink(before) {
		f.rehost = true
	}
	if after == nil {
		e.remove(p)
		return
	}
	e.set(p, f.place(after))
	if f.onLink(after) {
		f.rehost = true
	}
}

func (f *fib) onLink(s *hopSet) bool {
	for _, i := range s.slots {
		if f.slots[i].key.state == Connected {
			return true
		}
	}
	return false
}

// familySide is the side on which packets with such a destination leave.
func familySide(a netip.Addr) Side {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// addHost gives an on-link neighbour an entry of its own, so that packets for
// it find it.
func (f *fib) addHost(n *neigh) {
	side := familySide(n.key.addr)
	if n.key.ifindex != f.ifindex[side] || f.hostOf(n) != 0 {
		return
	}
	i := f.via(side, n.key.addr, f.hostMTU(n.key.addr))
	f.slots[i].host = true
	f.hostEdits = append(f.hostEdits, hostEdit{addr: n.key.addr, index: i})
}

func (f *fib) dropHost(n *neigh) {
	i := f.hostOf(n)
	if i == 0 {
		return
	}
	f.hostEdits = append(f.hostEdits, hostEdit{addr: n.key.addr, gone: true})
	f.slots[i].host = false
	f.renumbered = true
	f.drop(i)
}

// hostOf returns the index of the neighbour's host entry, 0 if it has none.
func (f *fib) hostOf(n *neigh) uint32 {
	for _, i := range n.slots {
		if f.slots[i].host {
			return i
		}
	}
	return 0
}

// hostMTU is the mtu metric of the on-link route that covers a neighbour.
func (f *fib) hostMTU(addr netip.Addr) uint32 {
	v, _ := f.prefixes.Lookup(addr)
	if v&groupFlag != 0 {
		return f.groups.all[v&indexMask].set.mtu
	}
	if v&onLinkFlag == 0 {
		return 0
	}
	return f.slots[v&indexMask].key.mtu
}

// updateHosts brings the hosts table up to date. A new host entry needs no
// new generation: before it the answer was Connected, which is never cached.
func (f *fib) updateHosts() {
	if f.rehost {
		f.rehost = false
		for _, n := range f.neighs {
			if i := f.hostOf(n); i != 0 && f.slots[i].key.mtu != f.hostMTU(n.key.addr) {
				f.dropHost(n)
				f.addHost(n)
			}
		}
	}
	if len(f.hostEdits) == 0 {
		return
	}
	e := newEdit(f.hosts, len(f.hostEdits))
	for _, h := range f.hostEdits {
		p := netip.PrefixFrom(h.addr, h.addr.BitLen())
		if h.gone {
			e.remove(p)
		} else {
			e.set(p, h.index)
		}
	}
	f.hostEdits = f.hostEdits[:0]
	f.hosts = e.t
}

// updateHops returns the hops for the next snapshot, those that changed made
// anew in a copy.
func (f *fib) updateHops() []*Hop {
	if !f.relinked && len(f.stale) == 0 {
		return f.hops
	}
	f.hops = append(make([]*Hop, 0, len(f.hops)), f.hops...)
	if f.relinked {
		for i := range f.hops {
			f.hops[i] = f.hopOf(uint32(i))
		}
	} else {
		for _, i := range f.stale {
			f.hops[i] = f.hopOf(i)
		}
	}
	f.relinked, f.stale = false, f.stale[:0]
	return f.hops
}
