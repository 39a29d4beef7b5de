package wire

import (
	"maps"
	"slices"
	"testing"
)

// hot is what runs once for each payload or packet. Each returns whether it did
// what it is measured for.
func hot(t testing.TB) map[string]func() bool {
	full := load(t, "to-server-ipv6")
	multi := load(t, "multi-two-groups")
	back := returned(t)
	k := newKeys(t)
	tok, auth := token(k), authenticator(k)
	v := NewValidationKey()
	var (
		p    Payload
		g    Groups
		e    Entry
		m    MultiEntry
		data [MACLen]byte
		mac  [ValidationMACLen]byte
		buf  = make([]byte, 0, 2048)
	)
	v.MAC(start, goldenToken, nat7, natPort, &mac)
	return map[string]func() bool{
		"Decode":             func() bool { return Decode(full, &p) == OK && p.ToServer() == OK },
		"IsMultiEntry":       func() bool { return IsMultiEntry(multi) },
		"QuotedToken":        func() bool { _, ok := QuotedToken(multi); return ok },
		"ValidationMAC":      func() bool { _, ok := ValidationMAC(back); return ok },
		"Token":              func() bool { k.Token(server9, &data); return true },
		"RotationToken":      func() bool { return !k.RotationToken(server9, &data) },
		"Authenticator":      func() bool { k.Authenticator(server9, client17, &data); return true },
		"CheckToken":         func() bool { return k.CheckToken(server9, tok[:]) },
		"CheckAuthenticator": func() bool { return k.CheckAuthenticator(server9, client17, auth[:]) },
		"Rotate/not due":     func() bool { r, err := k.Rotate(start); return !r && err == nil },
		"Validation/MAC":     func() bool { v.MAC(start, goldenToken, nat7, natPort, &mac); return true },
		"Validation/Check":   func() bool { return v.Check(start, goldenToken, nat7, natPort, mac[:]) },
		"DecodeGroups": func() bool {
			n := 0
			if DecodeGroups(multi, &g) != OK {
				return false
			}
			for _, ok := g.Next(&e); ok; _, ok = g.Next(&e) {
				n++
			}
			return n == 3
		},
		"Append": func() bool {
			b := AppendIdentifier(AppendRotation(AppendToken(buf, tok[:]), tok[:]))
			b = AppendHint(AppendEntry(AppendAuthenticator(b, auth[:]), &goldenEntry), 3719)
			b = AppendPacket(b, back)
			return &b[0] == &buf[:1][0]
		},
		"AppendValidation": func() bool {
			return len(AppendValidation(buf, TypeAuthenticator, auth[:], &mac)) == 76
		},
		"MultiEntry": func() bool {
			m.Reset(tok[:], nil)
			for m.AddEntry(auth[:], &goldenEntry) {
			}
			return m.Entries() == 30
		},
	}
}

func TestNoAllocation(t *testing.T) {
	for name, f := range hot(t) {
		if !f() {
			t.Errorf("%s: not the expected result", name)
		}
		if n := testing.AllocsPerRun(100, func() { f() }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkWire(b *testing.B) {
	all := hot(b)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
}

// BenchmarkKeysParallel: makers do not wait for each other.
func BenchmarkKeysParallel(b *testing.B) {
	k := newKeys(b)
	b.RunParallel(func(pb *testing.PB) {
		var data [MACLen]byte
		for pb.Next() {
			k.Authenticator(server9, client17, &data)
			if !k.CheckAuthenticator(server9, client17, data[:]) {
				b.Error("refused")
			}
		}
	})
}
