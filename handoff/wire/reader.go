package wire

import "encoding/binary"

const (
	ipv4Len = 20
	ipv6Len = 40
)

// Message is one message of a payload: a handoff message (PacketVersion 0, Type
// and Data set) or an embedded packet (PacketVersion 4 or 6, Packet set, Type
// 0). The slices are parts of the payload.
type Message struct {
	Type          uint8
	PacketVersion uint8
	Data          []byte
	Packet        []byte
}

// Reader goes through the messages of a payload, one Next at a time, unknown
// types among them. It stops at the first thing that is wrong. Owned by one
// goroutine; the zero value is a reader of an empty payload.
type Reader struct {
	rest   []byte
	begun  bool
	status Status
}

// NewReader returns a reader of the UDP payload b, which it only reads.
func NewReader(b []byte) Reader { return Reader{rest: b} }

// Status is OK once Next has returned false at the end of a payload without
// fault, else what is wrong with it. Before that it says nothing.
func (r *Reader) Status() Status { return r.status }

// Next sets *m to the next message. It returns false at the end of the payload,
// and at the first message that is not as it should be.
func (r *Reader) Next(m *Message) bool {
	if len(r.rest) == 0 {
		if !r.begun {
			r.status = Empty
		}
		return false
	}
	r.begun = true
	switch r.rest[0] >> 4 {
	case formatMessage >> 4:
		r.status = r.message(m)
	case 4, 6:
		r.status = r.packet(m)
	default:
		// Even one message of an unknown format spoils the payload (draft §4):
		// its length is unknown, so what follows cannot be found either.
		r.status = UnknownFormat
	}
	if r.status != OK {
		r.rest = nil
	}
	return r.status == OK
}

func (r *Reader) message(m *Message) Status {
	if len(r.rest) < headerLen {
		return CutMessage
	}
	end := headerLen + 2*int(r.rest[1])
	if len(r.rest) < end {
		return CutMessage
	}
	*m = Message{Type: r.rest[0] & 0xf, Data: r.rest[headerLen:end:end]}
	r.rest = r.rest[end:]
	return m.check()
}

// check holds the types whose data has one form to it. A second message of a
// type is checked like the first, although nobody uses it: a sender that gets
// it wrong is not trusted with the rest.
func (m *Message) check() Status {
	switch {
	case m.Type == TypeIdentifier && len(m.Data) != len(Identifier),
		m.Type == TypeEntry && len(m.Data) != entryLen,
		m.Type == TypeHint && len(m.Data) != hintLen:
		return BadLength
	case m.Type == TypeIdentifier && string(m.Data) != Identifier:
		return BadIdentifier
	}
	return OK
}

// packet takes an embedded packet. Nothing may follow it (draft §4). The draft
// lets a receiver stop here and overlook what follows; we drop such a payload,
// because its sender breaks a MUST, and because two receivers would else read
// different things out of the same octets: the next one might go on.
func (r *Reader) packet(m *Message) Status {
	n, version, status := PacketLen(r.rest)
	if status != OK {
		return status
	}
	if len(r.rest) > n {
		return OctetsAfterPacket
	}
	*m = Message{PacketVersion: version, Packet: r.rest}
	r.rest = nil
	return OK
}

// PacketLen reads how long the IP packet at the start of b says that it is, and
// its version, 4 or 6. The status is OK, BadPacket, CutPacket when b ends
// before the packet does, UnknownFormat when it is no IP packet.
//
// An IPv6 Payload Length of 0 is taken as it stands: the payload of a datagram
// over IPv4 has no room for a jumbogram (RFC 2675).
func PacketLen(b []byte) (n int, version uint8, status Status) {
	switch {
	case len(b) == 0:
		return 0, 0, CutPacket
	case b[0]>>4 == 4:
		if len(b) < ipv4Len {
			return 0, 0, CutPacket
		}
		header := int(b[0]&0xf) * 4
		n = int(binary.BigEndian.Uint16(b[2:]))
		if header < ipv4Len || n < header {
			return 0, 0, BadPacket
		}
		version = 4
	case b[0]>>4 == 6:
		if len(b) < ipv6Len {
			return 0, 0, CutPacket
		}
		n = ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
		version = 6
	default:
		return 0, 0, UnknownFormat
	}
	if len(b) < n {
		return 0, 0, CutPacket
	}
	return n, version, OK
}

// QuotedToken returns the token in b, the beginning of a payload as an ICMP
// error quotes it: the end may be missing. The token is found when it is whole
// and nothing in front of it is wrong; senders put it first for that reason.
func QuotedToken(b []byte) (token []byte, ok bool) {
	r := NewReader(b)
	var m Message
	for r.Next(&m) {
		if m.Type == TypeToken {
			return m.Data, true
		}
	}
	return nil, false
}
