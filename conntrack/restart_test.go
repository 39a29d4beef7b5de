package conntrack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reopen closes a table and builds the next one over the same directory.
func reopen(tb testing.TB, old *fixture, c Config) (*fixture, Recovery) {
	tb.Helper()
	if old != nil {
		if err := old.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	t, r, err := New(defaults(c))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &fixture{t, tb}, r
}

// fillMixed opens n sessions of all protocols, TCP in all states.
func (f *fixture) fillMixed(n int) (all []Session) {
	f.tb.Helper()
	for i := range n {
		k, st := flow(i), StateNone
		switch i % 3 {
		case 1:
			k.Proto, st = TCP, TCPState(1+i%(tcpStates-1))
		case 2:
			k.Proto, k.ServerPort = ICMP, 0
		}
		k.Pool6 = uint8(i & 1)
		se := f.open(k, st, 1000)
		se.State = st
		all = append(all, se)
	}
	return all
}

// has checks that a session is there as it was.
func (f *fixture) has(se Session) {
	f.tb.Helper()
	v64, ok := f.get64(se.Key)
	if !ok {
		f.tb.Fatalf("session %+v is gone", se)
	}
	if v64.Mapped != se.Mapped || v64.MappedPort != se.MappedPort || v64.Delta != se.Delta64 || v64.State() != se.State || v64.Hop != 0 {
		f.tb.Fatalf("session is %+v, want %+v", v64, se)
	}
	v46, ok := f.get46(se.key46())
	if !ok || v46.Client != se.Key.Client || v46.ClientPort != se.Key.ClientPort || v46.Pool6 != se.Key.Pool6 || v46.Delta != se.Delta46 {
		f.tb.Fatalf("the way back is %+v, %v, want %+v", v46, ok, se)
	}
}

// A restart takes every session up, whatever became of the number of shards, the
// capacity and the secret.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	first, r := reopen(t, nil, Config{Dir: dir, Shards: 3, Now: 1000})
	if r != (Recovery{}) {
		t.Errorf("an empty directory recovers %+v", r)
	}
	all := first.fillMixed(2000)
	v, _ := first.get64(all[0].Key)
	v.SetHop(5)
	other := [32]byte{9}
	f := first
	for _, c := range []Config{
		{Dir: dir, Shards: 3, Now: 1001},
		{Dir: dir, Shards: 1, Now: 1002, Sessions: 2000},
		{Dir: dir, Shards: 5, Now: 1003, Secret: &other, Sessions: 50_000, AddressDependent: true},
	} {
		if f, r = reopen(t, f, c); r != (Recovery{Restored: 2000}) {
			t.Fatalf("%+v", r)
		}
		for _, se := range all {
			f.has(se)
		}
		f.check()
		if st := f.Stats(); st.Restored != 2000 || st.Created != 0 || st.Used != 2000 {
			t.Errorf("stats %+v", st)
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("left in the directory: %v, %v", names, err)
	}
}

// Lifetimes go on where they were, and what ended meanwhile is not taken up.
func TestRestartKeepsTime(t *testing.T) {
	dir := t.TempDir()
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1000})
	f.open(flow(1), StateNone, 1000)
	f.open(flow(2), StateNone, 3000)
	f.open(flow(3), StateNone, 1000)
	se := f.open(flow(4), StateNone, 1000)
	f.runTo(1000, 3600) // the timers copy what the IPv4 side stamped
	v, _ := f.get46(se.key46())
	v.Touch(3600)
	f.runTo(3600, 3990)
	f, r := reopen(t, f, Config{Dir: dir, Now: 4000})
	if r != (Recovery{Restored: 2, Dropped: 2}) {
		t.Fatalf("%+v, want the sessions of 3000 and 3600", r)
	}
	if f.expireAll(5999); f.Stats().Used != 2 {
		t.Error("a session ended before its time")
	}
	if f.expireAll(6000); f.Stats().Used != 1 {
		t.Error("the session of 3000 lived on at 6000")
	}
	if f.expireAll(6600); f.Stats().Used != 0 {
		t.Error("the session of 3600 lived on at 6600")
	}
	f.check()
}

// What is no longer ours is left out: addresses, ranges, prefixes; a mapping that
// became static is joined.
func TestRestartUnderAnotherConfiguration(t *testing.T) {
	dir := t.TempDir()
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1, Pool4: []Pool4Range{{poolAddr, 1024, 65535}, {poolAddr + 1, 1024, 65535}}})
	var all []Session
	for i := range 1000 {
		k := flow(i)
		k.Pool6 = uint8(i & 1)
		all = append(all, f.open(k, StateNone, 1))
	}
	keep := func(se Session) bool { return se.Mapped == poolAddr && se.MappedPort < 40000 && se.Key.Pool6 == 1 }
	var static Static
	want := 0
	for _, se := range all {
		if keep(se) {
			static = Static{UDP, se.Key.Client, se.Key.ClientPort, se.Mapped, se.MappedPort}
			want++
		}
	}
	f, r := reopen(t, f, Config{
		Dir: dir, Now: 2, Pool4: []Pool4Range{{poolAddr, 1024, 39999}}, Static: []Static{static},
		Pool6: []netip.Prefix{netip.MustParsePrefix("2001:db8:64::/96")},
	})
	if want < 50 || r != (Recovery{Restored: want, Dropped: 1000 - want}) {
		t.Fatalf("%+v, want %d restored", r, want)
	}
	for _, se := range all {
		if keep(se) {
			se.Key.Pool6 = 0 // renumbered
			f.has(se)
		}
	}
	joined := all[0]
	for _, se := range all {
		if se.MappedPort == static.MappedPort && keep(se) {
			joined = se
		}
	}
	joined.Key.Pool6 = 0
	if v, _ := f.get64(joined.Key); v.Origin != OriginStatic {
		t.Errorf("origin %v, want static", v.Origin)
	}
	f.check()
}

// damage is something that happened to a session file.
type damage struct {
	name  string
	do    func(b []byte) []byte
	wants string // in Recovery.Problem
}

func reseal(b []byte) []byte {
	binary.NativeEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	return b
}

func TestDamagedFilesAreDiscarded(t *testing.T) {
	dir := t.TempDir()
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1000, Sessions: 64})
	f.fillMixed(60)
	good := f.image(dir)
	set := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.NativeEndian.PutUint32(b[at:], v); return reseal(b) }
	}
	cases := []damage{
		{"empty", func([]byte) []byte { return nil }, "0 octets, less than a header"},
		{"cut in the header", func(b []byte) []byte { return b[:5000] }, "5000 octets, less than a header"},
		{"cut behind the header", func(b []byte) []byte { return b[:headerSize] }, "too few for"},
		{"cut in the slots", func(b []byte) []byte { return b[:headerSize+1000*slotSize+7] }, "too few for"},
		{"another program's", func(b []byte) []byte { copy(b, "SQLite format 3"); return reseal(b) }, "magic"},
		{"text", func(b []byte) []byte { return bytes.Repeat([]byte("nonsense"), len(b)/8) }, "magic"},
		{"a flipped bit", func(b []byte) []byte { b[30] ^= 4; return b }, "checksum"},
		{"of a later version", set(8, fileVersion+1), "version 2, not 1"},
		{"other slots", set(12, 128), "slots of 128 octets"},
		{"no slots", func(b []byte) []byte { binary.NativeEndian.PutUint64(b[16:], 0); return reseal(b) }, "too few for 0 slots"},
		{"absurd slots", func(b []byte) []byte { binary.NativeEndian.PutUint64(b[16:], 1<<62); return reseal(b) }, "too few for"},
		{"absurd prefixes", set(60, 1<<30), "pool6 prefixes, at most"},
		{"another boot", func(b []byte) []byte { b[24] ^= 1; return reseal(b) }, "another boot"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeImage(t, dir, c.do(bytes.Clone(good)))
			f, r := reopen(t, nil, Config{Dir: dir, Now: 1000, Sessions: 64})
			if r.Restored != 0 || r.Problem == nil || !strings.Contains(r.Problem.Error(), c.wants) {
				t.Errorf("%+v, want a problem with %q", r, c.wants)
			}
			f.fillMixed(60)
			if _, r = reopen(t, f, Config{Dir: dir, Now: 1000, Sessions: 64}); r != (Recovery{Restored: 60}) {
				t.Errorf("the file after it: %+v", r)
			}
		})
	}
}

// A single session whose words make no sense is left out, the others are not.
func TestDamagedSessionsAreDropped(t *testing.T) {
	dir := t.TempDir()
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1000, Sessions: 64})
	all := f.fillMixed(60)
	good := f.image(dir)
	v, _ := f.get64(all[0].Key) // of UDP
	at := headerSize + int(v.self)*slotSize
	for name, c := range map[string]struct {
		at      int
		v       uint32
		dropped int
	}{
		"UDP with a TCP state":         {at + 52, uint32(StateTrans), 1},
		"a state that is none":         {at + 52, 200, 1},
		"used in the future":           {at + 48, 1001, 1},
		"used long ago":                {at + 48, ^uint32(0) - 5000, 1},
		"TCP without a state":          {at + 40, uint32(TCP.code()), 1},
		"a prefix that is none":        {at + 40, 9<<8 | uint32(UDP.code()), 1},
		"a mapped address not in pool": {at + 36, 0x01010101, 1},
		"another's mapped port":        {at + 32, uint32(all[3].MappedPort) << 16, 1},
		"an origin that is none":       {at + 40, 9<<4 | uint32(UDP.code()), 1},
		"half-written":                 {at, 7, 0},
		"no protocol":                  {at + 40, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			img, dir := bytes.Clone(good), t.TempDir()
			binary.LittleEndian.PutUint32(img[c.at:], c.v)
			writeImage(t, dir, img)
			f, r := reopen(t, nil, Config{Dir: dir, Now: 1000, Sessions: 64})
			if name == "another's mapped port" && r.Restored == 58 {
				r.Restored, r.Dropped = r.Restored+1, r.Dropped-1 // whichever came first kept it
			}
			if r != (Recovery{Restored: 59, Dropped: c.dropped}) {
				t.Errorf("%+v, want all but one", r)
			}
			f.check()
		})
	}
}

func (f *fixture) image(dir string) []byte {
	f.tb.Helper()
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		f.tb.Fatal(err)
	}
	return b
}

func writeImage(tb testing.TB, dir string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, fileName), b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// fuzzPool is small, to be checked quickly.
var fuzzPool = []Pool4Range{{poolAddr, 1024, 1279}}

// FuzzRestore puts any octets where the slots were: the table that comes up is
// consistent, and every session it took up is one that could be.
func FuzzRestore(f *testing.F) {
	dir := f.TempDir()
	x, _ := reopen(f, nil, Config{Dir: dir, Now: 1000, Sessions: 64, Pool4: fuzzPool})
	x.fillMixed(60)
	good := x.image(dir)
	for i := range 8 {
		f.Add(uint32(i*6400), []byte{byte(i), 0xff, 2, 0, 9}, uint16(64))
		f.Add(uint32(i*640), good[headerSize+i*64:headerSize+i*64+192], uint16(64))
	}
	f.Fuzz(func(t *testing.T, at uint32, b []byte, stride uint16) {
		img := bytes.Clone(good)
		slots := img[headerSize:]
		for i := 0; i < 100 && len(b) > 0; i++ {
			copy(slots[int(at+uint32(i)*uint32(stride))%len(slots):], b)
		}
		dir := t.TempDir()
		writeImage(t, dir, img)
		y, r := reopen(t, nil, Config{Dir: dir, Now: 1000, Sessions: 64, Pool4: fuzzPool})
		if r.Problem != nil || uint64(r.Restored) != y.Stats().Used {
			t.Errorf("%+v, %d sessions", r, y.Stats().Used)
		}
		y.check()
		y.expireAll(1 << 20)
		y.check()
	})
}

func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1000})
	f.fillMixed(10)
	if _, _, err := New(defaults(Config{Dir: dir, Now: 1000})); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second table in the directory: %v", err)
	}
	if _, r := reopen(t, f, Config{Dir: dir, Now: 1000}); r.Restored != 10 {
		t.Errorf("%+v after the second table was refused", r)
	}
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := New(defaults(Config{Dir: file})); err == nil || !strings.Contains(err.Error(), "session directory") {
		t.Errorf("a file for a directory: %v", err)
	}
}
