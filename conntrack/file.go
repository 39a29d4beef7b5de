package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The session file is the 64 slots of all shards behind a header, mapped
// shared: what workers write to their table is at once what a restart finds,
// also after kill -9. All else is rebuilt from it. One file for all shards, so
// that one rename replaces the whole set.
//
//	  0  magic "NAT64SES"
//	  8  version 32 | slot size 32
//	 16  slots 64
//	 24  boot id, 36 octets of text
//	 60  number of pool6 prefixes 32
//	 64  prefixes: address 16 octets, length 8 bits
//	...  zeros
//	8188 CRC-32C of all before it
//
// Numbers are in the machine's byte order, as in the slots: a file never
// leaves its machine, not even its boot.
const (
	fileName    = "sessions"
	fileNext    = "sessions.new" // being filled; never read
	fileMagic   = "NAT64SES"
	fileVersion = 1
	headerSize  = 8192
	bootIDSize  = 36
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrInUse says that another process works on the directory's session file.
var ErrInUse = errors.New("the session table is in use by another process")

// sessionFile is the file that the present table lies in. The lock on its
// directory lasts as long as it is open.
type sessionFile struct {
	dir   *os.File // locked
	path  string
	mem   region
	slots []slot
	head  header
}

// header is the first part of a session file, decoded.
type header struct {
	slots int
	boot  string
	pool6 []netip.Prefix
}

// createSessionFile locks the directory and makes a new file beside the old
// one, which stays in place until commit.
func createSessionFile(c *Config, slotsPerShard int) (*sessionFile, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	f := &sessionFile{path: filepath.Join(c.Dir, fileName), head: header{c.Shards * slotsPerShard, boot, c.Pool6}}
	if err := f.lock(c.Dir); err != nil {
		return nil, err
	}
	if err := f.create(filepath.Join(c.Dir, fileNext)); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *sessionFile) lock(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("session directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("session directory: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return fmt.Errorf("lock session directory %s: %w", dir, err)
	}
	f.dir = d
	return nil
}

// create makes and maps the new file. Its memory is reserved here: running out
// of it later would be a SIGBUS in the middle of a packet.
func (f *sessionFile) create(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove unfinished session file: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create session file: %w", err)
	}
	defer file.Close() // the mapping keeps the memory
	size, err := fileSize(file, f.head.slots)
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(size)); err != nil {
		return fmt.Errorf("reserve %d MiB for session file %s (fewer sessions, or a bigger file system, would do): %w", size>>20, path, err)
	}
	if f.mem, err = mapFile(int(file.Fd()), size, true); err != nil {
		return err
	}
	f.slots = overlay[slot](f.mem, headerSize, f.head.slots)
	f.head.encode(f.mem.mem[:headerSize])
	return nil
}

// fileSize rounds up to the pages of the file system: huge ones on hugetlbfs.
func fileSize(file *os.File, slots int) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("look at the file system of %s: %w", file.Name(), err)
	}
	page := os.Getpagesize()
	if fs.Type == unix.HUGETLBFS_MAGIC {
		page = int(fs.Bsize)
	}
	return roundUp(headerSize+sizeOf[slot](slots), page), nil
}

// commit puts the new file in the old one's place.
func (f *sessionFile) commit() error {
	next := strings.TrimSuffix(f.path, fileName) + fileNext
	if err := os.Rename(next, f.path); err != nil {
		return fmt.Errorf("put the new session file in place: %w", err)
	}
	return nil
}

// close unmaps and unlocks; the file stays.
func (f *sessionFile) close() error {
	err := f.mem.unmap()
	if f.dir != nil {
		err = errors.Join(err, f.dir.Close())
	}
	return err
}

func (h *header) encode(b []byte) {
	n := binary.NativeEndian
	copy(b, fileMagic)
	n.PutUint32(b[8:], fileVersion)
	n.PutUint32(b[12:], slotSize)
	n.PutUint64(b[16:], uint64(h.slots))
	copy(b[24:24+bootIDSize], h.boot)
	n.PutUint32(b[60:], uint32(len(h.pool6)))
	for i, p := range h.pool6 {
		a := p.Addr().As16()
		copy(b[64+17*i:], a[:])
		b[64+17*i+16] = byte(p.Bits())
	}
	n.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
}

// decodeHeader checks the header of a file of the given size.
func decodeHeader(b []byte, size int64) (h header, err error) {
	n := binary.NativeEndian
	switch {
	case len(b) < headerSize:
		return h, fmt.Errorf("%d octets, less than a header", len(b))
	case string(b[:8]) != fileMagic:
		return h, fmt.Errorf("magic %q is not %q", b[:8], fileMagic)
	case n.Uint32(b[headerSize-4:]) != crc32.Checksum(b[:headerSize-4], castagnoli):
		return h, errors.New("the header's checksum is wrong")
	case n.Uint32(b[8:]) != fileVersion:
		return h, fmt.Errorf("version %d, not %d", n.Uint32(b[8:]), fileVersion)
	case n.Uint32(b[12:]) != slotSize:
		return h, fmt.Errorf("slots of %d octets, not %d", n.Uint32(b[12:]), slotSize)
	}
	slots, prefixes := n.Uint64(b[16:]), n.Uint32(b[60:])
	if slots == 0 || slots > uint64(size-headerSize)/slotSize {
		return h, fmt.Errorf("%d octets are too few for %d slots", size, slots)
	}
	if prefixes > maxPool6 {
		return h, fmt.Errorf("%d pool6 prefixes, at most %d", prefixes, maxPool6)
	}
	h.slots, h.boot = int(slots), string(b[24:24+bootIDSize])
	for i := range int(prefixes) {
		at := b[64+17*i:]
		a := netip.AddrFrom16([16]byte(at[:16]))
		h.pool6 = append(h.pool6, netip.PrefixFrom(a, int(at[16])))
	}
	return h, nil
}

// bootID names this boot of the machine: ticks count from it.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if len(id) != bootIDSize {
		return "", fmt.Errorf("boot id %q does not have %d characters", id, bootIDSize)
	}
	return id, nil
}
