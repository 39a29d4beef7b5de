package wire

import (
	"bytes"
	"strings"
	"testing"
)

func TestAppendPacket(t *testing.T) {
	front := []byte{0x34, 0}
	v4, v6 := octets(t, xIPv4), octets(t, xIPv6)
	for _, row := range []struct {
		name         string
		packet, want []byte
	}{
		{"IPv4", v4, v4},
		{"IPv6", v6, v6},
		{"IPv4 padded to 46 octets", append(bytes.Clone(v4), make([]byte, 26)...), v4},
		{"IPv6 with octets behind it", append(bytes.Clone(v6), 1, 2, 3), v6},
		{"IPv4 cut", v4[:19], nil},
		{"IPv6 cut", v6[:39], nil},
		{"nothing", nil, nil},
		{"ARP", []byte{0, 1, 8, 0, 6, 4}, nil},
	} {
		got := AppendPacket(bytes.Clone(front), row.packet)
		if want := append(bytes.Clone(front), row.want...); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", row.name, got, want)
		}
	}
}

func TestAppendLongest(t *testing.T) {
	data := bytes.Repeat([]byte{0xab}, MaxData)
	b := AppendToken(nil, data)
	if want := octets(t, "34 ff "+strings.Repeat("ab", 510)); !bytes.Equal(b, want) {
		t.Errorf("%x", b)
	}
	var p Payload
	if s := Decode(b, &p); s != OK || !bytes.Equal(p.Token, data) {
		t.Errorf("%v, token of %d octets", s, len(p.Token))
	}
}

// TestAppendImpossible: data that no message can hold is a bug of the caller.
func TestAppendImpossible(t *testing.T) {
	for _, n := range []int{1, 17, 511, 512} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d octets: no panic", n)
				}
			}()
			AppendAuthenticator(nil, make([]byte, n))
		}()
	}
}

// TestMultiEntryFull: one client's entries until the payload is full; an entry
// that does not fit leaves it as it was, and Reset empties it.
func TestMultiEntryFull(t *testing.T) {
	var m MultiEntry
	m.Reset(goldenToken, nil)
	e := goldenEntry
	n := 0
	for ; m.AddEntry(goldenAuth, &e); n++ {
		e.MappedPort++
	}
	// 20 for the token, 146 for the identifier, 20 for the authenticator.
	if want := (1232 - 20 - 146 - 20) / 34; n != want || m.Entries() != n {
		t.Errorf("%d entries fit (%d counted), want %d", n, m.Entries(), want)
	}
	full := bytes.Clone(m.Bytes())
	if m.AddEntry(goldenAuth2, &e) || !bytes.Equal(full, m.Bytes()) {
		t.Error("a full payload changed")
	}
	var g Groups
	if s := DecodeGroups(m.Bytes(), &g); s != OK || len(members(&g)) != n {
		t.Errorf("the full payload: %v", s)
	}
	m.Reset(goldenToken, nil)
	if m.Entries() != 0 || !m.AddEntry(goldenAuth, &goldenEntry) || !bytes.Equal(m.Bytes(), load(t, "to-server-entry")) {
		t.Error("after Reset something is left of what was there before")
	}
}

// TestMultiEntryRoom fills payloads to the octet: what ends exactly at 1232
// octets fits, two octets more do not, in the open group and in a new one.
func TestMultiEntryRoom(t *testing.T) {
	const entry, group = 34, 2 + 34
	for _, row := range []struct {
		name    string
		room    int // octets left for the last entry
		newAuth bool
		fits    bool
	}{
		{"open group", entry, false, true},
		{"open group, short", entry - 2, false, false},
		{"new group", group + 18, true, true},
		{"new group, short", group + 16, true, false},
	} {
		var m MultiEntry
		// The longest token, and a rotation that leaves just that room behind
		// the identifier and a first entry.
		pad := MaxMultiEntry - row.room - (2 + 510) - 2 - 146 - (2 + 18) - entry
		m.Reset(make([]byte, 510), make([]byte, pad))
		first := goldenAuth
		if !m.AddEntry(first, &goldenEntry) || len(m.Bytes()) != MaxMultiEntry-row.room {
			t.Fatalf("%s: %d octets before the last entry", row.name, len(m.Bytes()))
		}
		auth := first
		if row.newAuth {
			auth = goldenAuth2
		}
		if got := m.AddEntry(auth, &goldenEntryB); got != row.fits {
			t.Errorf("%s: fits: %v, want %v", row.name, got, row.fits)
		}
		if row.fits && len(m.Bytes()) != MaxMultiEntry {
			t.Errorf("%s: %d octets", row.name, len(m.Bytes()))
		}
	}
}

// TestMultiEntryEmptyAuthenticator: an authenticator of no octets is one, too.
func TestMultiEntryEmptyAuthenticator(t *testing.T) {
	var m MultiEntry
	m.Reset(nil, nil)
	m.AddEntry(nil, &goldenEntry)
	m.AddEntry([]byte{}, &goldenEntryB)
	var g Groups
	if s := DecodeGroups(m.Bytes(), &g); s != OK {
		t.Fatal(s)
	}
	if got := members(&g); len(got) != 2 || got[0] != (member{"", goldenEntry}) || got[1] != (member{"", goldenEntryB}) {
		t.Errorf("%+v", got)
	}
	if len(m.Bytes()) != 2+146+2+2*34 {
		t.Errorf("%d octets: the second entry opened a new group", len(m.Bytes()))
	}
}
