package wire

import "encoding/binary"

// Payload is a decoded UDP payload with at most one message of each type. The
// slices are parts of the decoded octets and live as long as those. Owned by
// one goroutine; to be used again, it is decoded into again.
type Payload struct {
	// Token, Rotation and Authenticator are nil when absent. They may be
	// present and empty (draft §4); Has tells the two apart by name.
	Token, Rotation, Authenticator []byte
	// Entry and Hint are meant only if Has says so.
	Entry Entry
	Hint  uint16
	// Packet is the embedded packet, as long as it says that it is, or nil.
	Packet []byte
	// PacketVersion is 4 or 6, or 0 without a packet.
	PacketVersion uint8

	has uint16 // bit t: there was a message of type t
}

// Has says whether the payload holds a message of the type t.
func (p *Payload) Has(t uint8) bool { return p.has>>t&1 != 0 }

// Decode reads the UDP payload b into *p. Unknown types are skipped; of several
// messages of one type the first counts (draft §4 allows any). Only with OK
// does *p mean something. Which messages must be there depends on who sent
// them: ToServer and ToNAT64 tell.
func Decode(b []byte, p *Payload) Status {
	*p = Payload{}
	r := NewReader(b)
	var m Message
	for r.Next(&m) {
		p.take(&m)
	}
	return r.Status()
}

func (p *Payload) take(m *Message) {
	if m.PacketVersion != 0 {
		p.Packet, p.PacketVersion = m.Packet, m.PacketVersion
		return
	}
	if p.Has(m.Type) {
		return
	}
	p.has |= 1 << m.Type
	switch m.Type {
	case TypeToken:
		p.Token = m.Data
	case TypeRotation:
		p.Rotation = m.Data
	case TypeAuthenticator:
		p.Authenticator = m.Data
	case TypeEntry:
		p.Entry.read(m.Data)
	case TypeHint:
		p.Hint = binary.BigEndian.Uint16(m.Data)
	}
}

// ToServer says whether the payload is one that a NAT64 may send to a server
// (draft §5): a token; an entry, an IPv4 or an IPv6 packet; an authenticator
// with an entry or an IPv6 packet; the identifier with an entry.
func (p *Payload) ToServer() Status {
	entry := p.Has(TypeEntry)
	switch {
	case !p.Has(TypeToken):
		return NoToken
	case !entry && p.PacketVersion == 0:
		return NoContent
	case (entry || p.PacketVersion == 6) && !p.Has(TypeAuthenticator):
		return NoAuthenticator
	case entry && !p.Has(TypeIdentifier):
		return NoIdentifier
	}
	return OK
}

// Form is which of the three things that a server may send to a NAT64 a payload
// is (draft §6).
type Form uint8

// The forms. FormNone is none of them.
const (
	FormNone  Form = iota
	FormIPv4       // (a) a token and an IPv4 packet, before or after translation
	FormIPv6       // (b) an authenticator and a post-translation IPv6 packet
	FormEntry      // (c) an authenticator and an entry, with or without a packet
)

// ToNAT64 says which form a payload from a server has, and with FormNone what
// it lacks. A payload may meet two conditions at once; then the entry comes
// first, because beside one any packet is allowed.
func (p *Payload) ToNAT64() (Form, Status) {
	switch {
	case p.Has(TypeAuthenticator) && p.Has(TypeEntry):
		return FormEntry, OK
	case p.Has(TypeToken) && p.PacketVersion == 4:
		return FormIPv4, OK
	case p.Has(TypeAuthenticator) && p.PacketVersion == 6:
		return FormIPv6, OK
	case p.Has(TypeEntry) || p.PacketVersion == 6:
		return FormNone, NoAuthenticator
	case p.PacketVersion == 4:
		return FormNone, NoToken
	}
	return FormNone, NoContent
}
