package wire

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func seed(f *testing.F) {
	for _, g := range golden {
		f.Add(load(f, g.name))
	}
	for _, row := range append(invalidPayloads(f), invalidGroups(f)...) {
		f.Add(octets(f, row.payload))
	}
}

// referenceDecode is the format table of draft §4 written down once more, the
// plain way: all messages as copies, and whether the payload is valid.
func referenceDecode(b []byte) (messages []Message, valid bool) {
	at := 0
	for at < len(b) {
		rest := b[at:]
		var n int
		m := Message{}
		switch rest[0] / 16 {
		case 3:
			if len(rest) < 2 {
				return nil, false
			}
			n = 2 + int(rest[1]) + int(rest[1])
			m.Type = rest[0] % 16
		case 4:
			if len(rest) < 20 {
				return nil, false
			}
			n = int(rest[2])*256 + int(rest[3])
			if header := int(rest[0]%16) * 4; header < 20 || header > n {
				return nil, false
			}
			m.PacketVersion = 4
		case 6:
			if len(rest) < 40 {
				return nil, false
			}
			n = 40 + int(rest[4])*256 + int(rest[5])
			m.PacketVersion = 6
		default:
			return nil, false
		}
		if n > len(rest) || m.PacketVersion != 0 && n != len(rest) {
			return nil, false
		}
		if m.PacketVersion == 0 {
			m.Data = bytes.Clone(rest[2:n])
		} else {
			m.Packet = bytes.Clone(rest[:n])
		}
		fixed := map[uint8]int{1: 144, 7: 32, 8: 2}
		if want, ok := fixed[m.Type]; ok && m.PacketVersion == 0 && len(m.Data) != want {
			return nil, false
		}
		if m.Type == 1 && string(m.Data) != Identifier {
			return nil, false
		}
		messages = append(messages, m)
		at += n
	}
	return messages, len(messages) > 0
}

func FuzzDecode(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		var p Payload
		s := Decode(b, &p)
		if !bytes.Equal(b, before) {
			t.Fatal("the input was changed")
		}
		want, valid := referenceDecode(b)
		if (s == OK) != valid || int(s) >= NumStatus || s >= NoToken {
			t.Fatalf("%v, valid %v", s, valid)
		}
		if !valid {
			return
		}
		if (p.Packet != nil) != (p.PacketVersion != 0) {
			t.Fatalf("packet %x of version %d", p.Packet, p.PacketVersion)
		}
		for i := len(want) - 1; i >= 0; i-- { // backwards: the first is compared last
			compareMessage(t, &p, &want[i], want[:i])
		}
		if p.Has(TypeToken) != (p.Token != nil) || p.Has(TypeRotation) != (p.Rotation != nil) || p.Has(TypeAuthenticator) != (p.Authenticator != nil) {
			t.Fatal("absent and empty are confused")
		}
		if mac, ok := ValidationMAC(p.Packet); ok && len(mac) != ValidationMACLen {
			t.Fatalf("validation MAC of %d octets", len(mac))
		}
	})
}

// compareMessage holds the payload to m, unless a message of m's type is among
// those in front of it.
func compareMessage(t *testing.T, p *Payload, m *Message, front []Message) {
	t.Helper()
	if m.PacketVersion != 0 {
		if !bytes.Equal(p.Packet, m.Packet) || p.PacketVersion != m.PacketVersion {
			t.Fatalf("packet %x, want %x", p.Packet, m.Packet)
		}
		return
	}
	for _, f := range front {
		if f.Type == m.Type {
			return
		}
	}
	if !p.Has(m.Type) {
		t.Fatalf("type %d is missing", m.Type)
	}
	var got []byte
	switch m.Type {
	case TypeToken:
		got = p.Token
	case TypeRotation:
		got = p.Rotation
	case TypeAuthenticator:
		got = p.Authenticator
	case TypeEntry:
		got = AppendEntry(nil, &p.Entry)[2:]
	case TypeHint:
		got = []byte{byte(p.Hint >> 8), byte(p.Hint)}
	default:
		return
	}
	if !bytes.Equal(got, m.Data) {
		t.Fatalf("type %d: %x, want %x", m.Type, got, m.Data)
	}
}

func FuzzGroups(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		var g Groups
		s := DecodeGroups(b, &g)
		if int(s) >= NumStatus {
			t.Fatalf("status %d", s)
		}
		if s != OK {
			return
		}
		messages, valid := referenceDecode(b)
		if !valid || len(b) > 1232 {
			t.Fatalf("%d octets accepted, valid %v", len(b), valid)
		}
		count := map[uint8]int{}
		var want []member
		auth := ""
		for i, m := range messages {
			if m.PacketVersion != 0 {
				t.Fatal("a packet was accepted")
			}
			count[m.Type]++
			switch m.Type {
			case TypeAuthenticator:
				auth = string(m.Data)
				if !entryFollows(messages[i+1:]) {
					t.Fatal("an empty group was accepted")
				}
			case TypeEntry:
				var e Entry
				e.read(m.Data)
				want = append(want, member{auth, e})
			}
		}
		got := members(&g)
		if count[1] != 1 || count[4] != 1 || count[5] > 1 || count[6] == 0 || len(got) == 0 || len(got) != len(want) {
			t.Fatalf("counts %v, %d entries", count, len(got))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("entry %d: %+v, want %+v", i, got[i], want[i])
			}
		}
		if IsMultiEntry(b) != (count[6] > 1 || count[7] > 1) {
			t.Fatal("IsMultiEntry is wrong")
		}
	})
}

// entryFollows says whether an entry comes before the next authenticator.
func entryFollows(messages []Message) bool {
	for _, m := range messages {
		if m.Type == TypeEntry || m.Type == TypeAuthenticator {
			return m.Type == TypeEntry
		}
	}
	return false
}

// FuzzRoundTrip encodes what it is given and decodes it again.
func FuzzRoundTrip(f *testing.F) {
	f.Add(goldenToken, goldenRotation, goldenAuth, load(f, "message-entry")[2:], uint16(3719), load(f, "message-ipv4"))
	f.Add([]byte{}, []byte{}, []byte{}, []byte{}, uint16(0), load(f, "message-ipv6"))
	f.Add(make([]byte, 510), make([]byte, 2), make([]byte, 511), bytes.Repeat([]byte{0xff}, 32), uint16(65535), []byte{})
	f.Fuzz(func(t *testing.T, token, rotation, auth, entry []byte, hint uint16, packet []byte) {
		token, rotation, auth = opaque(token), opaque(rotation), opaque(auth)
		var e Entry
		e.read(append(bytes.Clone(entry), make([]byte, entryLen)...))
		b := AppendRotation(AppendIdentifier(AppendToken(nil, token)), rotation)
		b = AppendHint(AppendEntry(AppendAuthenticator(b, auth), &e), hint)
		front := len(b)
		b = AppendPacket(b, packet)
		var p Payload
		if s := Decode(b, &p); s != OK {
			t.Fatal(s)
		}
		if !bytes.Equal(p.Token, token) || !bytes.Equal(p.Rotation, rotation) || !bytes.Equal(p.Authenticator, auth) ||
			p.Entry != e || p.Hint != hint || !p.Has(TypeIdentifier) {
			t.Fatalf("%+v", p)
		}
		if !bytes.Equal(p.Packet, b[front:]) || !bytes.HasPrefix(packet, p.Packet) {
			t.Fatalf("packet %x of %x", p.Packet, packet)
		}

		var m MultiEntry
		m.Reset(token, rotation[:min(len(rotation), 64)])
		if !m.AddEntry(auth, &e) {
			if len(m.Bytes())+2+len(auth)+34 <= MaxMultiEntry {
				t.Fatal("an entry that fits was refused")
			}
			return
		}
		var g Groups
		if s := DecodeGroups(m.Bytes(), &g); s != OK {
			t.Fatal(s)
		}
		if got := members(&g); len(got) != 1 || got[0] != (member{string(auth), e}) {
			t.Fatalf("%+v", got)
		}
	})
}

// opaque cuts data to a length that a message can hold.
func opaque(b []byte) []byte { return b[:min(len(b), MaxData)&^1] }

// FuzzKeyFile: what is read is written back as the same keys, whatever was read;
// the sum is made right first, or nothing would get past it.
func FuzzKeyFile(f *testing.F) {
	text, err := os.ReadFile(filepath.Join("testdata", "golden.keys"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, broken := range brokenKeyFiles() {
		f.Add(broken)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		parseKeyFile(text)
		lines, _, _ := bytes.Cut(text, []byte("\nsha256 "))
		set, err := parseKeyFile(sealed(string(lines)))
		if err != nil {
			return
		}
		for _, r := range []*keyRing{&set.token, &set.authenticator} {
			if r.n < 1 || r.n > keysKept || r.rotated.IsZero() || r.at(r.epoch) == nil || r.at(r.epoch-r.n+1) == nil || r.at(r.epoch-r.n) != nil {
				t.Fatalf("%d keys, epoch %d", r.n, r.epoch)
			}
		}
		again, err := parseKeyFile(formatKeyFile(set))
		if err != nil {
			t.Fatalf("written again: %v", err)
		}
		if *again != *set {
			t.Fatal("written again: other keys")
		}
	})
}
