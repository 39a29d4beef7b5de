package annotate

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// FuzzLine: whatever a line has, it comes out as it was but for what was added
// or replaced, and what is found stands in it.
func FuzzLine(f *testing.F) {
	for _, s := range []string{
		`192.0.2.64:38526 - - [26/Nov/2026:10:13:30 +0100] "GET / HTTP/1.1" 200 612 "-" "curl/8"`,
		`2026-11-26T10:13:30.091234+01:00 www sshd[811]: Accepted publickey for root from 192.0.2.64 port 38526 ssh2`,
		`{"__REALTIME_TIMESTAMP":"1795000000123456","MESSAGE":"Accepted password for root from 192.0.2.64 port 38526 ssh2"}`,
		`Nov 22 10:13:30 [::ffff:192.0.2.64]:5`, "{}", "",
		`192.0.2.64 - [me] [26/Nov/2026:10:13:30 +0100] "GET /" 200 1 "-" "x" port=38526`,
		`Nov 22 10:13:30 www sshd[8]: Connection from 192.0.2.64 port 38526 on 192.0.2.10 port 22`,
		`Nov 22 10:13:30 www postfix/smtpd[8]: connect from unknown[192.0.2.64]:38526`,
		`[Thu Nov 26 10:13:30.091234 2026] [core:info] [client 192.0.2.64:38526] AH00128`,
		`{"MESSAGE":[255,32,49,46,50,46,51,46,52,58,53]}`,
	} {
		f.Add([]byte(s), uint8(0), uint8(0))
		f.Add([]byte(s), uint8(1), uint8(2))
	}
	path := sessionLog(f, examples...)
	f.Fuzz(func(t *testing.T, b []byte, field, port uint8) {
		b = bytes.ReplaceAll(b, []byte("\n"), nil)
		p := testParser(t, "", "")
		p.field, p.portField = int(field), int(port)
		var l line
		k, object := p.parse(bytes.TrimRight(b, "\r"), &l)
		if k == isIPv4 && !object {
			if l.begin < 0 || l.end > len(b) || l.begin >= l.end || bytes.Count(b[l.begin:l.end], []byte(".")) != 3 {
				t.Fatalf("%q: an address at %d to %d", b, l.begin, l.end)
			}
		}
		if l.at.To < l.at.From {
			t.Fatalf("%q: from %d to %d", b, l.at.From, l.at.To)
		}
		a := annotator(t, path, Options{})
		var out bytes.Buffer
		if err := a.Run(context.Background(), bytes.NewReader(b), &out); err != nil {
			t.Fatal(err)
		}
		kept := out.String()
		if i := strings.LastIndex(kept, " client="); i >= 0 && a.Counts.Found+a.Counts.Direct+a.Counts.Unknown+a.Counts.Ambiguous == 1 {
			kept = kept[:i] + string(b[len(bytes.TrimRight(b, "\r")):])
		} else if i := strings.Index(kept, `,"HANDOFF_CLIENT`); i >= 0 {
			return // an object: its end comes after what was added
		}
		if kept != string(b) {
			t.Fatalf("%q became %q", b, out.String())
		}
	})
}
