package natlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/xlat"
)

var client = conntrack.Addr6{Hi: 0x20010db8_00000000, Lo: 0x17}

// at is 2026-01-02 03:04:05.678 UTC.
const at = 1767323045678

func created(n int) conntrack.Event {
	return conntrack.Event{
		Kind: conntrack.SessionCreated, Proto: conntrack.TCP, Client: client, ClientPort: 40000, Server: 0xcb007101, ServerPort: 443,
		Mapped: 0xc0000201, MappedPort: uint16(n), At: at,
	}
}

var examples = []conntrack.Event{
	created(1234),
	{Kind: conntrack.SessionEnded, Proto: conntrack.ICMP, Client: client, ClientPort: 7, Server: 0xcb007101, Mapped: 0xc0000201,
		MappedPort: 8, Origin: conntrack.OriginHandoff, Lasted: 655, At: at},
	{Kind: conntrack.BlockAssigned, Client: client, Mapped: 0xc0000201, MappedPort: 1024, MappedLast: 1087, At: at},
	{Kind: conntrack.BlockReturned, Client: client, Mapped: 0xc0000201, MappedPort: 1024, MappedLast: 1087, Lasted: 36000, At: at},
}

// run writes events and returns what became lines.
func run(t *testing.T, c Config, bare bool, events []conntrack.Event) (*Writer, string) {
	t.Helper()
	var lines bytes.Buffer
	l := dataplane.NewLog()
	c.Logs, c.Lines = []*dataplane.Log{l}, slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelWarn})
	prefix, err := xlat.ParsePrefix(netip.MustParsePrefix("64:ff9b::/96"))
	if err != nil {
		t.Fatal(err)
	}
	c.Pool6 = []xlat.Prefix{prefix}
	w, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Destinations(!bare)
	for _, e := range events {
		to := l.Sessions
		if e.Kind >= conntrack.BlockAssigned {
			to = l.Blocks
		}
		if !to.Push(e) {
			t.Fatal("the ring is full")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.Run(ctx)
	return w, lines.String()
}

// Lines are complete whatever log.level is, their times are UTC.
func TestLines(t *testing.T) {
	w, got := run(t, Config{}, false, examples)
	want := `time=2026-01-02T03:04:05.678Z level=INFO msg="port block assigned" client=2001:db8::17 address=192.0.2.1 ports=1024-1087
time=2026-01-02T03:04:05.678Z level=INFO msg="port block returned" client=2001:db8::17 address=192.0.2.1 ports=1024-1087 since=2026-01-02T02:04:05.678Z lasted_s=3600
time=2026-01-02T03:04:05.678Z level=INFO msg="session created" protocol=tcp client=[2001:db8::17]:40000 mapped=192.0.2.1:1234 server6=[64:ff9b::cb00:7101]:443 server4=203.0.113.1:443 origin=nat64
time=2026-01-02T03:04:05.678Z level=INFO msg="session ended" protocol=icmp client=[2001:db8::17]:7 mapped=192.0.2.1:8 server6=[64:ff9b::cb00:7101]:0 server4=203.0.113.1:0 origin=handoff since=2026-01-02T03:03:00.178Z lasted_s=65.5
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if w.Written() != 4 || w.Lost() != 0 {
		t.Errorf("%d written, %d lost", w.Written(), w.Lost())
	}
	if _, bare := run(t, Config{}, true, examples); strings.Contains(bare, "203.0.113.1") || strings.Contains(bare, "cb00") || !strings.Contains(bare, "192.0.2.1:1234") {
		t.Errorf("without destinations:\n%s", bare)
	}
}

// The lines are JSON where the log is.
func TestJSONLines(t *testing.T) {
	var b bytes.Buffer
	w := &Writer{c: Config{Lines: slog.NewJSONHandler(&b, nil)}}
	w.line(&examples[2])
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got["ports"] != "1024-1087" || got["time"] != "2026-01-02T03:04:05.678Z" {
		t.Errorf("%s: %v", b.String(), err)
	}
}

// collector decodes IPFIX messages by RFC 7011 alone.
type collector struct {
	t         *testing.T
	conn      *net.UDPConn
	templates map[uint16][][2]uint16 // element and length
	next      uint32                 // sequence number
	records   []map[uint16][]byte
	messages  int
}

func listen(t *testing.T) *collector {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadBuffer(8 << 20); err != nil {
		t.Fatal(err)
	}
	return &collector{t: t, conn: conn, templates: map[uint16][][2]uint16{}}
}

func (c *collector) collect(records int) {
	c.t.Helper()
	b := make([]byte, 65536)
	for len(c.records) < records {
		if err := c.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			c.t.Fatal(err)
		}
		n, err := c.conn.Read(b)
		if err != nil {
			c.t.Fatalf("after %d of %d records: %v", len(c.records), records, err)
		}
		c.message(bytes.Clone(b[:n]))
	}
}

func (c *collector) message(b []byte) {
	c.t.Helper()
	u16 := binary.BigEndian.Uint16
	if len(b) > maxMessage || u16(b) != 10 || int(u16(b[2:])) != len(b) || binary.BigEndian.Uint32(b[12:]) != 1 {
		c.t.Fatalf("bad header % x in %d octets", b[:16], len(b))
	}
	if age := time.Now().Unix() - int64(binary.BigEndian.Uint32(b[4:])); age < 0 || age > 60 {
		c.t.Errorf("export time is %d s ago", age)
	}
	if seq := binary.BigEndian.Uint32(b[8:]); seq != c.next {
		c.t.Errorf("sequence number %d after %d records (RFC 7011 §3.1)", seq, c.next)
	}
	c.messages++
	for b = b[16:]; len(b) > 0; {
		id, n := u16(b), int(u16(b[2:]))
		set := b[4:n]
		b = b[n:]
		if id == 2 {
			for len(set) > 0 {
				tid, count := u16(set), int(u16(set[2:]))
				set = set[4:]
				var fields [][2]uint16
				for range count {
					fields = append(fields, [2]uint16{u16(set), u16(set[2:])})
					set = set[4:]
				}
				c.templates[tid] = fields
			}
			continue
		}
		fields := c.templates[id]
		if fields == nil {
			c.t.Fatalf("set %d has no template", id)
		}
		for len(set) > 0 {
			r := map[uint16][]byte{}
			for _, f := range fields {
				r[f[0]] = set[:f[1]]
				set = set[f[1]:]
			}
			c.records = append(c.records, r)
			c.next++
		}
	}
}

// What a collector receives are RFC 8158's records: element by number, as the
// registry has them, with the values that they should have.
func TestIPFIXRecords(t *testing.T) {
	c := listen(t)
	w, lines := run(t, Config{Collector: c.conn.LocalAddr().String()}, false, examples)
	c.collect(4)
	hex := func(s string) string { return strings.ReplaceAll(s, " ", "") }
	client := hex("20010db8 00000000 00000000 00000017")
	want := []map[uint16]string{ // blocks come first, they have a ring of their own
		{230: "10", 27: client, 225: "c0000201", 361: "0400", 362: "043f"},
		{230: "11", 27: client, 225: "c0000201", 361: "0400", 362: "043f"},
		{230: "06", 27: client, 225: "c0000201", 4: "06", 7: "9c40", 227: "04d2",
			28: hex("0064ff9b 00000000 00000000 cb007101"), 226: "cb007101", 11: "01bb", 228: "01bb"},
		{230: "07", 27: client, 225: "c0000201", 4: "3a", 7: "0007", 227: "0008",
			28: hex("0064ff9b 00000000 00000000 cb007101"), 226: "cb007101", 11: "0000", 228: "0000"},
	}
	for i, r := range c.records {
		if len(r) != len(want[i])+1 || binary.BigEndian.Uint64(r[323]) != at {
			t.Errorf("record %d has %d elements, want %d and the time %x", i, len(r), len(want[i]), r[323])
		}
		for element, value := range want[i] {
			if got := fmt.Sprintf("%x", r[element]); got != value {
				t.Errorf("record %d element %d: %s, want %s", i, element, got, value)
			}
		}
	}
	if strings.Contains(lines, "session") || strings.Count(lines, "port block") != 2 {
		t.Errorf("with a collector blocks make lines, sessions none:\n%s", lines)
	}
	if w.Written() != 4+2 || w.Lost() != 0 {
		t.Errorf("%d written, %d lost", w.Written(), w.Lost())
	}
	c = listen(t)
	run(t, Config{Collector: c.conn.LocalAddr().String()}, true, examples[:1])
	if c.collect(1); len(c.records[0]) != 7 || c.records[0][28] != nil {
		t.Errorf("a session without destination: %v", c.records[0])
	}
}

// Thousands of records come in as many messages as needed, all within the size
// that the path carries, in order and with no gap.
func TestIPFIXManyRecords(t *testing.T) {
	c := listen(t)
	var events []conntrack.Event
	for n := range 5000 {
		e := created(n)
		if n%7 == 0 {
			e = examples[2]
		}
		events = append(events, e)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(t, Config{Collector: c.conn.LocalAddr().String()}, false, events)
	}()
	c.collect(5000)
	<-done
	if c.messages > 400 {
		t.Errorf("%d messages for 5000 records", c.messages)
	}
	last := -1
	for _, r := range c.records {
		if r[361] != nil {
			continue
		}
		if n := int(binary.BigEndian.Uint16(r[227])); n <= last {
			t.Fatalf("record of port %d comes after that of %d", n, last)
		} else {
			last = n
		}
	}
}

// A collector that is not there costs records, which are counted, and nothing
// else.
func TestIPFIXWithoutCollector(t *testing.T) {
	c := listen(t)
	address := c.conn.LocalAddr().String()
	c.conn.Close()
	var events []conntrack.Event
	for n := range 1000 {
		events = append(events, created(n))
	}
	w, lines := run(t, Config{Collector: address}, false, events)
	if w.Written()+w.Lost() != 1000 || w.Lost() == 0 {
		t.Errorf("%d written, %d lost of 1000", w.Written(), w.Lost())
	}
	if strings.Count(lines, "IPFIX records are lost") != 1 {
		t.Errorf("one line should say so:\n%s", lines)
	}
	w, _ = run(t, Config{Collector: "no.such.name.invalid:4739"}, false, events)
	if w.Lost() != 1000 {
		t.Errorf("no address: %d lost of 1000", w.Lost())
	}
}
