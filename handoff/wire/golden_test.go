package wire

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// octets reads hexadecimal digits with white space between them; # begins a
// comment. The vectors in testdata were written from the draft, not by Append.
func octets(t testing.TB, text string) []byte {
	t.Helper()
	var b []byte
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		more, err := hex.DecodeString(strings.Join(strings.Fields(line), ""))
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		b = append(b, more...)
	}
	return b
}

func load(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	return octets(t, string(text))
}

// What the vectors hold, apart from their octets.
var (
	goldenToken    = []byte{0, 42, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf}
	goldenRotation = []byte{0, 41, 0xb0, 0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf}
	goldenAuth     = []byte{0, 1, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xcb, 0xcc, 0xcd, 0xce, 0xcf}
	goldenAuth2    = []byte{0, 1, 0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xef}
	goldenMAC      = [16]byte{0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf}

	wellKnown = [12]byte{0x00, 0x64, 0xff, 0x9b}
	client17  = [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0x17}
	client75  = [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 0x75}

	goldenEntry  = Entry{MappedPort: 3719, Prefix: wellKnown, Client: client17, ClientPort: 53186}
	goldenEntryB = Entry{MappedPort: 47102, Prefix: wellKnown, Client: client17, ClientPort: 65535}
	goldenEntry2 = Entry{MappedPort: 1024, Prefix: [12]byte{0x20, 0x01, 0x0d, 0xb8, 0x00, 0x64}, Client: client75, ClientPort: 33131}
)

func bits(types ...uint8) (has uint16) {
	for _, t := range types {
		has |= 1 << t
	}
	return has
}

// golden is a vector: what Decode makes of it, and what makes it. Packets are
// taken from the message-ipv4 kind of vectors or, when pkt is set, are the
// vector's last octets.
var golden = []struct {
	name     string
	want     Payload
	pkt      int // octets of embedded packet
	toServer Status
	toNAT64  Form
	encode   func(packet []byte) []byte
}{
	{"message-identifier", Payload{has: bits(1)}, 0, NoToken, FormNone, func([]byte) []byte { return AppendIdentifier(nil) }},
	{"message-no-op", Payload{has: bits(2)}, 0, NoToken, FormNone, nil},
	{"message-invalid", Payload{has: bits(3)}, 0, NoToken, FormNone, nil},
	{"message-reserved", Payload{has: bits(0, 9, 10, 11, 12, 13, 14, 15)}, 0, NoToken, FormNone, nil},
	{"message-token", Payload{has: bits(4), Token: goldenToken}, 0, NoContent, FormNone,
		func([]byte) []byte { return AppendToken(nil, goldenToken) }},
	{"message-token-empty", Payload{has: bits(4), Token: []byte{}}, 0, NoContent, FormNone,
		func([]byte) []byte { return AppendToken(nil, nil) }},
	{"message-rotation", Payload{has: bits(5), Rotation: goldenRotation}, 0, NoToken, FormNone,
		func([]byte) []byte { return AppendRotation(nil, goldenRotation) }},
	{"message-authenticator", Payload{has: bits(6), Authenticator: goldenAuth}, 0, NoToken, FormNone,
		func([]byte) []byte { return AppendAuthenticator(nil, goldenAuth) }},
	{"message-entry", Payload{has: bits(7), Entry: goldenEntry}, 0, NoToken, FormNone,
		func([]byte) []byte { return AppendEntry(nil, &goldenEntry) }},
	{"message-hint", Payload{has: bits(8), Hint: 3719}, 0, NoToken, FormNone,
		func([]byte) []byte { return AppendHint(nil, 3719) }},
	{"message-ipv4", Payload{PacketVersion: 4}, 30, NoToken, FormNone,
		func(p []byte) []byte { return AppendPacket(nil, p) }},
	{"message-ipv6", Payload{PacketVersion: 6}, 50, NoToken, FormNone,
		func(p []byte) []byte { return AppendPacket(nil, p) }},

	{"to-server-entry", Payload{has: bits(4, 1, 6, 7), Token: goldenToken, Authenticator: goldenAuth, Entry: goldenEntry}, 0, OK, FormEntry,
		func([]byte) []byte {
			return AppendEntry(AppendAuthenticator(AppendIdentifier(AppendToken(nil, goldenToken)), goldenAuth), &goldenEntry)
		}},
	{"to-server-entry-rotation", Payload{has: bits(4, 5, 1, 6, 7), Token: goldenToken, Rotation: goldenRotation, Authenticator: goldenAuth, Entry: goldenEntry}, 0, OK, FormEntry,
		func([]byte) []byte {
			b := AppendIdentifier(AppendRotation(AppendToken(nil, goldenToken), goldenRotation))
			return AppendEntry(AppendAuthenticator(b, goldenAuth), &goldenEntry)
		}},
	{"to-server-ipv4", Payload{has: bits(4), Token: goldenToken, PacketVersion: 4}, 30, OK, FormIPv4,
		func(p []byte) []byte { return AppendPacket(AppendToken(nil, goldenToken), p) }},
	{"to-server-ipv6", Payload{has: bits(4, 6, 8), Token: goldenToken, Authenticator: goldenAuth, Hint: 3719, PacketVersion: 6}, 50, OK, FormIPv6,
		func(p []byte) []byte {
			return AppendPacket(AppendHint(AppendAuthenticator(AppendToken(nil, goldenToken), goldenAuth), 3719), p)
		}},
	{"to-server-entry-ipv6", Payload{has: bits(4, 1, 6, 7), Token: goldenToken, Authenticator: goldenAuth, Entry: goldenEntry, PacketVersion: 6}, 50, OK, FormEntry,
		func(p []byte) []byte {
			b := AppendAuthenticator(AppendIdentifier(AppendToken(nil, goldenToken)), goldenAuth)
			return AppendPacket(AppendEntry(b, &goldenEntry), p)
		}},

	{"to-nat64-a-before", Payload{has: bits(4), Token: goldenToken, PacketVersion: 4}, 30, OK, FormIPv4,
		func(p []byte) []byte { return AppendPacket(AppendToken(nil, goldenToken), p) }},
	{"to-nat64-a-after", Payload{has: bits(4), Token: goldenToken, PacketVersion: 4}, 30, OK, FormIPv4,
		func(p []byte) []byte { return AppendPacket(AppendToken(nil, goldenToken), p) }},
	{"to-nat64-b", Payload{has: bits(6), Authenticator: goldenAuth, PacketVersion: 6}, 50, NoToken, FormIPv6,
		func(p []byte) []byte { return AppendPacket(AppendAuthenticator(nil, goldenAuth), p) }},
	{"to-nat64-c", Payload{has: bits(6, 7), Authenticator: goldenAuth, Entry: goldenEntry}, 0, NoToken, FormEntry,
		func([]byte) []byte { return AppendEntry(AppendAuthenticator(nil, goldenAuth), &goldenEntry) }},
	{"to-nat64-c-ipv4", Payload{has: bits(6, 7), Authenticator: goldenAuth, Entry: goldenEntry, PacketVersion: 4}, 30, NoToken, FormEntry,
		func(p []byte) []byte {
			return AppendPacket(AppendEntry(AppendAuthenticator(nil, goldenAuth), &goldenEntry), p)
		}},
	{"to-nat64-c-ipv6", Payload{has: bits(6, 7), Authenticator: goldenAuth, Entry: goldenEntry, PacketVersion: 6}, 50, NoToken, FormEntry,
		func(p []byte) []byte {
			return AppendPacket(AppendEntry(AppendAuthenticator(nil, goldenAuth), &goldenEntry), p)
		}},

	// Decode takes the first of each type; TestGoldenGroups reads all.
	{"multi-one-group", Payload{has: bits(4, 1, 6, 7), Token: goldenToken, Authenticator: goldenAuth, Entry: goldenEntry}, 0, OK, FormEntry, nil},
	{"multi-two-groups", Payload{has: bits(4, 5, 1, 6, 7), Token: goldenToken, Rotation: goldenRotation, Authenticator: goldenAuth, Entry: goldenEntry}, 0, OK, FormEntry, nil},

	{"validation", Payload{has: bits(6), Authenticator: goldenAuth, PacketVersion: 6}, 56, NoToken, FormIPv6,
		func([]byte) []byte { return AppendValidation(nil, TypeAuthenticator, goldenAuth, &goldenMAC) }},
	{"validation-token", Payload{has: bits(4), Token: goldenToken, PacketVersion: 6}, 56, NoAuthenticator, FormNone,
		func([]byte) []byte { return AppendValidation(nil, TypeToken, goldenToken, &goldenMAC) }},
	{"validation-returned", Payload{has: bits(4), Token: goldenToken, PacketVersion: 4}, 104, OK, FormIPv4,
		func(p []byte) []byte { return AppendPacket(AppendToken(nil, goldenToken), p) }},
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			b := load(t, g.name)
			want := g.want
			if g.pkt > 0 {
				want.Packet = b[len(b)-g.pkt:]
			}
			var p Payload
			if s := Decode(b, &p); s != OK {
				t.Fatalf("Decode: %v", s)
			}
			if !reflect.DeepEqual(p, want) {
				t.Errorf("decoded\n%+v, want\n%+v", p, want)
			}
			if s := p.ToServer(); s != g.toServer {
				t.Errorf("ToServer: %v, want %v", s, g.toServer)
			}
			if form, s := p.ToNAT64(); form != g.toNAT64 || (s == OK) != (form != FormNone) {
				t.Errorf("ToNAT64: form %d (%v), want %d", form, s, g.toNAT64)
			}
			if g.encode == nil {
				return
			}
			if e := g.encode(p.Packet); !bytes.Equal(e, b) {
				t.Errorf("encoded\n%x, want\n%x", e, b)
			}
		})
	}
}

// TestGoldenFiles fails for a vector that nobody compares.
func TestGoldenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) != len(golden) {
		t.Errorf("%d vectors in testdata, %d in the table (%v)", len(files), len(golden), err)
	}
}

func TestIdentifierLength(t *testing.T) {
	if len(Identifier) != 144 {
		t.Errorf("%d octets, the draft says 144", len(Identifier))
	}
}

// member is one entry with the authenticator of its group.
type member struct {
	auth  string
	entry Entry
}

func members(g *Groups) (all []member) {
	var e Entry
	for {
		auth, ok := g.Next(&e)
		if !ok {
			return all
		}
		all = append(all, member{string(auth), e})
	}
}

func TestGoldenGroups(t *testing.T) {
	one := member{string(goldenAuth), goldenEntry}
	for _, row := range []struct {
		name     string
		rotation []byte
		multi    bool
		want     []member
	}{
		{"to-server-entry", nil, false, []member{one}},
		{"to-server-entry-rotation", goldenRotation, false, []member{one}},
		{"multi-one-group", nil, true, []member{one, {string(goldenAuth), goldenEntryB}}},
		{"multi-two-groups", goldenRotation, true, []member{one, {string(goldenAuth), goldenEntryB}, {string(goldenAuth2), goldenEntry2}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := load(t, row.name)
			if IsMultiEntry(b) != row.multi {
				t.Errorf("IsMultiEntry: %v", !row.multi)
			}
			var g Groups
			if s := DecodeGroups(b, &g); s != OK {
				t.Fatalf("DecodeGroups: %v", s)
			}
			if !bytes.Equal(g.Token, goldenToken) || !bytes.Equal(g.Rotation, row.rotation) {
				t.Errorf("token %x, rotation %x", g.Token, g.Rotation)
			}
			if got := members(&g); !reflect.DeepEqual(got, row.want) {
				t.Errorf("groups %+v, want %+v", got, row.want)
			}
			var m MultiEntry
			m.Reset(goldenToken, row.rotation)
			for _, w := range row.want {
				if !m.AddEntry([]byte(w.auth), &w.entry) {
					t.Fatal("AddEntry: no room")
				}
			}
			if !bytes.Equal(m.Bytes(), b) || m.Entries() != len(row.want) {
				t.Errorf("built\n%x of %d entries, want\n%x", m.Bytes(), m.Entries(), b)
			}
		})
	}
}
