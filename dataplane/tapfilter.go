package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

// TapFilter chooses packets. Its zero value chooses all; every condition that is
// given must hold. What a packet does not have (the session of one that was
// dropped before the lookup, say) fulfils no condition on it.
type TapFilter struct {
	Proto      uint8           // protocol number of the packet; 1 is ICMP of both versions
	Client     conntrack.Addr6 // the IPv6 host, in the packet or in its session
	ClientBits int             // prefix length of Client; 0 for any client
	Server     uint32          // the IPv4 host, in the packet or in its session
	ServerBits int
	Mapped     uint32 // the pool4 address
	HasMapped  bool
	// Ports of the ends above; 0 for any.
	ClientPort, ServerPort, MappedPort uint16
	Port                               uint16 // of any end; 0 for any
	Dropped                            bool   // whatever the reason
	Reason                             DropReason
	Side                               Family // with HasSide: the interface it came in by
	HasSide                            bool
}

// Match says whether the filter chooses the packet of a SightWay.
func (f *TapFilter) Match(s *Sight) bool {
	return (f.Proto == 0 || f.Proto == s.proto()) &&
		(!f.Dropped || s.Left == LeftDropped) &&
		(f.Reason == NotDropped || s.Left == LeftDropped && s.Reason == f.Reason) &&
		(!f.HasSide || s.Side == f.Side) &&
		f.matchEnds(s)
}

func (f *TapFilter) matchEnds(s *Sight) bool {
	client, clientPort := s.client()
	server, serverPort := s.server()
	mapped, mappedPort := s.mapped()
	return (f.ClientBits == 0 || inPrefix6(client, f.Client, f.ClientBits)) &&
		(f.ClientPort == 0 || f.ClientPort == clientPort) &&
		(f.ServerBits == 0 || server != 0 && (server^f.Server)>>(32-f.ServerBits) == 0) &&
		(f.ServerPort == 0 || f.ServerPort == serverPort) &&
		(!f.HasMapped || mapped == f.Mapped) &&
		(f.MappedPort == 0 || f.MappedPort == mappedPort) &&
		(f.Port == 0 || f.Port == clientPort || f.Port == serverPort || f.Port == mappedPort)
}

// inPrefix6 says whether an address, which must be one, lies in a prefix.
func inPrefix6(a, prefix conntrack.Addr6, bits int) bool {
	if a == (conntrack.Addr6{}) {
		return false
	}
	if bits <= 64 {
		return (a.Hi^prefix.Hi)>>(64-bits) == 0
	}
	return a.Hi == prefix.Hi && (a.Lo^prefix.Lo)>>(128-bits) == 0
}

// proto is the packet's protocol, with one number for ICMP of both versions.
func (s *Sight) proto() uint8 {
	if s.Packet.Proto == packet.ProtoICMPv6 {
		return packet.ProtoICMP
	}
	return s.Packet.Proto
}

// client, server and mapped are the ends of the packet: those of its session,
// else what its own header says.
func (s *Sight) client() (conntrack.Addr6, uint16) {
	if s.Client == (conntrack.Addr6{}) && s.Dir == V6ToV4 {
		return conntrack.Addr6{Hi: s.Packet.SrcHi, Lo: s.Packet.SrcLo}, s.Packet.SrcPort
	}
	return s.Client, s.ClientPort
}

func (s *Sight) server() (uint32, uint16) {
	if s.Server == 0 {
		if s.Dir == V6ToV4 {
			return 0, s.Packet.DstPort
		}
		return s.Packet.Src4, s.Packet.SrcPort
	}
	return s.Server, s.ServerPort
}

func (s *Sight) mapped() (uint32, uint16) {
	if s.Mapped == 0 && s.Dir != V6ToV4 {
		return s.Packet.Dst4, s.Packet.DstPort
	}
	return s.Mapped, s.MappedPort
}
