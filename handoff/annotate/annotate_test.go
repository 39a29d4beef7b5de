package annotate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"handoff64/handoff/server"
)

// sessionLog writes a log as handoffd does.
func sessionLog(t testing.TB, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handoffd.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// noTable is a handoffd that is not there.
func noTable(context.Context) (server.View, error) { return nil, server.ErrNoTable }

func annotator(t testing.TB, log string, o Options) *Annotator {
	t.Helper()
	s, err := OpenSource(context.Background(), noTable, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, err := New(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	a.parser.clock.zone = time.UTC
	return a
}

var examples = []string{
	"2026-11-26 10:00:00.000000 Initialized 192.0.2.64",
	"2026-11-26 10:00:01.500000 Created 192.0.2.64:38526 [2001:db8:1::10]:50001",
	"2026-11-26 10:00:09.000000 Deleted 192.0.2.64:38526 [2001:db8:1::10]:50001",
	"2026-11-26 10:00:20.000000 Created 192.0.2.64:38526 [2001:db8:2::7]:50002",
	"2026-11-26 10:00:20.000000 Created 100.64.0.7:0 [2001:db8:2::7]:0",
	`{"time":"2026-11-26T10:00:30.000000Z","event":"Created","nat64":"192.0.2.64","mapped_port":40000,"client":"2001:db8:3::1","client_port":1,"server":"192.0.2.10"}`,
	`{"time":"2026-11-26T10:00:30.000000Z","event":"Created","nat64":"192.0.2.64","mapped_port":40000,"client":"2001:db8:3::2","client_port":2,"server":"192.0.2.25"}`,
	"this is no event",
}

func TestRun(t *testing.T) {
	const rest = ` "GET / HTTP/1.1" 200 612`
	for _, test := range []struct {
		o         Options
		line, out string
	}{
		{Options{}, `192.0.2.64:38526 - - [26/Nov/2026:10:00:01 +0000]` + rest, " client=[2001:db8:1::10]:50001"},
		{Options{}, `192.0.2.64:38526 - - [26/Nov/2026:11:00:08 +0100]` + rest, " client=[2001:db8:1::10]:50001"},
		{Options{}, `192.0.2.64:38526 - - [26/Nov/2026:10:00:11 +0000]` + rest, " client=?"},
		{Options{Slack: 3 * time.Second}, `192.0.2.64:38526 - - [26/Nov/2026:10:00:11 +0000]` + rest, " client=[2001:db8:1::10]:50001"},
		{Options{}, `192.0.2.64:38526 - - [26/Nov/2026:10:01:00 +0000]` + rest, " client=[2001:db8:2::7]:50002"},
		{Options{}, `192.0.2.64 - - [26/Nov/2026:10:00:05 +0000]` + rest, " client=2001:db8:1::10"},
		{Options{}, `192.0.2.64 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=?"},
		{Options{}, `100.64.0.7:777 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=[2001:db8:2::7]:777"},
		{Options{}, `100.64.0.7 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=2001:db8:2::7"},
		{Options{}, `192.0.2.64:40000 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=[2001:db8:3::2]:2,[2001:db8:3::1]:1"},
		{Options{}, `203.0.113.5:9 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=203.0.113.5:9"},
		{Options{}, `203.0.113.5 - - [26/Nov/2026:10:00:31 +0000]` + rest, " client=203.0.113.5"},
		{Options{}, `2001:db8::7 - - [26/Nov/2026:10:00:31 +0000]` + rest, ""},
		{Options{}, `nothing to see`, ""},
		{Options{}, `192.0.2.64:38526 without a time`, ""},
		{Options{By: ByTable}, `192.0.2.64:38526 without a time`, ""}, // no table here, so nothing of a NAT64 is known
	} {
		a := annotator(t, sessionLog(t, examples...), test.o)
		want := test.line + test.out + "\n"
		if test.o.By == ByTable {
			want = test.line + " client=192.0.2.64:38526\n"
		}
		var out bytes.Buffer
		if err := a.Run(context.Background(), strings.NewReader(test.line+"\n"), &out); err != nil || out.String() != want {
			t.Errorf("%+v\n got %swant %s (%v)", test.o, out.String(), want, err)
		}
		c := a.Counts
		if c.Lines != 1 || c.Found+c.Direct+c.IPv6+c.Unknown+c.Ambiguous+c.NoAddress+c.NoTime+c.TooLong != 1 {
			t.Errorf("%s is counted as %+v", test.line, c)
		}
	}
}

// Replaced, a line has the shape that it had; in the combined format the one that
// other programs know.
func TestReplace(t *testing.T) {
	const combined, syslog = ` - - [26/Nov/2026:10:00:05 +0000] "GET /"`, "2026-11-26T10:00:05Z www sshd[8]: "
	const program = "2026-11-26T10:00:05Z www smtpd[8]: "
	for _, test := range []struct{ field, port, in, out string }{
		{"", "", "192.0.2.64:38526" + combined + "\r\n", "2001:db8:1::10" + combined + "\r\n"},
		{"", "", "192.0.2.64" + combined + " port=38526\n", "2001:db8:1::10" + combined + " port=50001\n"},
		{"", "", "www:443 192.0.2.64" + combined + "\n", "www:443 2001:db8:1::10" + combined + "\n"},
		{"", "", "203.0.113.5:9" + combined + "\n", "203.0.113.5" + combined + "\n"},
		{"", "", "192.0.2.64:1" + combined, "192.0.2.64" + combined}, // nobody known, no end
		{"", "", syslog + "Invalid user x from 192.0.2.64 port 38526\n", syslog + "Invalid user x from 2001:db8:1::10 port 50001\n"},
		{"", "", syslog + "Invalid user x from 192.0.2.64 port 1\n", syslog + "Invalid user x from 192.0.2.64 port 1\n"},
		{"", "", program + "connect from unknown[192.0.2.64]:38526\n", program + "connect from unknown[2001:db8:1::10]:50001\n"},
		{"", "", program + "error of 192.0.2.64:38526\n", program + "error of [2001:db8:1::10]:50001\n"},
		{"4", "2", "2026-11-26T10:00:05Z 38526 GET 192.0.2.64 /\n", "2026-11-26T10:00:05Z 50001 GET 2001:db8:1::10 /\n"},
		{"2", "", "2026-11-26T10:00:05Z 192.0.2.64 38526\n", "2026-11-26T10:00:05Z 2001:db8:1::10 38526\n"},
	} {
		a := annotator(t, sessionLog(t, examples...), Options{Replace: true, Field: test.field, PortField: test.port})
		var out bytes.Buffer
		if err := a.Run(context.Background(), strings.NewReader(test.in), &out); err != nil || out.String() != test.out {
			t.Errorf("got\n%s\nwant\n%s (%v)", out.String(), test.out, err)
		}
	}
}

func TestJournalLines(t *testing.T) {
	a := annotator(t, sessionLog(t, examples...), Options{})
	us := func(s string) int64 {
		when, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return when.UnixMicro()
	}
	object := func(when int64, address, more string) string {
		return fmt.Sprintf(`{"__REALTIME_TIMESTAMP":"%d","MESSAGE":"Accepted publickey from %s ssh2","_PID":"8"%s}`, when, address, more)
	}
	var in, want, out bytes.Buffer
	for _, l := range []struct {
		when                string
		address, annotation string
	}{
		{"2026-11-26T10:00:05Z", "192.0.2.64 port 38526", `,"HANDOFF_CLIENT":"2001:db8:1::10","HANDOFF_CLIENT_PORT":"50001"`},
		{"2026-11-26T10:00:12Z", "192.0.2.64 port 38526", ""},
		{"2026-11-26T10:00:31Z", "192.0.2.64 port 40000", `,"HANDOFF_CLIENTS":["[2001:db8:3::2]:2","[2001:db8:3::1]:1"]`},
		{"2026-11-26T10:00:31Z", "203.0.113.5 port 40000", ""},
	} {
		in.WriteString(object(us(l.when), l.address, "") + "\n")
		want.WriteString(object(us(l.when), l.address, l.annotation) + "\n")
	}
	if err := a.Run(context.Background(), &in, &out); err != nil || out.String() != want.String() {
		t.Errorf("got\n%s\nwant\n%s (%v)", out.String(), want.String(), err)
	}
}

// A line that is longer than the buffer passes as it is, and so does what
// follows.
func TestLongLines(t *testing.T) {
	a := annotator(t, sessionLog(t, examples...), Options{})
	short := "192.0.2.64:38526 - - [26/Nov/2026:10:00:05 +0000] \"GET /\""
	in := short + strings.Repeat("x", 3*longest+5) + "\n" + short + "\n" + strings.Repeat("y", longest)
	var out bytes.Buffer
	if err := a.Run(context.Background(), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(in, short+"\n", short+" client=[2001:db8:1::10]:50001\n", 1)
	if out.String() != want || a.Counts.TooLong != 2 || a.Counts.Lines != 3 {
		t.Errorf("%d octets, want %d; %+v", out.Len(), len(want), a.Counts)
	}
}

// Behind tail -f lines leave one by one, and what handoffd learns in the
// meantime is known: also of a connection that it is told of after the line, and
// after its log was rotated.
func TestFollow(t *testing.T) {
	path := sessionLog(t, "2026-11-26 10:00:00.000000 Initialized 192.0.2.64")
	a := annotator(t, path, Options{Wait: 20 * time.Second})
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- errors.Join(a.Run(context.Background(), inR, outW), outW.Close()) }()
	answers := make(chan string)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := outR.Read(buf)
			if err != nil {
				close(answers)
				return
			}
			answers <- string(buf[:n])
		}
	}()
	add := func(port int) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			_, err = fmt.Fprintf(f, "%s Created 192.0.2.64:%d [2001:db8::%d]:1\n", time.Now().UTC().Format(server.TimeLayout), port, port)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	ask := func(port int) {
		if _, err := fmt.Fprintf(inW, "192.0.2.64:%d - - [%s] \"GET /\"\n", port, time.Now().UTC().Format(bracketLayout)); err != nil {
			t.Error(err)
		}
	}
	expect := func(port int) {
		t.Helper()
		if got := <-answers; !strings.HasSuffix(got, fmt.Sprintf(" client=[2001:db8::%d]:1\n", port)) {
			t.Errorf("port %d: %q", port, got)
		}
	}
	add(2001)
	ask(2001)
	expect(2001)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(2002)
	ask(2002)
	expect(2002)
	ask(2003)
	time.Sleep(50 * time.Millisecond) // it waits now, as a rule; if not, this tests less
	add(2003)
	expect(2003)
	inW.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// failing accepts so many octets.
type failing int

var errFull = errors.New("disk full")

func (f *failing) Write(b []byte) (int, error) {
	if *f -= failing(len(b)); *f < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestNobodyReads(t *testing.T) {
	a := annotator(t, sessionLog(t, examples...), Options{})
	full := failing(1 << 20)
	if err := a.Run(context.Background(), &accessLog{lines: 1 << 40}, &full); !errors.Is(err, errFull) {
		t.Errorf("the output failed, and Run returned %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.Run(ctx, &accessLog{lines: 1 << 40}, io.Discard); err != nil || ctx.Err() == nil {
		t.Errorf("after a signal Run returned %v", err)
	}
}

// accessLog is a log of so many lines, of clients behind a hundred ports.
type accessLog struct {
	lines, made int
	rest        []byte
	buf         []byte
}

func (l *accessLog) Read(b []byte) (n int, err error) {
	for n < len(b) {
		if len(l.rest) == 0 {
			if l.made == l.lines {
				return n, io.EOF
			}
			l.buf = fmt.Appendf(l.buf[:0], "192.0.2.64:%d - - [26/Nov/2026:10:%02d:%02d +0000] \"GET /page/%d HTTP/1.1\" 200 %d \"https://www.example.net/\" \"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\"\n",
				5000+l.made*7919%10000, l.made/6000%60, l.made/100%60, l.made, l.made%9999)
			l.made++
			l.rest = l.buf
		}
		c := copy(b[n:], l.rest)
		n, l.rest = n+c, l.rest[c:]
	}
	return n, nil
}

// manySessions is a session log in which each of ten thousand ports changes
// hands so many times within the hour.
func manySessions(t testing.TB, hands int) string {
	path := filepath.Join(t.TempDir(), "handoffd.log")
	var b bytes.Buffer
	begin := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC)
	for h := range hands {
		when := begin.Add(time.Duration(h) * time.Hour / time.Duration(hands))
		for p := range 10000 {
			if h > 0 {
				fmt.Fprintf(&b, "%s Deleted 192.0.2.64:%d [2001:db8::%d]:%d\n", when.Format(server.TimeLayout), 5000+p, h, p+1)
			}
			fmt.Fprintf(&b, "%s Created 192.0.2.64:%d [2001:db8::%d]:%d\n", when.Format(server.TimeLayout), 5000+p, h+1, p+1)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMemoryIsFlat: a million lines take no more memory than a thousand.
func TestMemoryIsFlat(t *testing.T) {
	a := annotator(t, manySessions(t, 3), Options{})
	live := func(lines int) uint64 {
		if err := a.Run(context.Background(), &accessLog{lines: lines}, io.Discard); err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	few := live(1000)
	many := live(1_000_000)
	if many > few+1<<20 {
		t.Errorf("%d octets after a thousand lines, %d after a million more", few, many)
	}
	// In the seconds in which ports changed hands both clients may be meant.
	if c := a.Counts; c.Found+c.Ambiguous != 1_001_000 || c.Ambiguous > 1000 {
		t.Errorf("%+v", a.Counts)
	}
	t.Logf("%d octets live after a thousand lines, %d after a million more; %d spans", few, many, a.index.Spans())
}

// TestLinesAllocateNothing, but for a new second's time.
func TestLinesAllocateNothing(t *testing.T) {
	a := annotator(t, sessionLog(t, examples...), Options{})
	in := strings.Repeat("192.0.2.64:38526 - - [26/Nov/2026:10:00:05 +0000] \"GET /\"\n", 10_000)
	r := strings.NewReader(in)
	allocs := testing.AllocsPerRun(1, func() {
		r.Reset(in)
		if err := a.Run(context.Background(), r, io.Discard); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 20 { // buffers, once for each input
		t.Errorf("%v allocations for 10,000 lines", allocs)
	}
}

// journalLog is the lines of an access log as journalctl -o json has sshd's.
func journalLog(lines int) []byte {
	var b []byte
	begin := time.Date(2026, 11, 26, 10, 0, 0, 0, time.UTC).UnixMicro()
	for i := range lines {
		b = fmt.Appendf(b, `{"_HOSTNAME":"www","PRIORITY":"6","_UID":"0","_GID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd","SYSLOG_IDENTIFIER":"sshd",`+
			`"_SYSTEMD_UNIT":"ssh.service","_TRANSPORT":"syslog","_PID":"%d","__CURSOR":"s=0639a0d8;i=%x;b=9d4d","__REALTIME_TIMESTAMP":"%d",`+
			`"__MONOTONIC_TIMESTAMP":"%d","MESSAGE":"Accepted publickey for root from 192.0.2.64 port %d ssh2"}`+"\n", i%30000, i, begin+int64(i)*3600, i, 5000+i*7919%10000)
	}
	return b
}

func BenchmarkAnnotate(b *testing.B) {
	const lines = 100_000
	var combined bytes.Buffer
	if _, err := io.Copy(&combined, &accessLog{lines: lines}); err != nil {
		b.Fatal(err)
	}
	for format, text := range map[string][]byte{"combined": combined.Bytes(), "journal": journalLog(lines)} {
		for _, hands := range []int{1, 30} {
			b.Run(fmt.Sprintf("%s/sessions=%d", format, hands*10000), func(b *testing.B) {
				a := annotator(b, manySessions(b, hands), Options{})
				b.SetBytes(int64(len(text) / lines))
				b.ReportAllocs()
				b.ResetTimer()
				for n := 0; n < b.N; n += lines {
					if err := a.Run(context.Background(), bytes.NewReader(text), io.Discard); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}

// A copy of the log is enough for who may not ask the handoffd of this host; its
// own log is not.
func TestForbiddenTable(t *testing.T) {
	forbidden := func(context.Context) (server.View, error) { return nil, fmt.Errorf("ask: %w", os.ErrPermission) }
	s, err := OpenSource(context.Background(), forbidden, sessionLog(t, examples...))
	if err == nil {
		_, err = New(context.Background(), s, Options{})
		err = errors.Join(err, s.Close())
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := OpenSource(context.Background(), forbidden, ""); !errors.Is(err, os.ErrPermission) {
		t.Errorf("without a copy: %v", err)
	}
}
