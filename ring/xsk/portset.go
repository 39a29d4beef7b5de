package xsk

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// maxPool6 is the number of prefixes that the filter program walks through.
const maxPool6 = 16

// Proto is a protocol that has transport addresses here. ICMP stands for echo
// identifiers.
type Proto uint8

const (
	ICMP Proto = 1
	TCP  Proto = 6
	UDP  Proto = 17
)

// PortRange is a range of ports or identifiers, both ends included.
type PortRange struct{ First, Last uint16 }

// Pool4 says which ports of the addresses below Prefix are the translator's.
// Where rules overlap, their ports add up.
type Pool4 struct {
	Prefix         netip.Prefix
	TCP, UDP, ICMP []PortRange
}

// Static is one static mapping's IPv4 side: for ICMP the port is an echo
// identifier, and requests for it are the translator's too.
type Static struct {
	Proto Proto
	Addr  netip.AddrPort
}

// FilterConfig says which packets are the translator's. It is plain data.
type FilterConfig struct {
	Pool6   []netip.Prefix
	Pool4   []Pool4
	Statics []Static

	// OtherProtocols makes everything to pool4 that is neither TCP, UDP nor ICMP
	// the translator's (handoff draft §8), but for the KernelProtocols.
	OtherProtocols  bool
	KernelProtocols []uint8

	// Exclusive makes all that is sent to pool4 the translator's, but for UDP to
	// ControlPort (0: none) and for the KernelProtocols.
	Exclusive   bool
	ControlPort uint16

	// AllIP makes every IPv4 and IPv6 packet to the station ours, neighbour
	// discovery included, and the rest of this without effect: for generators
	// and forwarders, which own their interfaces.
	AllIP bool
}

// portSet has one bit per port: a set bit is the translator's.
type portSet [65536 / 8]byte

func (s *portSet) add(ranges []PortRange) {
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			s[p>>3] |= 1 << (p & 7)
		}
	}
}

// poolSets are the port sets of one prefix.
type poolSets struct {
	prefix         netip.Prefix
	tcp, udp, icmp portSet
}

// mergePools returns one entry per distinct prefix, each with all ports of the
// rules that cover it: the kernel's trie answers with the longest prefix only.
// Addresses of static mappings that no rule covers get an entry without ports,
// because the filter looks no further when an address is in none.
func mergePools(rules []Pool4, statics []Static) []*poolSets {
	prefixes := make([]netip.Prefix, 0, len(rules)+len(statics))
	for _, r := range rules {
		prefixes = append(prefixes, r.Prefix.Masked())
	}
	for _, s := range statics {
		covers := func(p netip.Prefix) bool { return p.Contains(s.Addr.Addr()) }
		if !slices.ContainsFunc(prefixes, covers) {
			prefixes = append(prefixes, netip.PrefixFrom(s.Addr.Addr(), 32))
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	merged := make([]*poolSets, 0, len(prefixes))
	for _, p := range slices.Compact(prefixes) {
		sets := &poolSets{prefix: p}
		for _, r := range rules {
			if r.Prefix.Bits() <= p.Bits() && r.Prefix.Contains(p.Addr()) {
				sets.tcp.add(r.TCP)
				sets.udp.add(r.UDP)
				sets.icmp.add(r.ICMP)
			}
		}
		merged = append(merged, sets)
	}
	return merged
}

func (c *FilterConfig) validate() error {
	if len(c.Pool6) > maxPool6 {
		return fmt.Errorf("xsk: %d pool6 prefixes, the filter holds %d", len(c.Pool6), maxPool6)
	}
	for _, p := range c.Pool6 {
		if !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() {
			return fmt.Errorf("xsk: pool6 prefix %v is not an IPv6 prefix", p)
		}
	}
	for _, p := range c.Pool4 {
		if !p.Prefix.IsValid() || !p.Prefix.Addr().Is4() {
			return fmt.Errorf("xsk: pool4 prefix %v is not an IPv4 prefix", p.Prefix)
		}
		for _, r := range slices.Concat(p.TCP, p.UDP, p.ICMP) {
			if r.First > r.Last {
				return fmt.Errorf("xsk: pool4 %v: port range %d-%d ends before it begins", p.Prefix, r.First, r.Last)
			}
		}
	}
	for _, s := range c.Statics {
		if err := s.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (s Static) validate() error {
	if !s.Addr.Addr().Is4() {
		return fmt.Errorf("xsk: static mapping %v: not an IPv4 address", s.Addr)
	}
	if s.Proto != TCP && s.Proto != UDP && s.Proto != ICMP {
		return fmt.Errorf("xsk: static mapping %v: protocol %d is none of TCP, UDP and ICMP", s.Addr, s.Proto)
	}
	return nil
}

// settings is the configuration in the filter's own layout. Words of addresses
// are as they lie in a packet.
func (c *FilterConfig) settings(mac [6]byte, serve6, serve4 bool) filterConfig {
	out := filterConfig{Pool6Count: uint32(len(c.Pool6)), Mac: mac}
	if serve6 {
		out.ServeIpv6 = 1
	}
	if serve4 {
		out.ServeIpv4 = 1
	}
	if c.AllIP {
		out.AllIp = 1
	}
	if c.OtherProtocols || c.Exclusive {
		out.Protocols = c.protocols()
	}
	if c.Exclusive {
		var port [2]byte
		binary.BigEndian.PutUint16(port[:], c.ControlPort)
		out.Exclusive, out.ControlPort = 1, binary.NativeEndian.Uint16(port[:])
	}
	for i, p := range c.Pool6 {
		net, mask := p.Masked().Addr().As16(), prefixMask(p.Bits())
		for w := range 2 {
			out.Pool6[i].Net[w] = binary.NativeEndian.Uint64(net[8*w:])
			out.Pool6[i].Mask[w] = binary.NativeEndian.Uint64(mask[8*w:])
		}
	}
	return out
}

// protocols has a bit for each protocol without ports that is ours.
func (c *FilterConfig) protocols() (set [32]uint8) {
	for p := range 256 {
		if proto := Proto(p); proto != ICMP && proto != TCP && proto != UDP && !slices.Contains(c.KernelProtocols, uint8(p)) {
			set[p>>3] |= 1 << (p & 7)
		}
	}
	return set
}

func prefixMask(bits int) (mask [16]byte) {
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func addrWord(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}
