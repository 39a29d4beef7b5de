package handoff

import (
	"encoding/binary"
	"net/netip"

	"handoff64/conntrack"
)

// octets4 is an IPv4 address as it stands in a packet.
func octets4(a uint32) (b [4]byte) {
	binary.BigEndian.PutUint32(b[:], a)
	return b
}

// octets6 is an IPv6 address as it stands in a packet.
func octets6(a conntrack.Addr6) (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return b
}

// address6 reads an IPv6 address.
func address6(b []byte) conntrack.Addr6 {
	return conntrack.Addr6{Hi: binary.BigEndian.Uint64(b), Lo: binary.BigEndian.Uint64(b[8:])}
}

func ipv4Address(a uint32) netip.Addr { return netip.AddrFrom4(octets4(a)) }

// prefix6 is a pool6 prefix, ready to be compared with. Immutable.
type prefix6 struct {
	octets [16]byte
	len    int // octets of the prefix: 4, 5, 6, 7, 8 or 12 (RFC 6052 §2.2)
}

func newPrefix6(p netip.Prefix) prefix6 {
	return prefix6{p.Masked().Addr().As16(), p.Bits() / 8}
}

// entries says whether entries can hold the prefix: only a /96 fits one (draft §4).
func (p *prefix6) entries() bool { return p.len == 12 }

// embeds says whether addr is the server's address within the prefix. Octet 8
// of the shorter prefixes is skipped (RFC 6052 §2.2).
func (p *prefix6) embeds(addr []byte, server uint32) bool {
	if string(addr[:p.len]) != string(p.octets[:p.len]) {
		return false
	}
	at := p.len
	for _, b := range octets4(server) {
		if at == 8 {
			at++
		}
		if addr[at] != b {
			return false
		}
		at++
	}
	return true
}

// embedded says whether addr is the server's address within one of the prefixes.
func (w *Worker) embedded(addr []byte, server uint32) bool {
	for i := range w.pool6 {
		if w.pool6[i].embeds(addr, server) {
			return true
		}
	}
	return false
}

// pool6Of is the number of the /96 prefix that an entry names, or -1.
func (w *Worker) pool6Of(prefix *[12]byte) int {
	for i := range w.pool6 {
		if w.pool6[i].entries() && string(w.pool6[i].octets[:12]) == string(prefix[:]) {
			return i
		}
	}
	return -1
}
