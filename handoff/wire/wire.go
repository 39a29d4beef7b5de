// Package wire is the NAT64 handoff protocol as octets: messages, payloads, and
// the MACs that stand in for state (draft-dupont-6man-nat64handoff-00 §4–§7, §9).
//
//	UDP payload ─ Reader ─→ Message, Message, …      any sequence of messages
//	            ─ Decode ─→ Payload                  at most one of each type (§5, §6)
//	            ─ DecodeGroups ─→ Groups ─ Next ─→   many entries, grouped by client (§7)
//
//	Append… ─→ UDP payload        MultiEntry ─→ UDP payload of at most 1232 octets
//
//	Keys          tokens and authenticators, made and checked by the NAT64
//	ValidationKey what a server asks an unknown NAT64 to send back (§9)
//
// What is decoded are slices of the input; nothing is copied, and neither
// decoding nor encoding nor a MAC allocates. The package imports nothing of the
// project's and keeps no state but the keys.
package wire

import "encoding/binary"

// Port is the server's UDP port unless configured otherwise. IANA never
// assigned one (draft §13), so both ends of this project default to it.
const Port = 64064

// MaxMultiEntry is the most octets of UDP payload that a multi-entry payload
// may have (draft §7).
const MaxMultiEntry = 1232

// MaxData is the most octets of data that a message can hold, and so the
// longest token or authenticator (draft §4).
const MaxData = 510

// Message types (draft §4). 0 and 9–15 are reserved and skipped.
const (
	TypeIdentifier    = 1
	TypeNoOp          = 2
	TypeInvalid       = 3
	TypeToken         = 4
	TypeRotation      = 5
	TypeAuthenticator = 6
	TypeEntry         = 7
	TypeHint          = 8
)

// Identifier is the data of a type 1 message, 144 octets. It is in the clear so
// that whoever captures packets on an IPv4-only server reads what they mean.
const Identifier = "[[ This is the NAT64 handoff protocol. The client is using " +
	"IPv6. To know their real IP address you need to use this " +
	"protocol or support IPv6. ]]"

const (
	// headerLen is what stands in front of a message's data: format and type,
	// then the length in units of 16 bits.
	headerLen = 2
	// formatMessage is the first nibble of a handoff message, in place.
	formatMessage = 0x30
	entryLen      = 32
	hintLen       = 2
)

// Entry is a connection tracking entry, type 7. It names no protocol: one
// mapped port serves TCP and UDP. Nor does it name an IPv4 address: the mapped
// port is one of the address that the NAT64 speaks from. A plain value without
// pointers, so that it can cross rings and be a key.
type Entry struct {
	MappedPort uint16
	// Prefix is the NAT64 prefix, a /96.
	Prefix     [12]byte
	Client     [16]byte
	ClientPort uint16
}

// read takes the entry from the data of a type 7 message.
func (e *Entry) read(data []byte) {
	_ = data[entryLen-1]
	e.MappedPort = binary.BigEndian.Uint16(data)
	copy(e.Prefix[:], data[2:14])
	copy(e.Client[:], data[14:30])
	e.ClientPort = binary.BigEndian.Uint16(data[30:])
}
