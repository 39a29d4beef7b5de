package dataplane

import "handoff64/dataplane/xlat"

// This file decides whose address a translated ICMP error carries.
//
//	IPv4 to IPv6, from                     icmp_error_source
//	                      router (default)                destination
//	any host or router    its own address in the prefix   the session's server in the prefix
//
//	IPv6 to IPv4, from
//	the client            its mapped address              its mapped address
//	a router              icmp_source.ipv4                the client's mapped address
//	an address in pool6   dropped, both: RFC 6146 §3.5
//
// RFC 6146 §3.6.1 and §3.7 take both addresses from the session of the quoted
// packet, so that a client cannot tell a router's error from its server's.
// RFC 7915 §4.1 translates the sender's address, even an illegal one, for
// troubleshooting. Towards IPv4, RFC 5508 REQ-5 (c) and RFC 6791 §3.2 say what
// a router without an IPv4 address gets: one of the translator's own.

// refuseError64 says why an ICMPv6 error from the address must not be
// translated, NotDropped when it may. Whoever writes from pool6 would choose
// the IPv4 address that its errors come from.
func (r *Rules) refuseError64(srcHi, srcLo uint64) DropReason {
	switch {
	case !unicast6(srcHi, srcLo):
		return DropBadSource // RFC 7915 §5.1; link-local: RFC 4291 §2.5.6
	case r.pool6Index(srcHi, srcLo) >= 0:
		return DropSourceInPool6 // RFC 6146 §3.5, whatever the protocol
	}
	return NotDropped
}

// errorSource4 is the IPv4 source of a translated ICMPv6 error.
func (w *Worker) errorSource4(m *meta) uint32 {
	client := &m.k64.Client
	if w.rules.ErrorsFromDestination || client.Hi == m.p.SrcHi && client.Lo == m.p.SrcLo {
		return m.v64.Mapped
	}
	if a := w.ownAddress4(); a != 0 {
		return a
	}
	return m.v64.Mapped
}

// ownAddress4 is what our own ICMPv4 errors come from, zero when the interface
// has no address and the configuration names none.
func (w *Worker) ownAddress4() uint32 {
	if a := w.rules.ICMPSource4; a != 0 {
		return a
	}
	return w.snap.IPv4.Addr4
}

// errorSource6 is the IPv4 address that the source of a translated ICMPv4
// error holds in the prefix. One that the prefix must not hold (RFC 6052 §3.1)
// gives way to the session's server: without its error, path MTU discovery
// through private routers would fail.
func (w *Worker) errorSource6(m *meta, p *xlat.Prefix) uint32 {
	if w.rules.ErrorsFromDestination || w.rules.WellKnownStrict && p.IsWellKnown() && xlat.NonGlobal(m.p.Src4) {
		return m.quote.Dst4
	}
	return m.p.Src4
}
