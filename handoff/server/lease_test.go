package server

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

var (
	poolAddr   = addr4{100, 64, 0, 7}
	lesseeAddr = addr6{0: 0x20, 1: 1, 15: 0x17}
)

// withLeases is a table with a client that has an address of the pool, and GRE
// on the NAT64's own.
func withLeases(t *testing.T) *harness {
	t.Helper()
	x := newHarness(t, 40, &fakeSockets{})
	x.h.now = time.Date(2019, 4, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	x.authenticate(ownAddr, nat64Addr, nat64Port, goodToken)
	c := x.channel()
	for _, l := range []struct {
		protocol uint8
		address  addr4
	}{{0, poolAddr}, {47, nat64Addr}} {
		if _, o := x.h.table.insertLease(c, wellKnown, lesseeAddr, l.protocol, l.address, x.h.now, &x.out.changes); o != accepted {
			t.Fatal(o)
		}
	}
	return x
}

// TestLeaseEvents: the lines of the log about whole addresses and protocols can
// be read back from either format.
func TestLeaseEvents(t *testing.T) {
	x := withLeases(t)
	x.h.table.release(x.h.table.pool.lessee(netip4(poolAddr)), x.h.now, &x.out.changes)
	wantText := []string{
		"Created 100.64.0.7:0 [2001::17]:0\n", "Created 192.0.2.7:47 [2001::17]:47\n", "Deleted 100.64.0.7:0 [2001::17]:0\n",
	}
	events := x.out.events[1:]
	if len(events) != len(wantText) {
		t.Fatalf("%d events: %+v", len(events), events)
	}
	for i, e := range events {
		text := e.appendText(nil)
		if got := string(text[len(TimeLayout)+1:]); got != wantText[i] {
			t.Errorf("line %q, want %q", got, wantText[i])
		}
		back, err := parseEvent(text[:len(text)-1])
		if err != nil || back.Address != e.Address || back.MappedPort != e.MappedPort || back.Client != e.Client {
			t.Errorf("%q reads as %+v (%v)", text, back, err)
		}
		asJSON := e.appendJSON(nil)
		if back, err := parseEvent(asJSON[:len(asJSON)-1]); err != nil || back != e {
			t.Errorf("%q reads as %+v (%v)", asJSON, back, err)
		}
	}
}

// TestStoreKeepsLeases: they come back from disk, with their client, and leave
// with it.
func TestStoreKeepsLeases(t *testing.T) {
	x := withLeases(t)
	st, path := tempStore(t)
	if err := st.apply([]*batch{&x.out}, nil); err != nil {
		t.Fatal(err)
	}
	back := newTable(40, serverPort, noSockets{}, seeded())
	if err := st.load(back); err != nil {
		t.Fatal(err)
	}
	sameTables(t, x.h.table, back)
	if rows := back.rows(x.channel().key, Filter{}, nil); len(rows) != 2 || back.count != 2 {
		t.Fatalf("%d rows, %d counted", len(rows), back.count)
	}
	x.out.reset()
	for _, l := range []*lease{back.pool.lessee(netip4(poolAddr)), back.channels[x.channel().key].leases.byProtocol[47]} {
		back.release(l, x.h.now, &x.out.changes)
	}
	if err := st.apply([]*batch{&x.out}, nil); err != nil {
		t.Fatal(err)
	}
	again := newTable(40, serverPort, noSockets{}, seeded())
	if err := st.load(again); err != nil {
		t.Fatal(err)
	}
	if again.count != 0 || len(again.channels[x.channel().key].clientIndex) != 0 {
		t.Errorf("%d leases left, clients %v", again.count, again.channels[x.channel().key].clientIndex)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
	if st, err := openStore(path, true); err != nil || st.close() != nil {
		t.Fatal(err)
	}
}

// TestStoreOfVersion1 is opened by this version, for reading as it is.
func TestStoreOfVersion1(t *testing.T) {
	st, path := tempStore(t)
	err := st.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(bucketNames[bucketLeases]); err != nil {
			return err
		}
		return tx.Bucket(bucketNames[bucketMeta]).Put(metaVersion, []byte{1})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false, true} {
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		if st, err = openStore(path, readOnly); err != nil {
			t.Fatal(err)
		}
		if err := st.load(newTable(1, serverPort, nil, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := st.meta(metaVersion); err != nil || !slices.Equal(v, []byte{storeVersion}) {
		t.Errorf("version %v (%v) after it was opened for writing", v, err)
	}
	if err := st.close(); err != nil {
		t.Fatal(err)
	}
}

// tableView looks into a table that lies in memory.
type tableView struct {
	stored
	log string
}

func (v *tableView) Status(context.Context) (Status, error) { return Status{Log: v.log}, nil }

// TestLookupOfLease: a client with a whole address is found by any port, now and
// at a time in the past; a protocol by its number.
func TestLookupOfLease(t *testing.T) {
	ctx := context.Background()
	x := withLeases(t)
	path := filepath.Join(t.TempDir(), "log")
	writeLog(t, path, "2019-01-01 00:00:00.000000 Created 100.64.0.7:0 [2001::5]:0\n"+
		"2019-02-01 00:00:00.000000 Deleted 100.64.0.7:0 [2001::5]:0\n", 0)
	v := &tableView{stored{table: x.h.table}, path}
	for at, want := range map[string]string{
		"100.64.0.7:53186": "[2001::17]:53186", "192.0.2.7:47": "[2001::17]:47",
		"100.64.0.7:0": "[2001::17]:0", "192.0.2.7:50": "", "192.0.2.7:53186": "", "100.64.0.8:1": "",
	} {
		found, err := Lookup(ctx, v, netip.MustParseAddrPort(at))
		got := ""
		if len(found) == 1 {
			got = netip.AddrPortFrom(found[0].Client, found[0].ClientPort).String()
		}
		if err != nil || len(found) > 1 || got != want {
			t.Errorf("%s: %v (%v), want %q", at, found, err, want)
		}
	}
	for when, want := range map[string]string{"2019-01-05T00:00:00Z": "[2001::5]:80", "2019-03-01T00:00:00Z": "", "2100-01-01T00:00:00Z": "[2001::17]:80"} {
		tm, err := time.Parse(time.RFC3339, when)
		if err != nil {
			t.Fatal(err)
		}
		found, err := LookupAt(ctx, v, netip.MustParseAddrPort("100.64.0.7:80"), tm)
		got := ""
		if len(found) == 1 {
			got = netip.AddrPortFrom(found[0].Client, found[0].ClientPort).String()
		}
		if err != nil || len(found) > 1 || got != want {
			t.Errorf("at %s: %v (%v), want %q", when, found, err, want)
		}
	}
}
