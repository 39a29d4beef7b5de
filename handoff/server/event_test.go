package server

import (
	"compress/gzip"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// goldenLines are the examples of the protocol page, §9.
var goldenLines = []struct {
	line string
	e    Event
}{
	{"2019-03-18 10:06:28.436754 Initialized 192.0.2.7", Event{Kind: Initialized, NAT64: nat64Addr}},
	{"2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186",
		Event{Kind: Created, NAT64: nat64Addr, Address: nat64Addr, MappedPort: 3719, Client: clientAddr, ClientPort: 53186}},
	{"2019-03-18 15:22:02.062254 Deleted 192.0.2.9:47102 [2001:db8::75]:33131",
		Event{Kind: Deleted, NAT64: addr4{192, 0, 2, 9}, Address: addr4{192, 0, 2, 9}, MappedPort: 47102, Client: netip.MustParseAddr("2001:db8::75").As16(), ClientPort: 33131}},
}

func TestEventLines(t *testing.T) {
	for _, g := range goldenLines {
		at, err := time.Parse(TimeLayout, g.line[:26])
		if err != nil {
			t.Fatal(err)
		}
		e := g.e
		e.Time = at.UnixMicro()
		if got := string(e.appendText(nil)); got != g.line+"\n" {
			t.Errorf("written %q, want %q", got, g.line)
		}
		if back, err := parseEvent([]byte(g.line)); err != nil || back != e {
			t.Errorf("read %+v, want %+v (%v)", back, e, err)
		}
		e.Server = ownAddr
		j := e.appendJSON(nil)
		if back, err := parseEvent(j); err != nil || back != e {
			t.Errorf("%s: read %+v, want %+v (%v)", j, back, e, err)
		}
	}
	e := goldenLines[1].e
	e.Server = ownAddr
	want := `{"time":"1970-01-01T00:00:00.000000Z","event":"Created","nat64":"192.0.2.7","mapped_port":3719,` +
		`"client":"2001:db8::17","client_port":53186,"server":"198.51.100.1"}` + "\n"
	if got := string(e.appendJSON(nil)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func FuzzParseEvent(f *testing.F) {
	for _, g := range goldenLines {
		f.Add([]byte(g.line))
		e := g.e
		f.Add(e.appendJSON(nil))
	}
	f.Add([]byte(`{"time":1}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := parseEvent(line)
		if err != nil || e.Time < 0 || e.Time > 253402300799e6 {
			return
		}
		text := e.appendText(nil)
		back, err := parseEvent(text[:len(text)-1])
		e.Server = addr4{} // the text does not name it, nor the NAT64 of an address of the pool
		if e.Kind != Initialized {
			e.NAT64 = e.Address
		}
		if e.Kind == Initialized {
			e.MappedPort, e.ClientPort = 0, 0
		}
		if err != nil || back != e {
			t.Fatalf("%q: %+v, read back %+v (%v)", text, e, back, err)
		}
	})
}

// fixedView is a table that a test makes up.
type fixedView struct {
	View
	log  string
	rows []Row
}

func (v *fixedView) Status(context.Context) (Status, error) { return Status{Log: v.log}, nil }

func (v *fixedView) Entries(_ context.Context, f Filter, each func(*Row) error) error {
	for i := range v.rows {
		if r := &v.rows[i]; r.Address == f.Address && (r.MappedPort == f.MappedPort || r.MappedPort == 0) {
			if err := each(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeLog makes a log file that was last written to some time ago, packed if its
// name says so.
func writeLog(t *testing.T, path, text string, age time.Duration) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(path) == ".gz" {
		z := gzip.NewWriter(f)
		_, err = z.Write([]byte(text))
		if cerr := z.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
	} else if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-age)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestLookupAt: who was there is found in rotated logs, packed ones too, and in
// the table when its log line has long been thrown away.
func TestLookupAt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	write := func(name, text string, age time.Duration) { writeLog(t, filepath.Join(dir, name), text, age) }
	write("access.log.2.gz", "2019-01-01 00:00:00.000000 Created 192.0.2.7:3719 [2001:db8::1]:1\n"+
		"2019-01-01 00:00:00.000000 Created 192.0.2.7:37190 [2001:db8::9]:9\n", 3*time.Hour)
	write("access.log-20190201", "2019-02-01 00:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::1]:1\n"+
		"2019-02-01 00:00:00.000000 Created 192.0.2.7:3719 [2001:db8::2]:2\n2019-02-02 00:00:00.0000", 2*time.Hour)
	write("access.log", `{"time":"2019-03-01T00:00:00.000000Z","event":"Deleted","nat64":"192.0.2.7","mapped_port":3719,"client":"2001:db8::2","client_port":2,"server":"198.51.100.1"}`+"\n"+
		"2019-03-02 00:00:00.000000 Created 192.0.2.7:3719 [2001:db8::3]:3\n2019-03-02 00:00:00.000000 Created 192.0.2.7:3719 [2001:db8::3]:3\n"+
		"2019-03-03 00:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::3]:3\n"+
		"2019-03-03 18:00:00.200000 Created 192.0.2.7:3719 [2001:db8::5]:5\n2019-03-03 18:00:00.800000 Deleted 192.0.2.7:3719 [2001:db8::5]:5\n", time.Hour)
	write("access.logs", "2019-01-01 00:00:00.000000 Created 192.0.2.7:3719 [2001:db8::8]:8\n", 0)
	v := &fixedView{log: path, rows: []Row{{
		NAT64: netip4(nat64Addr), Address: netip4(nat64Addr), MappedPort: 3719, Client: netip.MustParseAddr("2001:db8::4"), ClientPort: 4,
		Server: netip4(ownAddr), Created: time.Date(2019, 3, 4, 0, 0, 0, 0, time.UTC),
	}}}
	at := netip.MustParseAddrPort("192.0.2.7:3719")
	for when, want := range map[string][]uint16{
		"2018-12-31T00:00:00Z": nil, "2019-01-01T00:00:00Z": {1}, "2019-01-31T23:59:59Z": {1}, "2019-02-01T00:00:00Z": {2},
		"2019-02-28T00:00:00Z": {2}, "2019-03-02T00:00:00Z": {3}, "2019-03-03T12:00:00Z": nil, "2019-03-05T00:00:00Z": {4},
		"2019-03-03T18:00:00Z": {5}, "2019-03-03T18:00:01Z": nil, "2019-03-03T18:00:00.1Z": nil, "2019-03-03T17:59:59Z": nil, "2019-03-03T23:59:59Z": nil, "2019-03-04T00:00:00Z": {4},
	} {
		tm, err := time.Parse(time.RFC3339, when)
		if err != nil {
			t.Fatal(err)
		}
		found, err := LookupAt(context.Background(), v, at, tm)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint16
		for _, h := range found {
			got = append(got, h.ClientPort)
		}
		if !slices.Equal(got, want) {
			t.Errorf("at %s: %v, want %v", when, got, want)
		}
	}
	v.log = "-"
	if found, err := LookupAt(context.Background(), v, at, time.Now()); err != nil || len(found) != 1 {
		t.Errorf("without a log: %v, %v", found, err)
	}
}
