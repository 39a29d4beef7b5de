package wire

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestCrashWhileRotating puts the disk into every state that a crash in the
// middle of a rotation can leave, and starts from there.
func TestCrashWhileRotating(t *testing.T) {
	now := start.Add(tokenPeriod)
	before := newKeys(t)
	old := token(before)
	oldText, err := os.ReadFile(before.path)
	if err != nil {
		t.Fatal(err)
	}
	rotate(t, before, now)
	rotated := token(before)
	newText, err := os.ReadFile(before.path)
	if err != nil {
		t.Fatal(err)
	}

	// Before the rename: the old file, and beside it as much of the new one as
	// had been written. Its key was never used, so it may be lost; the rotation
	// is made up for, with another key.
	for n := range len(newText) + 1 {
		path := crashed(t, oldText, newText[:n])
		k := loadKeys(t, path, now)
		if k.TokenEpoch() != 1 || token(k) == rotated || !k.CheckToken(server9, old[:]) {
			t.Fatalf("%d octets of the new file written: epoch %d, or the old token is refused", n, k.TokenEpoch())
		}
		if token(loadKeys(t, path, now)) != token(k) {
			t.Fatalf("%d octets of the new file written: the next start has other keys", n)
		}
		if _, err := os.Stat(path + newSuffix); err == nil {
			t.Fatalf("%d octets of the new file written: they are still there", n)
		}
	}

	// After the rename: the new file. Nothing is rotated twice.
	k := loadKeys(t, crashed(t, newText, nil), now)
	if token(k) != rotated || !k.CheckToken(server9, old[:]) {
		t.Error("after the rename: other keys")
	}
}

// crashed makes a key file with this text and, unless nil, an unfinished one
// beside it that anybody can read, as if made by something else.
func crashed(t *testing.T, text, unfinished []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handoff.keys")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if unfinished != nil {
		if err := os.WriteFile(path+newSuffix, unfinished, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestCrashWhileCreating: the first file was not finished, so no key of it was
// ever used.
func TestCrashWhileCreating(t *testing.T) {
	for _, n := range []int{0, 1, 100} {
		path := filepath.Join(t.TempDir(), "handoff.keys")
		if err := os.WriteFile(path+newSuffix, formatKeyFile(newKeySet(start))[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		k := loadKeys(t, path, start)
		if token(loadKeys(t, path, start)) != token(k) {
			t.Errorf("%d octets written: the next start has other keys", n)
		}
	}
}

// TestLinkInTheWay: the unfinished file's name leads elsewhere; that place is
// not written to.
func TestLinkInTheWay(t *testing.T) {
	k := newKeys(t)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("as it was"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, k.path+newSuffix); err != nil {
		t.Fatal(err)
	}
	rotate(t, k, start.Add(tokenPeriod))
	if text, _ := os.ReadFile(elsewhere); string(text) != "as it was" {
		t.Error("the keys went through the link")
	}
	info, err := os.Lstat(k.path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the key file is %v (%v)", info.Mode(), err)
	}
}

// rotatorFile names the key file to the process that is killed.
const rotatorFile = "HANDOFF64_TEST_ROTATOR"

// TestKilledWhileRotating kills a process, again and again, that rotates as fast
// as it can and prints every token it makes. None of the last 8 may be lost.
func TestKilledWhileRotating(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoff.keys")
	var epoch int // one rotation a period: the clock of both processes
	for range 15 {
		last := killRotator(t, path, epoch, 5+rand.IntN(40))
		data, err := hex.DecodeString(last)
		if err != nil || len(data) != MACLen {
			t.Fatalf("the process printed %q", last)
		}
		epoch = int(data[0])<<8 | int(data[1])
		k := loadKeys(t, path, start.Add(time.Duration(epoch)*tokenPeriod))
		if !k.CheckToken(server9, data) {
			t.Fatalf("a token of epoch %d that was handed out is refused; the file is at %d", epoch, k.TokenEpoch())
		}
		// The process may have been killed between writing and printing.
		epoch = int(k.TokenEpoch())
	}
}

// killRotator starts the process, reads that many lines, kills it and returns
// the last whole line.
func killRotator(t *testing.T, path string, epoch, lines int) (last string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRotator$")
	cmd.Env = append(os.Environ(), rotatorFile+"="+path, fmt.Sprintf("%s_EPOCH=%d", rotatorFile, epoch))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(out)
	for n := 0; scanner.Scan(); n++ {
		if len(scanner.Text()) == 2*MACLen {
			last = scanner.Text()
		}
		if n == lines {
			cmd.Process.Kill()
		}
	}
	cmd.Wait() // killed, so it returns an error
	return last
}

// TestRotator is the process that is killed; by itself it does nothing.
func TestRotator(t *testing.T) {
	path := os.Getenv(rotatorFile)
	if path == "" {
		return
	}
	var epoch int
	if _, err := fmt.Sscan(os.Getenv(rotatorFile+"_EPOCH"), &epoch); err != nil {
		t.Fatal(err)
	}
	now := start.Add(time.Duration(epoch) * tokenPeriod)
	k := loadKeys(t, path, now)
	for {
		now = now.Add(tokenPeriod)
		rotate(t, k, now)
		data := token(k)
		fmt.Printf("%x\n", data)
	}
}
