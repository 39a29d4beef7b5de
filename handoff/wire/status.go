package wire

// Status says whether a payload is as the specification wants it, and else what
// the first thing wrong with it is. The zero value is OK. Every other status
// means that the whole payload is to be dropped and counted under it.
type Status uint8

// The first group is about octets, whoever sent them; the second about which
// messages a payload holds; the third about the multi-entry format.
const (
	OK Status = iota
	Empty
	UnknownFormat
	CutMessage
	CutPacket
	BadPacket
	OctetsAfterPacket
	BadLength
	BadIdentifier

	NoToken
	NoAuthenticator
	NoIdentifier
	NoContent

	TooLong
	Duplicate
	PacketAmongGroups
	EntryOutsideGroup
	EmptyGroup
)

// statusRows is read only. One row for each Status, held complete by a test.
var statusRows = [...]struct{ name, meaning, section string }{
	OK:                {"ok", "the payload is valid", "§4"},
	Empty:             {"empty", "the payload holds no message", "§4"},
	UnknownFormat:     {"unknown_format", "a message begins with a nibble other than 3, 4 and 6", "§4"},
	CutMessage:        {"cut_message", "a message ends behind the payload", "§4"},
	CutPacket:         {"cut_packet", "an embedded packet ends behind the payload", "§4"},
	BadPacket:         {"bad_packet", "an embedded IPv4 packet's lengths contradict each other", "§4"},
	OctetsAfterPacket: {"octets_after_packet", "something follows the embedded packet, which must be last", "§4"},
	BadLength:         {"bad_length", "an identifier, entry or hint is not as long as its type is", "§4"},
	BadIdentifier:     {"bad_identifier", "the protocol identifier is another text", "§4"},

	NoToken:         {"no_token", "there is no token", "§5, §6, §7"},
	NoAuthenticator: {"no_authenticator", "an entry or IPv6 packet has no authenticator beside it", "§5, §6"},
	NoIdentifier:    {"no_identifier", "an entry for the server has no protocol identifier beside it", "§5, §7"},
	NoContent:       {"no_content", "there is neither an entry nor a packet", "§5, §6, §7"},

	TooLong:           {"too_long", "a multi-entry payload has more than 1232 octets", "§7"},
	Duplicate:         {"duplicate", "a multi-entry payload has a second identifier, token or rotation", "§7"},
	PacketAmongGroups: {"packet_among_groups", "a multi-entry payload holds a packet", "§7"},
	EntryOutsideGroup: {"entry_outside_group", "an entry stands in front of the first authenticator", "§7"},
	EmptyGroup:        {"empty_group", "an authenticator is followed by no entry", "§7"},
}

// NumStatus is the number of Status values, for tables indexed by them.
const NumStatus = len(statusRows)

// String is the status's name as counters show it.
func (s Status) String() string {
	if int(s) < NumStatus {
		return statusRows[s].name
	}
	return "unknown"
}

// Meaning is a sentence for the operator.
func (s Status) Meaning() string {
	if int(s) < NumStatus {
		return statusRows[s].meaning
	}
	return ""
}

// Section says where in the draft the rule stands that the payload broke.
func (s Status) Section() string {
	if int(s) < NumStatus {
		return statusRows[s].section
	}
	return ""
}
