package xlat

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// Protocols without ports of their own here, whose checksum covers the
// addresses at the same offset that UDP has it at: DCCP (RFC 4340 §9.1) and
// UDP-Lite (RFC 3828 §3.1). SCTP's does not cover them (RFC 9260 §6.8), nor is
// there one that needs an update in GRE, ESP, IP in IP and the like.
const (
	protoDCCP       = 33
	protoUDPLite    = 136
	coveredChecksum = 6
)

// anyProtocol translates the upper layer of a packet of any other protocol than
// TCP, UDP and ICMP: octets are passed as they are (RFC 7915 §4.3, §5.3 has
// them passed on, too), but for a checksum over the addresses.
func anyProtocol(u []byte, p *packet.Parsed, delta uint16, o *Options) Status {
	if p.Kind != packet.KindOther {
		return UnsupportedProtocol
	}
	if s := byAddress(p, o); s != OK {
		return s
	}
	if p.Proto != protoDCCP && p.Proto != protoUDPLite {
		return OK
	}
	if len(u) < coveredChecksum+2 {
		return UnsupportedProtocol
	}
	ck := binary.BigEndian.Uint16(u[coveredChecksum:])
	ck = packet.UpdateChecksum(ck, delta)
	if p.Proto == protoUDPLite {
		ck = nonZero(ck) // as in UDP, zero is no checksum
	}
	binary.BigEndian.PutUint16(u[coveredChecksum:], ck)
	return OK
}

// byAddress says whether a protocol may pass by its addresses. Numbers that mean
// an extension header or another ICMP on the other side may not: the packet
// would say there what it did not say here.
func byAddress(p *packet.Parsed, o *Options) Status {
	if !o.AnyProtocol {
		return UnsupportedProtocol
	}
	switch p.Proto {
	case packet.ProtoICMP, packet.ProtoICMPv6, packet.ProtoHopByHop, packet.ProtoRouting, packet.ProtoFragment, packet.ProtoDestOptions:
		return UnsupportedProtocol
	}
	return OK
}
