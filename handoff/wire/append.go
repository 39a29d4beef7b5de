package wire

import (
	"encoding/binary"
	"fmt"
)

// The Append functions put one message behind dst, as append does, and do not
// allocate when dst has the room. By convention the token goes first, so that
// the short quote in an ICMP error still holds it; a packet must go last.

// AppendIdentifier appends the protocol identifier, type 1.
func AppendIdentifier(dst []byte) []byte {
	dst = append(dst, formatMessage|TypeIdentifier, uint8(len(Identifier)/2))
	return append(dst, Identifier...)
}

// AppendToken appends a token, type 4: an even number of octets, at most 510.
func AppendToken(dst, data []byte) []byte { return appendMessage(dst, TypeToken, data) }

// AppendRotation appends a token rotation, type 5: the token as the key before
// computed it.
func AppendRotation(dst, data []byte) []byte { return appendMessage(dst, TypeRotation, data) }

// AppendAuthenticator appends a remote IPv6 address authenticator, type 6.
func AppendAuthenticator(dst, data []byte) []byte {
	return appendMessage(dst, TypeAuthenticator, data)
}

// appendMessage appends a message whose data is opaque. Such data is our own
// MAC or came out of Decode, so a length that no message can have is a bug here.
func appendMessage(dst []byte, t uint8, data []byte) []byte {
	if len(data)%2 != 0 || len(data) > MaxData {
		panic(fmt.Sprintf("wire: a message of type %d cannot hold %d octets", t, len(data)))
	}
	dst = append(dst, formatMessage|t, uint8(len(data)/2))
	return append(dst, data...)
}

// AppendEntry appends a connection tracking entry, type 7.
func AppendEntry(dst []byte, e *Entry) []byte {
	dst = append(dst, formatMessage|TypeEntry, entryLen/2)
	dst = binary.BigEndian.AppendUint16(dst, e.MappedPort)
	dst = append(dst, e.Prefix[:]...)
	dst = append(dst, e.Client[:]...)
	return binary.BigEndian.AppendUint16(dst, e.ClientPort)
}

// AppendHint appends a mapped port hint, type 8.
func AppendHint(dst []byte, port uint16) []byte {
	dst = append(dst, formatMessage|TypeHint, hintLen/2)
	return binary.BigEndian.AppendUint16(dst, port)
}

// AppendPacket appends an IPv4 or IPv6 packet, which must be the payload's last
// message. Octets behind the packet's own end, such as Ethernet padding, are
// left out. What is no whole IP packet is not appended at all, because the
// receiver would drop everything for it: dst comes back as it was.
func AppendPacket(dst, packet []byte) []byte {
	n, _, status := PacketLen(packet)
	if status != OK {
		return dst
	}
	return append(dst, packet[:n]...)
}
