package handoff

import (
	"encoding/binary"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// finding is what a control packet amounts to once it is checked.
type finding struct {
	entry  bool
	pool6  uint8 // of the entry
	packet bool
	kind   conntrack.FromServerKind // of the packet
}

// Ports that no entry may map to (draft §10), beside our own two.
const (
	firstMappedPort = 1024
	teredoPort      = 3544
)

// check holds a control packet to what a server may send (draft §6). Nothing is
// acted upon unless all of it passes.
func (w *Worker) check(server, own uint32, p *wire.Payload, f *finding) Refusal {
	*f = finding{}
	form, status := p.ToNAT64()
	switch form {
	case wire.FormEntry:
		return w.checkEntry(server, own, p, f)
	case wire.FormIPv4:
		if !w.keys.CheckToken(octets4(server), p.Token) {
			return BadToken
		}
		return checkIPv4(server, own, p.Packet, f)
	case wire.FormIPv6:
		return w.checkTranslated(server, p, f)
	}
	return Refusal(status)
}

// checkEntry is format (c): the entry, then the packet of either kind.
func (w *Worker) checkEntry(server, own uint32, p *wire.Payload, f *finding) Refusal {
	e := &p.Entry
	if !w.keys.CheckAuthenticator(octets4(server), e.Client, p.Authenticator) {
		return BadAuthenticator
	}
	pool6 := w.pool6Of(&e.Prefix)
	if pool6 < 0 {
		return ForeignPrefix
	}
	if e.MappedPort < firstMappedPort || e.MappedPort == teredoPort || e.MappedPort == w.serverPort || e.MappedPort == w.clientPort {
		return BadMappedPort
	}
	f.entry, f.pool6 = true, uint8(pool6)
	switch p.PacketVersion {
	case 4:
		if errorAbout4(p.Packet, own, server) {
			f.packet, f.kind = true, conntrack.GotPacket
			return Accepted
		}
		return checkIPv4(server, own, p.Packet, f)
	case 6:
		if w.errorAbout6(p.Packet, server, &e.Client) {
			f.packet, f.kind = true, conntrack.GotPacket
			return Accepted
		}
		return w.checkIPv6(server, &e.Client, p.Packet, f)
	}
	return Accepted
}

// checkIPv4 accepts a packet between the server and the NAT64's address that the
// control packet came to: from the server, it has yet to be translated; to the
// server, it has been.
func checkIPv4(server, own uint32, packet []byte, f *finding) Refusal {
	src, dst := binary.BigEndian.Uint32(packet[12:]), binary.BigEndian.Uint32(packet[16:])
	switch {
	case src == server && dst == own:
		f.packet, f.kind = true, conntrack.GotPacket
	case src == own && dst == server:
		f.packet, f.kind = true, conntrack.GotTranslated
	default:
		return ForeignIPv4
	}
	return Accepted
}

// checkTranslated is format (b): the authenticated client is the destination.
func (w *Worker) checkTranslated(server uint32, p *wire.Payload, f *finding) Refusal {
	src, dst := p.Packet[8:24], p.Packet[24:40]
	if !w.embedded(src, server) {
		if w.embedded(dst, server) {
			return NotTranslated
		}
		return ForeignIPv6
	}
	if !w.keys.CheckAuthenticator(octets4(server), [16]byte(dst), p.Authenticator) {
		return BadAuthenticator
	}
	f.packet, f.kind = true, conntrack.GotTranslated
	return Accepted
}

// checkIPv6 accepts a packet between the client and the server: from the client,
// it has yet to be translated; to the client, it has been.
func (w *Worker) checkIPv6(server uint32, client *[16]byte, packet []byte, f *finding) Refusal {
	src, dst := packet[8:24], packet[24:40]
	other := src
	switch {
	case w.embedded(dst, server):
		f.kind = conntrack.GotPacket
	case w.embedded(src, server):
		f.kind, other = conntrack.GotTranslated, dst
	default:
		return ForeignIPv6
	}
	if string(other) != string(client[:]) {
		return OtherClient
	}
	f.packet = true
	return Accepted
}
