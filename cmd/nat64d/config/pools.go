package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"
)

const (
	maxPool6 = 16   // the XDP filter and a session's pool6 index are laid out for no more
	maxPool4 = 4096 // addresses; the mapping table is indexed by address and port
)

var wellKnownPrefix = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052 §2.1

// readPool6 reads one translation prefix (RFC 6052 §2.2).
func readPool6(p *parser, path string, v *fastjson.Value) {
	const hint = `give an IPv6 prefix, such as "64:ff9b::/96"`
	s, ok := p.str(path, v, hint)
	if !ok {
		return
	}
	pfx, err := netip.ParsePrefix(s)
	if err != nil || !pfx.Addr().Is6() || pfx.Addr().Is4In6() {
		p.problem(path, describe(v)+" is not an IPv6 prefix", hint)
		return
	}
	switch pfx.Bits() {
	case 32, 40, 48, 56, 64, 96:
	default:
		p.problem(path, fmt.Sprintf("length /%d cannot hold IPv4 addresses", pfx.Bits()),
			"give /32, /40, /48, /56, /64 or /96 (RFC 6052 §2.2)")
		return
	}
	if !p.noHostBits(path, pfx) {
		return
	}
	if a := pfx.Addr(); a.As16()[8] != 0 {
		p.problem(path, fmt.Sprintf("bits 64 to 71 of %s are not zero", pfx), "choose a prefix that has them zero (RFC 6052 §2.2)")
		return
	} else if a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		p.problem(path, fmt.Sprintf("%s is not a unicast prefix that can be routed", pfx), hint)
		return
	}
	for _, other := range p.config.Pool6 {
		if other.Overlaps(pfx) {
			p.problem(path, fmt.Sprintf("%s overlaps %s", pfx, other), "keep one of the two")
			return
		}
	}
	p.config.Pool6 = append(p.config.Pool6, pfx)
}

// noHostBits notes a problem when bits behind the prefix length are set: most
// likely the length or the address is a mistake.
func (p *parser) noHostBits(path string, pfx netip.Prefix) bool {
	if pfx == pfx.Masked() {
		return true
	}
	p.problem(path, fmt.Sprintf("%s has bits set behind its length", pfx), fmt.Sprintf("give %s", pfx.Masked()))
	return false
}

// readDeny reads one IPv4 prefix that clients may not reach.
func readDeny(p *parser, path string, v *fastjson.Value) {
	if pfx, ok := p.prefix4(path, v); ok {
		p.config.DenyIPv4 = append(p.config.DenyIPv4, pfx)
	}
}

// prefix4 reads an IPv4 address or prefix.
func (p *parser) prefix4(path string, v *fastjson.Value) (netip.Prefix, bool) {
	const hint = `give an IPv4 address or prefix, such as "192.0.2.1" or "192.0.2.0/28"`
	s, ok := p.str(path, v, hint)
	if !ok {
		return netip.Prefix{}, false
	}
	pfx, err := netip.ParsePrefix(s)
	if a, errAddr := netip.ParseAddr(s); errAddr == nil {
		pfx, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || !pfx.Addr().Is4() {
		p.problem(path, describe(v)+" is not an IPv4 address or prefix", hint)
		return netip.Prefix{}, false
	}
	return pfx, p.noHostBits(path, pfx)
}

// notPool4 lists what cannot be the source of a packet on an IPv4 network
// (RFC 6890): such an address in pool4 would lose every packet.
var notPool4 = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
}

// privatePool4 lists what works only inside an organisation.
var privatePool4 = []struct {
	prefix  netip.Prefix
	section string
}{
	{netip.MustParsePrefix("10.0.0.0/8"), "RFC 1918"},
	{netip.MustParsePrefix("172.16.0.0/12"), "RFC 1918"},
	{netip.MustParsePrefix("192.168.0.0/16"), "RFC 1918"},
	{netip.MustParsePrefix("100.64.0.0/10"), "RFC 6598"},
}

// readPool4 reads one block of addresses with its port ranges.
func readPool4(p *parser, path string, v *fastjson.Value) {
	var prefix netip.Prefix
	ports := [][2]uint16{{1024, 65535}}
	before := len(p.problems)
	object(
		field{"address", func(p *parser, path string, v *fastjson.Value) {
			prefix, _ = p.prefix4(path, v)
		}, `give an IPv4 address or prefix, such as "192.0.2.1"`},
		field{"ports", func(p *parser, path string, v *fastjson.Value) {
			ports = p.ports(path, v)
		}, ""},
	)(p, path, v)
	if len(p.problems) > before || !p.usablePool4(join(path, "address"), prefix) {
		return
	}
	p.config.Pool4 = append(p.config.Pool4, Pool4{Prefix: prefix, Ports: ports})
	p.pool4 = append(p.pool4, path)
}

// usablePool4 checks a block of addresses by itself and against those before it.
func (p *parser) usablePool4(path string, pfx netip.Prefix) bool {
	for _, n := range notPool4 {
		if n.prefix.Overlaps(pfx) {
			p.problem(path, fmt.Sprintf("%s is in %s (%s)", show4(pfx), n.prefix, n.what), "give addresses that servers can answer")
			return false
		}
	}
	for _, n := range privatePool4 {
		if n.prefix.Overlaps(pfx) {
			p.warn(path, fmt.Sprintf("%s is private (%s)", show4(pfx), n.section),
				"servers on the Internet can answer only if another NAT translates it once more")
		}
	}
	total := Pool4{Prefix: pfx}.Addresses()
	for i, other := range p.config.Pool4 {
		if other.Prefix.Overlaps(pfx) {
			p.problem(path, fmt.Sprintf("%s overlaps %s of %s", show4(pfx), show4(other.Prefix), p.pool4[i]),
				"name each address once and join the port ranges")
			return false
		}
		total += other.Addresses()
	}
	if total > maxPool4 {
		p.problem(path, fmt.Sprintf("makes %d addresses in pool4", total), fmt.Sprintf("give at most %d in all", maxPool4))
		return false
	}
	return true
}

// show4 is a prefix as a person writes it: a single address without its /32.
func show4(pfx netip.Prefix) string {
	if pfx.IsSingleIP() {
		return pfx.Addr().String()
	}
	return pfx.String()
}

// ports reads port ranges such as "1024-2047,4096-8191".
func (p *parser) ports(path string, v *fastjson.Value) [][2]uint16 {
	const hint = `give ports from 1 to 65535, such as "1024-65535" or "1024-2047,4096-8191"`
	s, ok := p.str(path, v, hint)
	if !ok {
		return nil
	}
	rs, err := parseRanges(s, 1)
	if err != nil {
		p.problem(path, err.Error(), hint)
	}
	return rs
}

// parseRanges reads a list such as "1024-2047,5000", in any order and without
// overlap; no number may be below low.
func parseRanges(s string, low uint64) ([][2]uint16, error) {
	var rs [][2]uint16
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		first, last, found := strings.Cut(part, "-")
		if !found {
			last = first
		}
		a, errA := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		b, errB := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if errA != nil || errB != nil || a < low || b < low {
			return nil, fmt.Errorf("%q is not a range", clip(part))
		}
		if b < a {
			return nil, fmt.Errorf("%d-%d runs backwards", a, b)
		}
		rs = append(rs, [2]uint16{uint16(a), uint16(b)})
	}
	slices.SortFunc(rs, func(a, b [2]uint16) int { return int(a[0]) - int(b[0]) })
	for i := 1; i < len(rs); i++ {
		if rs[i][0] <= rs[i-1][1] {
			return nil, fmt.Errorf("%d-%d and %d-%d overlap", rs[i-1][0], rs[i-1][1], rs[i][0], rs[i][1])
		}
	}
	return rs, nil
}

// clip shortens a piece of the file for a message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// FormatRanges is the notation that parseRanges reads.
func FormatRanges(rs [][2]uint16) string {
	var b strings.Builder
	for i, r := range rs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(r[0])))
		if r[0] != r[1] {
			b.WriteString("-" + strconv.Itoa(int(r[1])))
		}
	}
	return b.String()
}
