package nexthop

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// linkTable holds the two links, their addresses, and the flags of all links
// of the namespace, whose changes move routes silently. Owned by the
// manager's goroutine.
type linkTable struct {
	ifindex [2]int32
	links   [2]linkMsg
	addrs   []addrMsg // of our links, in the kernel's order
	flags   map[int32]uint32
}

func (t *linkTable) ours(ifindex int32) bool {
	return ifindex == t.ifindex[IPv6] || ifindex == t.ifindex[IPv4]
}

// setLink takes one RTM_NEWLINK. When a link goes down or comes back the
// kernel drops IPv4 routes, and marks multipath next hops dead, without
// telling anybody; a smaller MTU does the like to IPv6 routes' metrics.
func (f *fib) setLink(m linkMsg) {
	const matters = unix.IFF_UP | unix.IFF_LOWER_UP
	if old, known := f.flags[m.ifindex]; known && old&matters != m.flags&matters {
		f.lost[IPv4], f.lost[IPv6] = true, true
	}
	f.flags[m.ifindex] = m.flags
	for side := range f.links {
		if m.ifindex != f.ifindex[side] || m == f.links[side] {
			continue
		}
		if old := f.links[side].mtu; old != 0 && old != m.mtu {
			f.lost[IPv6] = true
		}
		f.links[side] = m
		f.relinked = true
	}
}

// delLink takes one RTM_DELLINK.
func (f *fib) delLink(m linkMsg) {
	if _, known := f.flags[m.ifindex]; !known {
		return
	}
	m.flags = 0
	f.setLink(m)
	delete(f.flags, m.ifindex)
}

// setAddr takes one RTM_NEWADDR.
func (f *fib) setAddr(m addrMsg) {
	if !f.ours(m.ifindex) {
		return
	}
	f.relinked = true
	if at := slices.IndexFunc(f.addrs, m.same); at >= 0 {
		f.addrs[at] = m
		return
	}
	f.addrs = append(f.addrs, m)
}

// delAddr takes one RTM_DELADDR. IPv4 routes that name the address as their
// preferred source go with it, without notice (fib_sync_down_addr).
func (f *fib) delAddr(m addrMsg) {
	if m.addr.Is4() {
		f.lost[IPv4] = true
	}
	if f.ours(m.ifindex) {
		f.relinked = true
		f.addrs = slices.DeleteFunc(f.addrs, m.same)
	}
}

func (a addrMsg) same(o addrMsg) bool {
	return a.ifindex == o.ifindex && a.addr == o.addr && a.bits == o.bits
}

// link describes one side for a snapshot.
func (t *linkTable) link(side Side) Link {
	m := t.links[side]
	_, there := t.flags[t.ifindex[side]]
	l := Link{
		Index: int(t.ifindex[side]),
		Name:  m.name,
		MAC:   m.mac,
		MTU:   m.mtu,
		Up:    m.flags&unix.IFF_UP != 0 && m.flags&unix.IFF_LOWER_UP != 0,
		Gone:  !there,
	}
	var best4, best6 int
	for _, a := range t.addrs {
		if a.ifindex != t.ifindex[side] {
			continue
		}
		if a.addr.Is4() {
			if rank := a.rank4(); rank > best4 {
				best4, l.Addr4 = rank, as4(a.addr)
			}
		} else if rank := a.rank6(); rank > best6 {
			best6 = rank
			l.Addr6Hi, l.Addr6Lo = as6(a.addr)
		}
	}
	return l
}

// rank4 orders the addresses for the source of ICMP errors: an address with a
// network before a lone one, which may be part of pool4; then primary before
// secondary, global before narrower scopes. The first of equals is used, as
// the kernel does. 0 is unusable.
func (a addrMsg) rank4() int {
	rank := 1
	if a.bits < 32 {
		rank += 4
	}
	if a.flags&unix.IFA_F_SECONDARY == 0 {
		rank += 2
	}
	if a.scope == unix.RT_SCOPE_UNIVERSE {
		rank++
	}
	return rank
}

// rank6 prefers global to link-local, then follows RFC 6724 §5: not
// deprecated (rule 3), and, as suits a router, not temporary. Addresses that
// duplicate address detection has not cleared are unusable (RFC 4862 §5.4).
func (a addrMsg) rank6() int {
	if a.flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.flags&unix.IFA_F_OPTIMISTIC == 0 {
		return 0
	}
	rank := 1
	if a.scope == unix.RT_SCOPE_UNIVERSE {
		rank += 8
	}
	if a.flags&unix.IFA_F_DEPRECATED == 0 {
		rank += 4
	}
	if !a.addr.IsPrivate() { // not a ULA
		rank += 2
	}
	if a.flags&unix.IFA_F_TEMPORARY == 0 {
		rank++
	}
	return rank
}

func as4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func as6(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
