package server

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"
)

// tempStore opens a new table on disk.
func tempStore(t testing.TB) (*store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), tableName)
	s, err := openStore(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return s, path
}

// sameTables holds two tables against each other, but for the order of use.
func sameTables(t *testing.T, a, b *table) {
	t.Helper()
	selfcheck(t, b)
	all := func(tb *table) (rows []Row) {
		for _, k := range tb.keys(Filter{}) {
			rows = tb.rows(k, Filter{}, rows)
		}
		return rows
	}
	if x, y := all(a), all(b); !slices.Equal(x, y) {
		t.Fatalf("%d entries written, %d read, or not the same", len(x), len(y))
	}
	for k, c := range a.channels {
		d := b.channels[k]
		if d == nil || c.port != d.port || c.knownAs != d.knownAs || !bytes.Equal(c.token, d.token) {
			t.Fatalf("%v: written %+v, read %+v", k, c, d)
		}
		for addr, i := range c.clientIndex {
			j := d.clientIndex[addr]
			if c.clients[i].id != d.clients[j].id || !bytes.Equal(c.clients[i].auth, d.clients[j].auth) {
				t.Fatalf("client %v: written %+v, read %+v", netip6(addr), c.clients[i], d.clients[j])
			}
		}
	}
	if a.nextID < b.nextID {
		t.Fatalf("the next number is %d, after reading %d", a.nextID, b.nextID)
	}
}

// TestStoreKeepsTheTable plays random traffic and reads it back after every step
// that a restart may follow.
func TestStoreKeepsTheTable(t *testing.T) {
	st, path := tempStore(t)
	x := newHarness(t, 40, &fakeSockets{})
	random := seeded()
	apply := func() {
		if err := st.apply([]*batch{&x.out}, nil); err != nil {
			t.Fatal(err)
		}
	}
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	apply()
	for n := range 600 {
		client := addr6{0: 0x20, 15: byte(random.IntN(20))}
		p := notification(uint16(5000+random.IntN(60)), client, uint16(1+random.IntN(9)))
		if n%3 == 0 {
			p = query(client, uint16(1+random.IntN(9)), 0)
		}
		p.auth = []byte{byte(random.IntN(3)), 1}
		if n%50 == 7 {
			p.rotation, p.token = x.channel().token, []byte{byte(n), 2}
		} else {
			p.token = x.channel().token
		}
		o, _ := x.ask(p)
		if o.refused() {
			t.Fatalf("step %d: %v", n, o)
		}
		apply()
		if n%100 != 99 {
			continue
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if st, err = openStore(path, n%200 == 99); err != nil {
			t.Fatal(err)
		}
		back := newTable(40, serverPort, noSockets{}, seeded())
		if err := st.load(back); err != nil {
			t.Fatal(err)
		}
		sameTables(t, x.h.table, back)
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		if st, err = openStore(path, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedStore: what contradicts itself is refused, naming the record.
func TestDamagedStore(t *testing.T) {
	for name, damage := range map[string]struct {
		bucket bucket
		f      func(b *bbolt.Bucket) error
	}{
		"short channel":     {bucketChannels, func(b *bbolt.Bucket) error { return b.Put([]byte("k"), []byte("v")) }},
		"lost channel":      {bucketChannels, func(b *bbolt.Bucket) error { return deleteFirst(b) }},
		"short client":      {bucketClients, func(b *bbolt.Bucket) error { return b.Put([]byte("12345678"), []byte("v")) }},
		"lost client":       {bucketClients, func(b *bbolt.Bucket) error { return deleteFirst(b) }},
		"client twice":      {bucketClients, func(b *bbolt.Bucket) error { return copyFirst(b) }},
		"short entry":       {bucketEntries, func(b *bbolt.Bucket) error { return b.Put([]byte("12345678"), []byte("v")) }},
		"lost entry":        {bucketEntries, func(b *bbolt.Bucket) error { return deleteFirst(b) }},
		"entry twice":       {bucketEntries, func(b *bbolt.Bucket) error { return copyFirst(b) }},
		"short entry's key": {bucketEntries, func(b *bbolt.Bucket) error { return b.Put([]byte("k"), make([]byte, entryValueLen)) }},
	} {
		st, _ := tempStore(t)
		x := newAuthenticated(t, 40, noSockets{})
		channel := x.out.changes
		if err := st.apply([]*batch{{changes: channel}}, nil); err != nil {
			t.Fatal(err)
		}
		x.want(notification(3719, clientAddr, 53186), notified)
		if err := st.apply([]*batch{&x.out}, nil); err != nil {
			t.Fatal(err)
		}
		if err := st.load(newTable(40, serverPort, noSockets{}, seeded())); err != nil {
			t.Fatalf("%s: before the damage: %v", name, err)
		}
		err := st.db.Update(func(tx *bbolt.Tx) error { return damage.f(tx.Bucket(bucketNames[damage.bucket])) })
		if err != nil {
			t.Fatal(err)
		}
		if err := st.load(newTable(40, serverPort, noSockets{}, seeded())); !errors.Is(err, errStore) {
			t.Errorf("%s: %v", name, err)
		}
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
	}
}

func deleteFirst(b *bbolt.Bucket) error {
	k, _ := b.Cursor().First()
	return b.Delete(k)
}

func copyFirst(b *bbolt.Bucket) error {
	_, v := b.Cursor().First()
	return b.Put([]byte("zzzzzzzz"), bytes.Clone(v))
}

func TestStoreLockedAndForeign(t *testing.T) {
	st, path := tempStore(t)
	if _, err := openStore(path, false); !errors.Is(err, errLocked) {
		t.Errorf("a second server: %v", err)
	}
	if err := st.setMeta(metaVersion, []byte{9}); err != nil {
		t.Fatal(err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openStore(path, false); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a later version: %v", err)
	}
	if _, err := openStore(filepath.Join(t.TempDir(), "none"), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no table: %v", err)
	}
	if _, err := decodePending([]byte("short")); !errors.Is(err, errStore) {
		t.Errorf("short pending lines: %v", err)
	}
}

// logWith writes a log file and opens it.
func logWith(t *testing.T, content string) (*logFile, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), logName)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(path, "text", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	return l, path
}

// TestLogRecovery: a crash may leave any part of the last lines.
func TestLogRecovery(t *testing.T) {
	const old, lines = "2019-03-18 10:06:28.436754 Initialized 192.0.2.7\n", "line one\nline two\n"
	for cut := range len(lines) + 1 {
		l, path := logWith(t, old+lines[:cut])
		p := &pending{device: l.device, inode: l.inode, offset: int64(len(old)), lines: []byte(lines)}
		if err := l.recover(p); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != old+lines {
			t.Errorf("cut at %d: %q, %v", cut, got, err)
		}
	}
	for name, c := range map[string]struct {
		there, want string
		change      func(p *pending)
	}{
		"nothing pending":   {"half a li", "half a li\n", func(p *pending) { p.lines = nil }},
		"another file":      {"new", "new\n" + lines, func(p *pending) { p.inode++ }},
		"another device":    {"", lines, func(p *pending) { p.device++ }},
		"truncated":         {"x\n", "x\n" + lines, func(p *pending) { p.offset = 40 }},
		"others wrote":      {"foreign\n", "foreign\n" + lines, func(*pending) {}},
		"zeros after crash": {"line\x00\x00", "line\x00\x00\n" + lines, func(*pending) {}},
		"more behind":       {lines + "more\n", lines + "more\n", func(*pending) {}},
	} {
		l, path := logWith(t, c.there)
		p := &pending{device: l.device, inode: l.inode, lines: []byte(lines)}
		c.change(p)
		back, err := decodePending(p.encode())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.recover(back); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, want %q (%v)", name, got, c.want, err)
		}
	}
}

// TestLogSizeIsKnown: the offset that pending lines are stored with is right
// after any number of writes and a rotation.
func TestLogSizeIsKnown(t *testing.T) {
	l, path := logWith(t, "0123456789")
	for range 3 {
		if err := l.write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
	}
	if p := l.pending([]byte("next\n")); p.offset != 25 {
		t.Fatalf("offset %d", p.offset)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.write([]byte("new\n")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "new\n" || l.pending(nil).offset != 4 {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestLogToStdout(t *testing.T) {
	var out bytes.Buffer
	l, err := openLog("-", "json", &out)
	if err != nil {
		t.Fatal(err)
	}
	e := Event{Kind: Initialized, NAT64: nat64Addr, Server: ownAddr}
	if err := l.write(l.format(nil, []Event{e})); err != nil || l.pending([]byte("x")) != nil {
		t.Fatal(err)
	}
	if want := `{"time":"1970-01-01T00:00:00.000000Z","event":"Initialized","nat64":"192.0.2.7","server":"198.51.100.1"}` + "\n"; out.String() != want {
		t.Fatalf("%s", out.String())
	}
	for _, err := range []error{l.recover(nil), l.reopen(), l.close()} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := openLog("-", "xml", &out); !errors.Is(err, errLogFormat) {
		t.Error(err)
	}
}
