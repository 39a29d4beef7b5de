package wire

import (
	"bytes"
	"strings"
	"testing"
)

// Parts of payloads, for the tables below.
const (
	xToken = "34 01 abcd "
	xAuth  = "36 01 ef01 "
	xEntry = "37 10 0400 0064ff9b 00000000 00000000 20010db8 00000000 00000000 00000017 cfc2 "
	xIPv4  = "45000014 00000000 40fd0000 c6336409 c0000207 "
	xIPv6  = "60000000 00003b40 20010db8 00000000 00000000 00000017 0064ff9b 00000000 00000000 c6336409 "
)

// identifierHex is message-identifier's octets without comments.
func identifierHex(t testing.TB) string {
	return strings.ToLower(hexOf(load(t, "message-identifier")))
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, o := range b {
		s.WriteByte(digits[o>>4])
		s.WriteByte(digits[o&15])
	}
	return s.String()
}

// payloadRow is a payload and what is wrong with it.
type payloadRow struct {
	name, payload string
	want          Status
}

func invalidPayloads(t testing.TB) []payloadRow {
	id := identifierHex(t)
	return []payloadRow{
		{"nothing", "", Empty},
		{"format 0, Teredo", "00 00", UnknownFormat},
		{"format 1", "10", UnknownFormat},
		{"format 2", "20 00", UnknownFormat},
		{"format 5", "50 00", UnknownFormat},
		{"format 7", "70 00", UnknownFormat},
		{"format 15", "ff ff", UnknownFormat},
		{"unknown format behind good messages", xToken + xAuth + xEntry + "80", UnknownFormat},
		{"type without length", "34", CutMessage},
		{"length without data", "34 01", CutMessage},
		{"one octet short", "34 02 00 00 00", CutMessage},
		{"longest message cut", "34 ff " + strings.Repeat("00 ", 509), CutMessage},
		{"unknown type cut", xToken + "3f 05 00", CutMessage},
		{"identifier without data", "31 00", BadLength},
		{"identifier a unit short", "31 47" + id[4:len(id)-4], BadLength},
		{"identifier a unit long", "31 49" + id[4:] + "2020", BadLength},
		{"identifier with another text", strings.Replace(id, "4e4154", "6e6174", 1), BadIdentifier},
		{"identifier with another end", id[:len(id)-2] + "00", BadIdentifier},
		{"entry without data", "37 00", BadLength},
		{"entry a unit short", "37 0f " + strings.Repeat("00 ", 30), BadLength},
		{"entry a unit long", "37 11 " + strings.Repeat("00 ", 34), BadLength},
		{"second entry of wrong length", xEntry + "37 01 0400", BadLength},
		{"hint without data", "38 00", BadLength},
		{"hint of two units", "38 02 0400 0400", BadLength},
		{"IPv4 header cut", xToken + "45000014 00000000 40fd0000 c6336409 c00002", CutPacket},
		{"IPv4 one octet", "45", CutPacket},
		{"IPv4 payload cut", "45000015 00000000 40fd0000 c6336409 c0000207", CutPacket},
		{"IPv4 Total Length below its header", "45000013 00000000 40fd0000 c6336409 c0000207", BadPacket},
		{"IPv4 Total Length 0", "45000000 00000000 40fd0000 c6336409 c0000207", BadPacket},
		{"IPv4 header of 16 octets", "44000014 00000000 40fd0000 c6336409 c0000207", BadPacket},
		{"IPv4 options longer than the packet", "46000014 00000000 40fd0000 c6336409 c0000207", BadPacket},
		{"IPv4 with an octet behind it", xIPv4 + "00", OctetsAfterPacket},
		{"IPv4 with a message behind it", xIPv4 + xToken, OctetsAfterPacket},
		{"IPv4 with an IPv6 packet behind it", xIPv4 + xIPv6, OctetsAfterPacket},
		{"IPv6 header cut", xIPv6[:len(xIPv6)-3], CutPacket},
		{"IPv6 one octet", "60", CutPacket},
		{"IPv6 payload cut", strings.Replace(xIPv6, "00003b40", "00013b40", 1), CutPacket},
		{"IPv6 with an octet behind it", xIPv6 + "00", OctetsAfterPacket},
		{"IPv6 with a message behind it", xIPv6 + xToken, OctetsAfterPacket},
		{"IPv6 of length 0 is no jumbogram", strings.Replace(xIPv6, "00003b40", "00000040", 1) + "c204 00000008", OctetsAfterPacket},
	}
}

func TestInvalidPayloads(t *testing.T) {
	for _, row := range invalidPayloads(t) {
		var p Payload
		if s := Decode(octets(t, row.payload), &p); s != row.want {
			t.Errorf("%s: %v, want %v", row.name, s, row.want)
		}
		if IsMultiEntry(octets(t, row.payload)) {
			t.Errorf("%s: taken for a multi-entry payload", row.name)
		}
	}
}

// TestEveryCut cuts good payloads at every octet: between two messages the rest
// is good, anywhere else it is cut, and never anything worse.
func TestEveryCut(t *testing.T) {
	for _, g := range golden {
		b := load(t, g.name)
		ends := map[int]bool{}
		r := NewReader(b)
		var m Message
		for r.Next(&m) {
			ends[len(b)-len(r.rest)] = true
		}
		for n := 1; n < len(b); n++ {
			var p Payload
			s := Decode(b[:n:n], &p)
			if ends[n] != (s == OK) || s != OK && s != CutMessage && s != CutPacket {
				t.Errorf("%s cut to %d octets: %v", g.name, n, s)
			}
		}
	}
}

func invalidGroups(t testing.TB) []payloadRow {
	id := identifierHex(t)
	head := xToken + id
	return []payloadRow{
		{"nothing", "", Empty},
		{"no token", id + xAuth + xEntry, NoToken},
		{"no identifier", xToken + xAuth + xEntry, NoIdentifier},
		{"no group", head, NoContent},
		{"two tokens", head + xToken + xAuth + xEntry, Duplicate},
		{"two identifiers", head + id + xAuth + xEntry, Duplicate},
		{"two rotations", head + "35 00 35 00" + xAuth + xEntry, Duplicate},
		{"entry before its authenticator", head + xEntry + xAuth, EntryOutsideGroup},
		{"entry before the first group", head + xEntry + xAuth + xEntry, EntryOutsideGroup},
		{"authenticator without entry, then a group", head + xAuth + xAuth + xEntry, EmptyGroup},
		{"authenticator without entry at the end", head + xAuth + xEntry + xAuth, EmptyGroup},
		{"IPv4 packet", head + xAuth + xEntry + xEntry + xIPv4, PacketAmongGroups},
		{"IPv6 packet", head + xAuth + xEntry + xEntry + xIPv6, PacketAmongGroups},
		{"1234 octets", head + xAuth + strings.Repeat(xEntry, 31) + "32 0c" + strings.Repeat("00", 24), TooLong},
		{"second entry cut", head + xAuth + xEntry + xEntry[:len(xEntry)-3], CutMessage},
		{"second entry short", head + xAuth + xEntry + "37 00", BadLength},
		{"unknown format behind the groups", head + xAuth + xEntry + xEntry + "f0", UnknownFormat},
	}
}

func TestInvalidGroups(t *testing.T) {
	for _, row := range invalidGroups(t) {
		var g Groups
		if s := DecodeGroups(octets(t, row.payload), &g); s != row.want {
			t.Errorf("%s: %v, want %v", row.name, s, row.want)
		}
	}
}

// TestUnusualGroups: what looks odd but is allowed.
func TestUnusualGroups(t *testing.T) {
	id := identifierHex(t)
	for _, row := range []struct {
		name, payload string
		entries       int
	}{
		{"token and identifier last", xAuth + xEntry + xEntry + xAuth + xEntry + id + xToken, 3},
		{"token inside a group", id + xAuth + xEntry + xToken + xEntry, 2},
		{"token between authenticator and entry", id + xAuth + xToken + xEntry, 1},
		{"empty token and authenticator", id + "34 00 36 00" + xEntry + xEntry, 2},
		{"unknown types, no-ops and hints", "32 00" + xToken + "3f 00" + id + "38 01 0400" + xAuth + "33 00" + xEntry + "38 01 0400" + xEntry, 2},
		{"1232 octets", xToken + id + xAuth + strings.Repeat(xEntry, 31) + "32 0b" + strings.Repeat("00", 22), 31},
	} {
		b := octets(t, row.payload)
		var g Groups
		if s := DecodeGroups(b, &g); s != OK {
			t.Errorf("%s: %v", row.name, s)
			continue
		}
		if n := len(members(&g)); n != row.entries {
			t.Errorf("%s: %d entries, want %d", row.name, n, row.entries)
		}
		if IsMultiEntry(b) != (row.entries > 1) {
			t.Errorf("%s: IsMultiEntry is wrong", row.name)
		}
	}
}

// TestForms: what draft §5 and §6 ask for, message by message.
func TestForms(t *testing.T) {
	id := identifierHex(t)
	for _, row := range []struct {
		name, payload string
		toServer      Status
		form          Form
		toNAT64       Status
	}{
		{"token alone", xToken, NoContent, FormNone, NoContent},
		{"entry alone", xEntry, NoToken, FormNone, NoAuthenticator},
		{"token and entry", xToken + xEntry, NoAuthenticator, FormNone, NoAuthenticator},
		{"entry without identifier", xToken + xAuth + xEntry, NoIdentifier, FormEntry, OK},
		{"any order", xEntry + xAuth + id + xToken, OK, FormEntry, OK},
		{"IPv6 without authenticator", xToken + xIPv6, NoAuthenticator, FormNone, NoAuthenticator},
		{"IPv6 with authenticator", xToken + xAuth + xIPv6, OK, FormIPv6, OK},
		{"IPv4 alone", xIPv4, NoToken, FormNone, NoToken},
		{"IPv4 with authenticator only", xAuth + xIPv4, NoToken, FormNone, NoToken},
		{"IPv4 with both", xToken + xAuth + xIPv4, OK, FormIPv4, OK},
		{"everything", xToken + id + xAuth + xEntry + xIPv4, OK, FormEntry, OK},
		{"rotation and hint alone", "35 00 38 01 0400", NoToken, FormNone, NoContent},
		{"no-op whose data looks like a packet", xToken + "32 01 4500", NoContent, FormNone, NoContent},
	} {
		var p Payload
		if s := Decode(octets(t, row.payload), &p); s != OK {
			t.Errorf("%s: Decode: %v", row.name, s)
			continue
		}
		if s := p.ToServer(); s != row.toServer {
			t.Errorf("%s: ToServer: %v, want %v", row.name, s, row.toServer)
		}
		if form, s := p.ToNAT64(); form != row.form || s != row.toNAT64 {
			t.Errorf("%s: ToNAT64: %d, %v, want %d, %v", row.name, form, s, row.form, row.toNAT64)
		}
	}
}

// TestFirstOfEachType: a receiver may pick one of several (draft §4); we pick
// the first.
func TestFirstOfEachType(t *testing.T) {
	first := "34 01 1111  35 01 2222  36 01 3333  38 01 0401 " + xEntry
	second := "34 01 aaaa  35 00  36 02 bbbbcccc  38 01 ffff  37 10 " + strings.Repeat("ff ", 32)
	var once, twice Payload
	if s := Decode(octets(t, first+second), &twice); s != OK {
		t.Fatal(s)
	}
	if s := Decode(octets(t, first), &once); s != OK {
		t.Fatal(s)
	}
	if !bytes.Equal(once.Token, twice.Token) || !bytes.Equal(once.Rotation, twice.Rotation) ||
		!bytes.Equal(once.Authenticator, twice.Authenticator) || once.Hint != twice.Hint || once.Entry != twice.Entry {
		t.Errorf("%+v, want %+v", twice, once)
	}
	// An empty first one counts, too.
	if s := Decode(octets(t, "34 00 34 01 1111"), &once); s != OK || once.Token == nil || len(once.Token) != 0 {
		t.Errorf("%v: token %x, want the empty one", s, once.Token)
	}
}

// TestDecodeForgets: a Payload used again keeps nothing.
func TestDecodeForgets(t *testing.T) {
	var p Payload
	Decode(load(t, "to-server-ipv6"), &p)
	if s := Decode(octets(t, "32 00"), &p); s != OK {
		t.Fatal(s)
	}
	if p.Token != nil || p.Authenticator != nil || p.Packet != nil || p.PacketVersion != 0 || p.Hint != 0 || p.has != 1<<TypeNoOp {
		t.Errorf("left over: %+v", p)
	}
}

// TestStatuses: each status has a row of its own, and something provokes it.
func TestStatuses(t *testing.T) {
	provoked := map[Status]bool{OK: true, NoAuthenticator: true} // TestForms
	for _, row := range append(invalidPayloads(t), invalidGroups(t)...) {
		provoked[row.want] = true
	}
	names := map[string]bool{}
	for s := range Status(NumStatus) {
		if s.String() == "" || s.Meaning() == "" || !strings.HasPrefix(s.Section(), "§") || names[s.String()] {
			t.Errorf("status %d: row %q, %q, %q", s, s, s.Meaning(), s.Section())
		}
		names[s.String()] = true
		if !provoked[s] {
			t.Errorf("no test provokes %v", s)
		}
	}
	if s := Status(NumStatus); s.String() != "unknown" || s.Meaning() != "" || s.Section() != "" {
		t.Errorf("a status without a row: %q, %q, %q", s, s.Meaning(), s.Section())
	}
}

func TestQuotedToken(t *testing.T) {
	b := load(t, "to-server-entry")
	for n := range b {
		token, ok := QuotedToken(b[:n])
		if want := n >= 20; ok != want || want && !bytes.Equal(token, goldenToken) {
			t.Errorf("in the first %d octets: %x, %v", n, token, ok)
		}
	}
	for _, none := range []string{"", xAuth + xEntry, "00 " + xToken, xIPv4 + xToken} {
		if token, ok := QuotedToken(octets(t, none)); ok {
			t.Errorf("%q: token %x", none, token)
		}
	}
}

// TestReaderStaysAtFault: whoever goes on asking gets nothing more, and the
// status stays.
func TestReaderStaysAtFault(t *testing.T) {
	for _, row := range invalidPayloads(t) {
		r := NewReader(octets(t, row.payload))
		var m Message
		for r.Next(&m) {
		}
		if r.Next(&m) || r.Status() != row.want {
			t.Errorf("%s: went on behind the fault, %v", row.name, r.Status())
		}
	}
}
