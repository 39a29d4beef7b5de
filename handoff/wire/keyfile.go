package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The key file is text, so that an operator sees what it is:
//
//	handoff64 keys 1
//	token rotated 2026-01-31T10:06:28.436754Z
//	token 41 <64 hexadecimal digits>              oldest key first, at most 8,
//	token 42 …                                    epochs in a row
//	authenticator rotated 2026-01-02T03:04:05Z
//	authenticator 0 …
//	sha256 <64 hexadecimal digits>                of all lines above
//
// It is replaced as a whole: written beside the old one, flushed to the disk,
// renamed over it, and the folder flushed. A crash leaves the old file or the
// new one, and perhaps the unfinished one beside it, which the next write
// removes and nobody reads.
const (
	keyFileHeader = "handoff64 keys 1"
	newSuffix     = ".new"
	// keyFileMax is far more than a key file can have; it keeps a wrong path
	// from being read into memory.
	keyFileMax = 16 << 10
)

// readKeyFile reads and checks the file. fs.ErrNotExist is in the error if there
// is none.
func readKeyFile(path string) (*keySet, error) {
	// Non-blocking, so that opening a named pipe returns and can be refused.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s: not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("key file %s: mode %04o lets others read the keys, and whoever has read them can forge tokens: remove it to get new keys, or, if nobody has, chmod 600 %s", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, keyFileMax))
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	set, err := parseKeyFile(text)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w; restore it, or remove it to get new keys, upon which servers validate this NAT64 anew", path, err)
	}
	return set, nil
}

// writeKeyFile replaces the file. When it returns nil, the new file survives a
// power failure.
func writeKeyFile(path string, set *keySet) error {
	if err := makeFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	if err := writeWhole(path+newSuffix, formatKeyFile(set)); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	if err := os.Rename(path+newSuffix, path); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return nil
}

// makeFolder makes the folder of the key file if it is missing.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(dir))
}

// writeWhole writes a file that only the owner can read and flushes it. What a
// crash left under this name is removed first, so that neither its mode nor its
// octets, nor a link, are taken over.
func writeWhole(path string, text []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func formatKeyFile(set *keySet) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, keyFileHeader)
	set.token.format(&b, "token")
	set.authenticator.format(&b, "authenticator")
	fmt.Fprintf(&b, "sha256 %x\n", sha256.Sum256(b.Bytes()))
	return b.Bytes()
}

func (r *keyRing) format(b *bytes.Buffer, name string) {
	fmt.Fprintf(b, "%s rotated %s\n", name, r.rotated.Format(time.RFC3339Nano))
	for age := r.n; age > 0; age-- {
		epoch := r.epoch - (age - 1)
		fmt.Fprintf(b, "%s %d %x\n", name, epoch, r.at(epoch).secret)
	}
}

func parseKeyFile(text []byte) (*keySet, error) {
	lines := strings.Split(string(text), "\n")
	if lines[0] != keyFileHeader {
		return nil, fmt.Errorf("line 1 is not %q", keyFileHeader)
	}
	// The last line is empty, the one before it the sum: a file that was cut
	// off anywhere has none, or a wrong one.
	last := len(lines) - 2
	if last < 1 || lines[last+1] != "" {
		return nil, errors.New("it ends in the middle of a line")
	}
	body := len(text) - len(lines[last]) - 1
	if lines[last] != fmt.Sprintf("sha256 %x", sha256.Sum256(text[:body])) {
		return nil, fmt.Errorf("line %d: the sha256 sum of the file is not what it says", last+1)
	}
	set := new(keySet)
	for i, line := range lines[1:last] {
		if err := set.parseLine(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
	}
	if err := set.token.complete(); err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	if err := set.authenticator.complete(); err != nil {
		return nil, fmt.Errorf("authenticator keys: %w", err)
	}
	return set, nil
}

// parseLine takes a line of three words: ring, epoch or "rotated", value.
func (s *keySet) parseLine(line string) error {
	words := strings.Split(line, " ")
	if len(words) != 3 {
		return fmt.Errorf("%d words in place of 3", len(words))
	}
	var r *keyRing
	switch words[0] {
	case "token":
		r = &s.token
	case "authenticator":
		r = &s.authenticator
	default:
		return errors.New("neither a token nor an authenticator key")
	}
	if words[1] == "rotated" {
		return r.parseTime(words[2])
	}
	return r.parseKey(words[1], words[2])
}

func (r *keyRing) parseTime(word string) error {
	t, err := time.Parse(time.RFC3339Nano, word)
	if err != nil {
		return fmt.Errorf("time of rotation: %w", err)
	}
	if !r.rotated.IsZero() {
		return errors.New("a second time of rotation")
	}
	r.rotated = wallClock(t)
	return nil
}

// parseKey leaves the key's digits out of its errors: they go to logs.
func (r *keyRing) parseKey(epochWord, keyWord string) error {
	epoch, err := strconv.ParseUint(epochWord, 10, 16)
	if err != nil {
		return fmt.Errorf("epoch: %w", err)
	}
	if r.n == keysKept {
		return fmt.Errorf("more than %d keys", keysKept)
	}
	if r.n > 0 && uint16(epoch) != r.epoch+1 {
		return fmt.Errorf("epoch %d behind %d: they go up by one", epoch, r.epoch)
	}
	var secret [keyLen]byte
	if len(keyWord) != hex.EncodedLen(keyLen) {
		return fmt.Errorf("key of %d digits in place of %d", len(keyWord), hex.EncodedLen(keyLen))
	}
	if _, err := hex.Decode(secret[:], []byte(keyWord)); err != nil {
		return errors.New("key: not hexadecimal digits")
	}
	if r.n == 0 {
		r.epoch = uint16(epoch)
	}
	r.push(newMACKey(secret))
	return nil
}

func (r *keyRing) complete() error {
	switch {
	case r.n == 0:
		return errors.New("there are none")
	case r.rotated.IsZero():
		return errors.New("the time of their rotation is missing")
	}
	return nil
}
