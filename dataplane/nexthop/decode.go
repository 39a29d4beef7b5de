package nexthop

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The rtnetlink messages (rtnetlink(7)), decoded by hand: the same decoder
// serves dumps and events, and a full routing table must not cost six
// allocations a route. Anything malformed is an error, never a panic.

const (
	attrTypeMask = 0x3fff // NLA_TYPE_MASK: without the nested and byte order flags

	rtaNHID = 30 // RTA_NH_ID: the route leads to a nexthop object

	sizeRtMsg     = 12
	sizeNextHop   = 8
	sizeNdMsg     = 12
	sizeIfAddrMsg = 8
	sizeIfInfoMsg = 16
)

var native = binary.NativeEndian

// nextHop is one next hop of a route. Comparable.
type nextHop struct {
	ifindex int32
	via     netip.Addr // invalid: the destination is on link
	weight  uint16     // 1 to 256
	dead    bool       // the kernel does not use it (RTNH_F_DEAD)
}

// same tells whether two next hops are the same but for weight and flags.
func (n nextHop) same(o nextHop) bool { return n.ifindex == o.ifindex && n.via == o.via }

// routeMsg is one RTM_NEWROUTE or RTM_DELROUTE. A plain value.
type routeMsg struct {
	prefix   netip.Prefix
	table    uint32
	metric   uint32
	mtu      uint32
	kind     uint8 // RTN_UNICAST and so on
	protocol uint8
	pref     uint8 // RFC 4191 §2.2: larger is better
	opaque   bool  // encapsulates, or names a nexthop object only: not ours to forward
	hops     []nextHop
}

// attributes walks over the attributes of a message; what is left over after
// the last well-formed one ends the walk.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(native.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&attrTypeMask, b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

func word(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return native.Uint32(b)
}

// address keeps IPv4-mapped IPv6 addresses as they are: within the table of
// IPv6 routes they are IPv6.
func address(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// decodeRoute returns ok false for messages that are none of ours: other
// tables and families, cached routes, routes by type of service or source.
func decodeRoute(b []byte) (r routeMsg, ok bool, err error) {
	if len(b) < sizeRtMsg {
		return r, false, fmt.Errorf("route message of %d octets: want at least %d", len(b), sizeRtMsg)
	}
	var dst netip.Addr
	switch b[0] {
	case unix.AF_INET:
		dst = netip.IPv4Unspecified()
	case unix.AF_INET6:
		dst = netip.IPv6Unspecified()
	default:
		return r, false, nil
	}
	flags := native.Uint32(b[8:])
	single := nextHop{weight: 1, dead: flags&unix.RTNH_F_DEAD != 0}
	r.table, r.protocol, r.kind, r.pref = uint32(b[4]), b[5], b[7], 1
	if err := r.read(b[sizeRtMsg:], &dst, &single); err != nil {
		return r, false, err
	}
	bits := int(b[1])
	if !dst.IsValid() || dst.Is4() != (b[0] == unix.AF_INET) {
		return r, false, fmt.Errorf("route message of family %d to %v", b[0], dst)
	}
	if r.prefix, err = dst.Prefix(bits); err != nil {
		return r, false, fmt.Errorf("route message to %v with a prefix length of %d: %w", dst, bits, err)
	}
	ours := r.table == unix.RT_TABLE_MAIN || r.table == unix.RT_TABLE_LOCAL
	bySource, byService := b[2] != 0, b[3] != 0
	return r, ours && !bySource && !byService && flags&unix.RTM_F_CLONED == 0, nil
}

// read takes the attributes of a route. A route with one next hop has it
// spread over attributes of its own, which single collects.
func (r *routeMsg) read(attrs []byte, dst *netip.Addr, single *nextHop) (err error) {
	var object bool
	for kind, val := range attributes(attrs) {
		switch kind {
		case unix.RTA_DST:
			*dst = address(val)
		case unix.RTA_TABLE:
			r.table = word(val)
		case unix.RTA_PRIORITY:
			r.metric = word(val)
		case unix.RTA_PREF:
			r.pref = preference(val)
		case unix.RTA_METRICS:
			r.mtu = mtuMetric(val)
		case unix.RTA_MULTIPATH:
			if r.hops, err = decodeNextHops(val); err != nil {
				return err
			}
		case unix.RTA_OIF:
			single.ifindex = int32(word(val))
		case unix.RTA_GATEWAY:
			single.via = address(val)
		case unix.RTA_VIA:
			single.via = viaAddress(val)
		case unix.RTA_ENCAP, unix.RTA_NEWDST:
			r.opaque = true
		case rtaNHID:
			object = true
		}
	}
	if r.hops == nil && single.ifindex != 0 {
		r.hops = []nextHop{*single}
	}
	r.opaque = r.opaque || object && r.hops == nil
	return nil
}

// preference orders the values of RFC 4191 §2.2: high 1, medium 0, low 3.
func preference(val []byte) uint8 {
	switch {
	case len(val) == 1 && val[0] == 1:
		return 2
	case len(val) == 1 && val[0] == 3:
		return 0
	}
	return 1
}

func mtuMetric(metrics []byte) uint32 {
	for kind, val := range attributes(metrics) {
		if kind == unix.RTAX_MTU {
			return word(val)
		}
	}
	return 0
}

// viaAddress reads a struct rtvia: a gateway of another family than the
// route's, as in IPv4 over IPv6 next hops (RFC 8950).
func viaAddress(val []byte) netip.Addr {
	if len(val) < 2 {
		return netip.Addr{}
	}
	return address(val[2:])
}

func decodeNextHops(b []byte) ([]nextHop, error) {
	var hops []nextHop
	for len(b) >= sizeNextHop {
		size := int(native.Uint16(b))
		if size < sizeNextHop || size > len(b) {
			return nil, fmt.Errorf("route message: next hop of %d octets in %d", size, len(b))
		}
		h := nextHop{
			ifindex: int32(native.Uint32(b[4:])),
			weight:  uint16(b[3]) + 1,
			dead:    b[2]&unix.RTNH_F_DEAD != 0,
		}
		for kind, val := range attributes(b[sizeNextHop:size]) {
			switch kind {
			case unix.RTA_GATEWAY:
				h.via = address(val)
			case unix.RTA_VIA:
				h.via = viaAddress(val)
			case unix.RTA_ENCAP, unix.RTA_NEWDST:
				h.ifindex = 0 // encapsulates: no interface of ours
			}
		}
		hops = append(hops, h)
		b = b[min((size+3)&^3, len(b)):]
	}
	return hops, nil
}

// neighMsg is one RTM_NEWNEIGH or RTM_DELNEIGH. A plain value.
type neighMsg struct {
	key   neighKey
	state uint16 // NUD_*
	mac   [6]byte
	isMAC bool // a link-layer address of six octets was given

	external bool // kept by a control plane (NTF_EXT_LEARNED)
}

// decodeNeigh returns ok false for bridge entries, proxies and multicast.
func decodeNeigh(b []byte) (n neighMsg, ok bool, err error) {
	if len(b) < sizeNdMsg {
		return n, false, fmt.Errorf("neighbour message of %d octets: want at least %d", len(b), sizeNdMsg)
	}
	if family := b[0]; family != unix.AF_INET && family != unix.AF_INET6 {
		return n, false, nil
	}
	n.key.ifindex, n.state = int32(native.Uint32(b[4:])), native.Uint16(b[8:])
	n.external = b[10]&unix.NTF_EXT_LEARNED != 0
	for kind, val := range attributes(b[sizeNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			n.key.addr = address(val)
		case unix.NDA_LLADDR:
			n.isMAC = copy(n.mac[:], val) == 6 && len(val) == 6
		}
	}
	if !n.key.addr.IsValid() {
		return n, false, fmt.Errorf("neighbour message without an address on interface %d", n.key.ifindex)
	}
	return n, b[10]&unix.NTF_PROXY == 0 && !n.key.addr.IsMulticast(), nil
}

// addrMsg is one RTM_NEWADDR or RTM_DELADDR. A plain value.
type addrMsg struct {
	ifindex int32
	addr    netip.Addr
	bits    uint8
	scope   uint8
	flags   uint32
}

func decodeAddr(b []byte) (a addrMsg, ok bool, err error) {
	if len(b) < sizeIfAddrMsg {
		return a, false, fmt.Errorf("address message of %d octets: want at least %d", len(b), sizeIfAddrMsg)
	}
	if b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return a, false, nil
	}
	a.bits, a.flags, a.scope, a.ifindex = b[1], uint32(b[2]), b[3], int32(native.Uint32(b[4:]))
	var local netip.Addr
	for kind, val := range attributes(b[sizeIfAddrMsg:]) {
		switch kind {
		case unix.IFA_ADDRESS: // of a point-to-point link: the other end
			a.addr = address(val)
		case unix.IFA_LOCAL:
			local = address(val)
		case unix.IFA_FLAGS:
			a.flags = word(val)
		}
	}
	if local.IsValid() {
		a.addr = local
	}
	if !a.addr.IsValid() {
		return a, false, fmt.Errorf("address message without an address on interface %d", a.ifindex)
	}
	return a, true, nil
}

// linkMsg is one RTM_NEWLINK or RTM_DELLINK. A plain value.
type linkMsg struct {
	ifindex int32
	name    string
	mac     [6]byte
	mtu     uint32
	flags   uint32
}

// decodeLink returns ok false for what bridges say about their ports.
func decodeLink(b []byte) (l linkMsg, ok bool, err error) {
	if len(b) < sizeIfInfoMsg {
		return l, false, fmt.Errorf("link message of %d octets: want at least %d", len(b), sizeIfInfoMsg)
	}
	l.ifindex, l.flags = int32(native.Uint32(b[4:])), native.Uint32(b[8:])
	for kind, val := range attributes(b[sizeIfInfoMsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(val)
		case unix.IFLA_ADDRESS:
			copy(l.mac[:], val)
		case unix.IFLA_MTU:
			l.mtu = word(val)
		}
	}
	return l, b[0] == unix.AF_UNSPEC, nil
}
