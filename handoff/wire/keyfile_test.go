package wire

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sealed puts the sum behind the lines of a key file.
func sealed(lines ...string) []byte {
	text := strings.Join(lines, "\n") + "\n"
	return fmt.Appendf(nil, "%ssha256 %x\n", text, sha256.Sum256([]byte(text)))
}

var (
	digits0 = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	digits2 = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"

	goodKeyFile = []string{
		"handoff64 keys 1",
		"token rotated 2026-01-31T10:06:28.436754Z",
		"token 41 " + digits2,
		"token 42 " + digits0,
		"authenticator rotated 2026-01-02T03:04:05Z",
		"authenticator 0 " + digits2,
	}
)

// TestKeyFileVector reads a file written by hand, makes the tokens that openssl
// computes from its keys, and writes the same octets again.
func TestKeyFileVector(t *testing.T) {
	path := filepath.Join("testdata", "golden.keys")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set, err := parseKeyFile(text)
	if err != nil {
		t.Fatal(err)
	}
	k := new(Keys)
	k.set.Store(set)
	want := countingKeys()
	if token(k) != token(want) || authenticator(k) != authenticator(want) {
		t.Error("other tokens than with the same keys")
	}
	if !set.token.rotated.Equal(start) {
		t.Errorf("rotated at %v", set.token.rotated)
	}
	if got := formatKeyFile(set); string(got) != string(text) {
		t.Errorf("written again:\n%s", got)
	}
}

func TestKeyFileCreated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lib", "nat64d", "handoff.keys")
	k := loadKeys(t, path, start)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again := loadKeys(t, path, start.Add(time.Second))
	if token(again) != token(k) || authenticator(again) != authenticator(k) {
		t.Error("a restart made other tokens")
	}
	if left, _ := filepath.Glob(path + "?*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestRestartKeepsRotationTime: with a restart every ten minutes the hourly
// rotation comes on the hour.
func TestRestartKeepsRotationTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	for minutes := 0; minutes <= 300; minutes += 10 {
		k := loadKeys(t, path, start.Add(time.Duration(minutes)*time.Minute))
		if want := uint16(minutes / 60); k.TokenEpoch() != want {
			t.Fatalf("after %d minutes: epoch %d, want %d", minutes, k.TokenEpoch(), want)
		}
	}
}

// TestRotationAtLoad: what came due while nothing ran is one rotation, and the
// tokens from before are good.
func TestRotationAtLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	old := token(loadKeys(t, path, start))
	k := loadKeys(t, path, start.Add(50*tokenPeriod))
	var rotation [MACLen]byte
	if token(k) == old || !k.CheckToken(server9, old[:]) || !k.RotationToken(server9, &rotation) || rotation != old {
		t.Error("the token in use before the pause is not the expired one")
	}
}

// TestRotationIsOnDisk: whenever Rotate returns, another process would make the
// same tokens.
func TestRotationIsOnDisk(t *testing.T) {
	k := newKeys(t)
	now := start
	for range 20 {
		now = now.Add(tokenPeriod)
		rotate(t, k, now)
		if token(loadKeys(t, k.path, now)) != token(k) {
			t.Fatal("the file has other keys than those in use")
		}
	}
}

// TestRotationNotWritten: when the file cannot be written nothing changes, the
// error names the file, and a later attempt succeeds.
func TestRotationNotWritten(t *testing.T) {
	k := newKeys(t)
	old := token(k)
	// A folder with something in it is in the way of the new file: even root
	// cannot remove it like a file.
	blocked := k.path + newSuffix
	if err := os.MkdirAll(filepath.Join(blocked, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	now := start.Add(tokenPeriod)
	rotated, err := k.Rotate(now)
	if rotated || err == nil || !strings.Contains(err.Error(), k.path) {
		t.Fatalf("Rotate: %v, %v", rotated, err)
	}
	if token(k) != old {
		t.Error("a key is in use that is not on the disk")
	}
	if rotated, err := k.Rotate(now.Add(time.Second)); rotated || err != nil {
		t.Errorf("one second later: %v, %v; want silence", rotated, err)
	}
	if _, err := k.Rotate(now.Add(retryAfter)); err == nil {
		t.Error("no second attempt")
	}
	if err := os.RemoveAll(blocked); err != nil {
		t.Fatal(err)
	}
	rotate(t, k, now.Add(2*retryAfter))
	if token(k) == old || !k.CheckToken(server9, old[:]) {
		t.Error("after the rotation")
	}
}

// TestRotationNotRenamed: the same when the last step fails.
func TestRotationNotRenamed(t *testing.T) {
	k := newKeys(t)
	old := token(k)
	if err := os.Remove(k.path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(k.path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Rotate(start.Add(tokenPeriod)); err == nil || token(k) != old {
		t.Errorf("Rotate: %v, or another key is in use", err)
	}
}

// TestKeyFileNotCreated: without a file there are no keys to begin with.
func TestKeyFileNotCreated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	if err := os.MkdirAll(filepath.Join(path+newSuffix, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(path, start, tokenPeriod, AuthenticatorPeriod); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("LoadKeys: %v", err)
	}
}

func TestKeyFileReadableByOthers(t *testing.T) {
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o644, 0o660, 0o601, 0o610} {
		k := newKeys(t)
		if err := os.Chmod(k.path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKeys(k.path, start, tokenPeriod, AuthenticatorPeriod)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%04o", mode)) || !strings.Contains(err.Error(), k.path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	k := newKeys(t)
	if err := os.Chmod(k.path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeys(k.path, start, tokenPeriod, AuthenticatorPeriod); err != nil {
		t.Errorf("mode 0400: %v", err)
	}
}

// TestKeyFileIsNoFile: a folder and a named pipe are refused without waiting.
func TestKeyFileIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, err := LoadKeys(path, start, tokenPeriod, AuthenticatorPeriod); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := LoadKeys(filepath.Join(pipe, "keys"), start, tokenPeriod, AuthenticatorPeriod); err == nil {
		t.Error("a pipe as the folder: no error")
	}
}

func TestLoadKeysPeriods(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	if _, err := LoadKeys(path, start, 0, AuthenticatorPeriod); err == nil {
		t.Error("a period of 0 for tokens")
	}
	if _, err := LoadKeys(path, start, tokenPeriod, -time.Second); err == nil {
		t.Error("a negative period for authenticators")
	}
}

// brokenKeyFiles are files with a right sum that say something impossible.
func brokenKeyFiles() map[string][]byte {
	edit := func(line int, with ...string) []byte {
		lines := append([]string{}, goodKeyFile[:line]...)
		lines = append(lines, with...)
		return sealed(append(lines, goodKeyFile[line+1:]...)...)
	}
	var nine []string
	for i := range 9 {
		nine = append(nine, fmt.Sprintf("token %d %s", i, digits0))
	}
	return map[string][]byte{
		`line 1 is not "handoff64 keys 1"`:                edit(0, "handoff64 keys 2"),
		"line 2: time of rotation":                        edit(1, "token rotated yesterday"),
		"line 3: a second time of rotation":               edit(2, goodKeyFile[1]),
		"line 3: 2 words in place of 3":                   edit(2, "token 41"),
		"line 3: 4 words in place of 3":                   edit(2, goodKeyFile[2]+" "),
		"line 3: epoch":                                   edit(2, "token 65536 "+digits0),
		"line 3: key of 62 digits in place of 64":         edit(2, "token 41 "+digits0[2:]),
		"line 3: key: not hexadecimal digits":             edit(2, "token 41 "+strings.Repeat("xy", 32)),
		"line 4: epoch 43 behind 41: they go up by one":   edit(3, "token 43 "+digits0),
		"line 4: neither a token nor an authenticator":    edit(3, "cookie 42 "+digits0),
		"line 11: more than 8 keys":                       edit(2, nine...),
		"token keys: there are none":                      sealed(goodKeyFile[0], goodKeyFile[1], goodKeyFile[4], goodKeyFile[5]),
		"authenticator keys: there are none":              sealed(goodKeyFile[:5]...),
		"token keys: the time of their rotation is":       sealed(append([]string{goodKeyFile[0]}, goodKeyFile[2:]...)...),
		"authenticator keys: the time of their rotation":  sealed(append(append([]string{}, goodKeyFile[:4]...), goodKeyFile[5])...),
		"the sha256 sum of the file is not what it says":  append(sealed(goodKeyFile...), "\n"...),
		"it ends in the middle of a line":                 []byte(goodKeyFile[0]),
		"line 2: the sha256 sum of the file is not what ": []byte(goodKeyFile[0] + "\n\n"),
	}
}

// TestKeyFileBroken: the error names the file, says what is wrong and never
// prints a key; the file is left as it is.
func TestKeyFileBroken(t *testing.T) {
	if _, err := parseKeyFile(sealed(goodKeyFile...)); err != nil {
		t.Fatalf("the good file: %v", err)
	}
	for want, text := range brokenKeyFiles() {
		path := filepath.Join(t.TempDir(), "handoff.keys")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKeys(path, start, tokenPeriod, AuthenticatorPeriod)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v, want %q", err, want)
			continue
		}
		if strings.Contains(err.Error(), digits0[2:]) || strings.Contains(err.Error(), digits2) {
			t.Errorf("a key in the error: %v", err)
		}
		if after, _ := os.ReadFile(path); string(after) != string(text) {
			t.Errorf("%s: the file was changed", want)
		}
	}
}

// TestKeyFileDamaged: a file cut at any octet, or with any octet changed, is
// refused.
func TestKeyFileDamaged(t *testing.T) {
	text := sealed(goodKeyFile...)
	for n := range text {
		if _, err := parseKeyFile(text[:n]); err == nil {
			t.Errorf("cut to %d octets: accepted", n)
		}
		bad := append([]byte{}, text...)
		bad[n] ^= 4
		if _, err := parseKeyFile(bad); err == nil {
			t.Errorf("octet %d changed: accepted", n)
		}
	}
}
