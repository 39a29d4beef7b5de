package handoff

import "encoding/binary"

// An ICMP error that the NAT64 had no entry for comes back with the entry (draft
// §8, §10), and its source is whoever had trouble with the packet, a router
// often. What ties it to the channel is the packet that it quotes. The server
// could have sent such an error to us, or to the client through us, without
// any of this.

const (
	icmpHeader     = 8
	ipv4Header     = 20
	ipv6Header     = 40
	protocolICMP   = 1
	protocolICMPv6 = 58
)

// errorAbout4 says whether a packet is an ICMP error to our own address about
// one that went from there to the server.
func errorAbout4(packet []byte, own, server uint32) bool {
	at := int(packet[0]&0xf) * 4
	fragment := binary.BigEndian.Uint16(packet[6:])&0x3fff != 0
	if packet[9] != protocolICMP || fragment || len(packet) < at+icmpHeader+ipv4Header || binary.BigEndian.Uint32(packet[16:]) != own {
		return false
	}
	switch packet[at] {
	case 3, 4, 11, 12: // RFC 792: unreachable, source quench, time exceeded, parameter problem
	default:
		return false
	}
	quote := packet[at+icmpHeader:]
	return quote[0]>>4 == 4 && binary.BigEndian.Uint32(quote[12:]) == own && binary.BigEndian.Uint32(quote[16:]) == server
}

// errorAbout6 is errorAbout4 on the IPv6 side: an ICMPv6 error to the server's
// address within pool6 about a packet that went from there to the client.
// Error types are those below 128 (RFC 4443 §2.1).
func (w *Worker) errorAbout6(packet []byte, server uint32, client *[16]byte) bool {
	if packet[6] != protocolICMPv6 || len(packet) < ipv6Header+icmpHeader+ipv6Header || packet[ipv6Header] >= 128 {
		return false
	}
	quote := packet[ipv6Header+icmpHeader:]
	return quote[0]>>4 == 6 && w.embedded(packet[24:40], server) && w.embedded(quote[8:24], server) && [16]byte(quote[24:40]) == *client
}
