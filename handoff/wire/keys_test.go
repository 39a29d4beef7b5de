package wire

import (
	"encoding/hex"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 31, 10, 6, 28, 436754000, time.UTC)

const tokenPeriod = time.Hour

func loadKeys(t testing.TB, path string, now time.Time) *Keys {
	t.Helper()
	k, err := LoadKeys(path, now, tokenPeriod, AuthenticatorPeriod)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKeys(t testing.TB) *Keys {
	t.Helper()
	return loadKeys(t, filepath.Join(t.TempDir(), "handoff.keys"), start)
}

// countingKeys has the counting keys of the MAC vectors: a token key of epoch
// 41 and one of epoch 42, and one authenticator key.
func countingKeys() *Keys {
	set := &keySet{}
	set.token.epoch = 40
	set.token.n = 1
	set.token.push(newMACKey(countingKey(0x20)))
	set.token.push(newMACKey(countingKey(0x00)))
	set.token.n = 2
	set.authenticator.push(newMACKey(countingKey(0x20)))
	k := new(Keys)
	k.set.Store(set)
	return k
}

// rotate moves the clock on and expects a rotation.
func rotate(t testing.TB, k *Keys, now time.Time) {
	t.Helper()
	if rotated, err := k.Rotate(now); err != nil || !rotated {
		t.Fatalf("Rotate: %v, %v", rotated, err)
	}
}

func token(k *Keys) (data [MACLen]byte) {
	k.Token(server9, &data)
	return data
}

func authenticator(k *Keys) (data [MACLen]byte) {
	k.Authenticator(server9, client17, &data)
	return data
}

// TestKeyVectors: epoch in network byte order, then the MACs of openssl (see
// TestMACVectors).
func TestKeyVectors(t *testing.T) {
	k := countingKeys()
	var rotation [MACLen]byte
	if !k.RotationToken(server9, &rotation) {
		t.Fatal("no rotation token")
	}
	tok, auth := token(k), authenticator(k)
	for _, row := range []struct {
		name string
		got  []byte
		want string
	}{
		{"token", tok[:], "002a" + "36dff60ec3a08974ca549c8d3ecd19a6"},
		{"rotation", rotation[:], "0029" + "4bf629428773e6cc04cb5481dc180568"},
		{"authenticator", auth[:], "0000" + "d4603a6762b841f585947755b75c59f8"},
	} {
		if got := hex.EncodeToString(row.got); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
	if !k.CheckToken(server9, tok[:]) || !k.CheckToken(server9, rotation[:]) || !k.CheckAuthenticator(server9, client17, auth[:]) {
		t.Error("own MACs are not accepted")
	}
}

// TestCheckRefuses: every changed bit, every other length and address, and one
// kind in place of the other.
func TestCheckRefuses(t *testing.T) {
	k := newKeys(t)
	tok, auth := token(k), authenticator(k)
	for bit := range MACLen * 8 {
		bad, badAuth := tok, auth
		bad[bit/8] ^= 1 << (bit % 8)
		badAuth[bit/8] ^= 1 << (bit % 8)
		if k.CheckToken(server9, bad[:]) || k.CheckAuthenticator(server9, client17, badAuth[:]) {
			t.Errorf("bit %d changed: accepted", bit)
		}
	}
	for n := range MACLen {
		if k.CheckToken(server9, tok[:n]) || k.CheckAuthenticator(server9, client17, auth[:n]) {
			t.Errorf("%d octets: accepted", n)
		}
	}
	if k.CheckToken(server9, append(tok[:], 0, 0)) || k.CheckToken(server9, nil) {
		t.Error("longer than a token, or nil: accepted")
	}
	if k.CheckToken(nat7, tok[:]) || k.CheckAuthenticator(nat7, client17, auth[:]) {
		t.Error("of another server: accepted")
	}
	if k.CheckAuthenticator(server9, client75, auth[:]) {
		t.Error("of another client: accepted")
	}
	if k.CheckToken(server9, auth[:]) || k.CheckAuthenticator(server9, client17, tok[:]) {
		t.Error("a token passed for an authenticator, or the other way round")
	}
	other := newKeys(t)
	if other.CheckToken(server9, tok[:]) || other.CheckAuthenticator(server9, client17, auth[:]) {
		t.Error("made with another NAT64's keys: accepted")
	}
}

// TestLastEightKeys: a MAC is accepted through seven rotations, and refused
// after the eighth.
func TestLastEightKeys(t *testing.T) {
	k := newKeys(t)
	now := start
	made := [][MACLen]byte{token(k)}
	for len(made) < 20 {
		now = now.Add(tokenPeriod)
		rotate(t, k, now)
		made = append(made, token(k))
		for i := range made {
			want := len(made)-1-i < 8
			if k.CheckToken(server9, made[i][:]) != want {
				t.Fatalf("%d rotations, token of key %d: accepted is not %v", len(made)-1, i, want)
			}
		}
		var rotation [MACLen]byte
		if !k.RotationToken(server9, &rotation) || rotation != made[len(made)-2] {
			t.Fatalf("after %d rotations the rotation token is not the token before", len(made)-1)
		}
		if k.TokenEpoch() != uint16(len(made)-1) {
			t.Fatalf("epoch %d after %d rotations", k.TokenEpoch(), len(made)-1)
		}
	}
}

// TestAuthenticatorRotation: their keys have their own, longer period, and
// eight of them are accepted.
func TestAuthenticatorRotation(t *testing.T) {
	k := newKeys(t)
	now := start
	made := [][MACLen]byte{authenticator(k)}
	for len(made) < 12 {
		now = now.Add(AuthenticatorPeriod - time.Second)
		rotate(t, k, now) // the tokens'
		if authenticator(k) != made[len(made)-1] {
			t.Fatal("rotated too early")
		}
		now = now.Add(time.Second)
		rotate(t, k, now)
		made = append(made, authenticator(k))
		for i := range made {
			want := len(made)-1-i < 8
			if k.CheckAuthenticator(server9, client17, made[i][:]) != want {
				t.Fatalf("%d rotations, key %d: accepted is not %v", len(made)-1, i, want)
			}
		}
	}
}

// TestEpochWraps: behind 65535 comes 0, and keys on both sides are accepted,
// also when they come out of the file.
func TestEpochWraps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	set := newKeySet(start)
	set.token.epoch = 65533
	set.token.keys[65533%keysKept] = set.token.keys[0]
	if err := writeKeyFile(path, set); err != nil {
		t.Fatal(err)
	}
	k := loadKeys(t, path, start)
	now := start
	made := [][MACLen]byte{token(k)}
	for range 5 {
		now = now.Add(tokenPeriod)
		rotate(t, k, now)
		made = append(made, token(k))
	}
	if k.TokenEpoch() != 2 {
		t.Fatalf("epoch %d", k.TokenEpoch())
	}
	again := loadKeys(t, path, now)
	for i, m := range made {
		if !k.CheckToken(server9, m[:]) || !again.CheckToken(server9, m[:]) {
			t.Errorf("the token of epoch %d is refused", 65533+i)
		}
	}
}

// TestRotateWhenDue: neither early nor twice; after a long pause once; and a
// clock that was in the future does not stop it for long.
func TestRotateWhenDue(t *testing.T) {
	k := newKeys(t)
	var none [MACLen]byte
	if k.RotationToken(server9, &none) || none != [MACLen]byte{} {
		t.Error("a rotation token before any rotation")
	}
	for _, step := range []struct {
		name    string
		now     time.Time
		rotated bool
		epoch   uint16
	}{
		{"just before", start.Add(tokenPeriod - 1), false, 0},
		{"due", start.Add(tokenPeriod), true, 1},
		{"same moment", start.Add(tokenPeriod), false, 1},
		{"long after", start.Add(100 * tokenPeriod), true, 2},
		{"clock back by years", start.Add(-100 * 24 * time.Hour), false, 2},
		{"a period after that", start.Add(-100*24*time.Hour + tokenPeriod - 1), false, 2},
		{"then", start.Add(-100*24*time.Hour + tokenPeriod), true, 3},
	} {
		rotated, err := k.Rotate(step.now)
		if err != nil || rotated != step.rotated || k.TokenEpoch() != step.epoch {
			t.Errorf("%s: rotated %v (%v), epoch %d; want %v, %d", step.name, rotated, err, k.TokenEpoch(), step.rotated, step.epoch)
		}
	}
}

// TestKeysConcurrently: makers and checkers beside rotations, under the race
// detector. A token that was just made is good, whatever happens meanwhile.
func TestKeysConcurrently(t *testing.T) {
	k := newKeys(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var rotation [MACLen]byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				tok, auth := token(k), authenticator(k)
				if !k.CheckToken(server9, tok[:]) || !k.CheckAuthenticator(server9, client17, auth[:]) {
					// Eight rotations may have passed between making and checking.
					if k.TokenEpoch()-(uint16(tok[0])<<8|uint16(tok[1])) < keysKept {
						t.Error("a fresh token was refused")
						return
					}
				}
				k.RotationToken(server9, &rotation)
			}
		})
	}
	now := start
	for range 100 {
		now = now.Add(AuthenticatorPeriod)
		rotate(t, k, now)
	}
	close(stop)
	wg.Wait()
}
