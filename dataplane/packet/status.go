package packet

// statusRow names a status and the section that the rule behind it stands in.
type statusRow struct{ name, section string }

// statusRows is read only. One row for each Status, held complete by a test.
var statusRows = [...]statusRow{
	Good:               {"good", ""},
	Truncated:          {"truncated", "RFC 791 §3.1, RFC 8200 §3"},
	BadVersion:         {"bad-version", "RFC 791 §3.1, RFC 8200 §3"},
	BadHeaderLength:    {"bad-header-length", "RFC 791 §3.1, RFC 9293 §3.1, RFC 768"},
	BadHeaderChecksum:  {"bad-header-checksum", "RFC 1812 §5.2.2"},
	SourceRoute:        {"source-route", "RFC 7915 §4.1"},
	SegmentsLeft:       {"segments-left", "RFC 7915 §5.1"},
	BadExtensionHeader: {"bad-extension-header", "RFC 8200 §4"},
	BadFragment:        {"bad-fragment", "RFC 791 §3.2, RFC 8200 §4.5"},
	TooManyHeaders:     {"too-many-headers", "RFC 8883 §3.1"},
	MisplacedHopByHop:  {"misplaced-hop-by-hop", "RFC 8200 §4.1"},
	TinyFragment:       {"tiny-fragment", "RFC 1858 §3, RFC 7112 §5"},
	LongFragment:       {"long-fragment", "RFC 791 §3.1, RFC 8200 §4.5"},
}

// NumStatus is the number of Status values, for tables indexed by them.
const NumStatus = len(statusRows)

// String is the status's name as counters show it.
func (s Status) String() string {
	if int(s) < len(statusRows) {
		return statusRows[s].name
	}
	return "unknown"
}

// Section says where the rule stands that the packet broke.
func (s Status) Section() string {
	if int(s) < len(statusRows) {
		return statusRows[s].section
	}
	return ""
}
