package annotate

import (
	"fmt"
	"testing"
	"time"
)

func testParser(t testing.TB, field, port string) *parser {
	p, err := newParser(field, port, func() time.Time { return monday }, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// said is what a line says, in words.
func said(p *parser, s string) string {
	var l line
	k, object := p.parse([]byte(s), &l)
	out := [...]string{"none", "ipv6", "ipv4"}[k]
	if k == isIPv4 {
		out += fmt.Sprintf(" %d.%d.%d.%d", l.address[0], l.address[1], l.address[2], l.address[3])
		if l.hasPort {
			out += fmt.Sprintf(":%d", l.port)
		}
		if l.hasTime {
			from := time.UnixMicro(l.at.From).UTC()
			out += fmt.Sprintf(" %s+%d", from.Format("2006-01-02T15:04:05.999999"), l.at.To-l.at.From)
		}
		if !object {
			out += " <" + s[l.begin:l.end] + ">"
		}
	}
	return out
}

func TestLines(t *testing.T) {
	for _, test := range []struct{ line, want string }{
		// The combined format, with ports as the documentation has it.
		{`192.0.2.64:38526 - - [26/Nov/2026:10:13:30 +0100] "GET / HTTP/1.1" 200 612 "-" "curl/8"`, "ipv4 192.0.2.64:38526 2026-11-26T09:13:30+999999 <192.0.2.64:38526>"},
		{`192.0.2.64 - alice [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 612 "-" "-"`, "ipv4 192.0.2.64 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`www.example.net:443 192.0.2.64:1 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/2.0" 200 1`, "ipv4 192.0.2.64:1 2026-11-26T10:13:30+999999 <192.0.2.64:1>"},
		{`[::ffff:192.0.2.64]:38526 - - [26/Nov/2026:10:13:30 +0000] "GET /"`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <[::ffff:192.0.2.64]:38526>"},
		{`::ffff:192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] "GET /"`, "ipv4 192.0.2.64 2026-11-26T10:13:30+999999 <::ffff:192.0.2.64>"},
		{`2001:db8::7 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 612`, "ipv6"},
		{`[2001:db8::7]:443 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 612`, "ipv6"},
		// What a client writes is no address.
		{`client.example.net - - [26/Nov/2026:10:13:30 +0000] "GET /?192.0.2.9:80 HTTP/1.1" 200 1 "-" "from 192.0.2.9 port 5"`, "none"},
		{`192.0.2.64:9 - - [26/Nov/2026:10:13:30 +0000] "GET /" 200 1 "-" "from 192.0.2.9 port 5"`, "ipv4 192.0.2.64:9 2026-11-26T10:13:30+999999 <192.0.2.64:9>"},
		{`2026-11-26T10:13:30Z www sshd[811]: Invalid user from 192.0.2.9 port 5 from 192.0.2.64 port 38526`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] "GET /" 200 1 "-" "me port=5" port=38526`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] "GET /" 200 1 "-" "me port=5"`, "ipv4 192.0.2.64 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] "GET /" 200 1 port=x port=65536`, "ipv4 192.0.2.64 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`192.0.2.64:9 - me [25/Nov/2026:10:13:30 +0000] [26/Nov/2026:10:13:30 +0000] "GET /[24/Nov/2026:10:13:30 +0000]"`, "ipv4 192.0.2.64:9 2026-11-26T10:13:30+999999 <192.0.2.64:9>"},
		{`192.0.2.64:9 - [me] [26/Nov/2026:10:13:30 +0000] [vhost] "GET /"`, "ipv4 192.0.2.64:9 2026-11-26T10:13:30+999999 <192.0.2.64:9>"},
		{`2026-11-26T10:13:30Z www sshd-session[811]: Received disconnect from 192.0.2.64 port 38526:11: from 192.0.2.9 port 5`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`2026-11-26T10:13:30Z www sshd[811]: Connection from 192.0.2.64 port 38526 on 192.0.2.10 port 22 rdomain ""`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`2026-11-26T10:13:30Z www sshd[811]: Invalid user a: Connection from 192.0.2.9 port 5 from 192.0.2.64 port 38526`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{`{"__REALTIME_TIMESTAMP":"1795000000123456","SYSLOG_IDENTIFIER":"sshd","MESSAGE":"Unable to negotiate with 192.0.2.64 port 38526: no matching host key type found. Their offer: from 192.0.2.9 port 5"}`, "ipv4 192.0.2.64:38526 2026-11-18T11:06:40.123456+0"},
		// Other text.
		{`[Thu Nov 26 10:13:30.091234 2026] [core:info] [pid 8:tid 9] [client 192.0.2.64:38526] AH00128: File does not exist: /var/www/192.0.2.9 port 5`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30.091234+0 <192.0.2.64:38526>"},
		{`[Thu Nov 26 10:13:30 2026] [error] [client 192.0.2.64:38526] x`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64:38526>"},
		{`[Thu Nov 26 10:13:30 2026 [error] [client 192.0.2.64:38526] x`, "ipv4 192.0.2.64:38526 <192.0.2.64:38526>"},
		{`Nov 22 10:13:30 www postfix/smtpd[811]: connect from unknown[192.0.2.64]:38526`, "ipv4 192.0.2.64:38526 2026-11-22T10:13:30+999999 <192.0.2.64>"},
		{`2026-11-26T10:13:30.091234+01:00 www sshd[811]: Accepted publickey for root from 192.0.2.64 port 38526 ssh2`, "ipv4 192.0.2.64:38526 2026-11-26T09:13:30.091234+0 <192.0.2.64>"},
		{`Nov 22 10:13:30 www sshd[811]: Connection closed by 192.0.2.64 port 38526`, "ipv4 192.0.2.64:38526 2026-11-22T10:13:30+999999 <192.0.2.64>"},
		{`Dec 31 10:13:30 www sshd[811]: Connection closed by 192.0.2.64 port 38526`, "ipv4 192.0.2.64:38526 2025-12-31T10:13:30+999999 <192.0.2.64>"},
		{`2026/11/26 10:13:30 http: TLS handshake error from 192.0.2.64:38526: EOF`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64:38526>"},
		{`2026-11-26 10:13:30,091 INFO client 192.0.2.64:38526`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30.091+999 <192.0.2.64:38526>"},
		{`time=2026-11-26T10:13:30.091Z level=INFO msg=request client=192.0.2.64:38526 path=/`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30.091+999 <192.0.2.64:38526>"},
		{`version 10.0.19045.3803:1 of 1.2.3.4-beta:5`, "none"},
		{`no time, 192.0.2.64:38526`, "ipv4 192.0.2.64:38526 <192.0.2.64:38526>"},
		{`256.0.2.64:1 1.2.3:4 01.2.3.4:5 192.0.2.64:65536 192.0.2.64`, "none"},
		{``, "none"},
		// The journal.
		{`{"__REALTIME_TIMESTAMP":"1795000000123456","MESSAGE":"Accepted password for root from 192.0.2.64 port 38526 ssh2"}`, "ipv4 192.0.2.64:38526 2026-11-18T11:06:40.123456+0"},
		{`{"_SOURCE_REALTIME_TIMESTAMP":"1795000000000001","__REALTIME_TIMESTAMP":"1795000000123456","MESSAGE":"192.0.2.64:7 - - [26/Nov/2026:10:13:30 +0000] \"GET /\" 200 1 \"-\" \"from 192.0.2.9 port 5\""}`,
			"ipv4 192.0.2.64:7 2026-11-18T11:06:40.000001+0"},
		{`{"MESSAGE":[1,2,3]}`, "none"},
		{`{"MESSAGE":[255,32,49,46,50,46,51,46,52,58,53]}`, "ipv4 1.2.3.4:5"}, // "\xff 1.2.3.4:5"
		{`{"MESSAGE":[-1,"x",{}],"SYSLOG_IDENTIFIER":8}`, "none"},
		{`{"MESSAGE":null}`, "none"},
		{`{"__REALTIME_TIMESTAMP":"-1","MESSAGE":"1.2.3.4:5"}`, "ipv4 1.2.3.4:5"},
		{`{"__REALTIME_TIMESTAMP":"99999999999999999","MESSAGE":"1.2.3.4:5"}`, "ipv4 1.2.3.4:5"},
		{`{"__REALTIME_TIMESTAMP":"","MESSAGE":"1.2.3.4:5"}`, "ipv4 1.2.3.4:5"},
		{`{"MESSAGE":"cut off`, "none"},
		{`{}`, "none"},
	} {
		if got := said(testParser(t, "", ""), test.line); got != test.want {
			t.Errorf("%s\n got %s\nwant %s", test.line, got, test.want)
		}
	}
}

func TestFields(t *testing.T) {
	for _, test := range []struct{ field, port, line, want string }{
		{"3", "", `2026-11-26T10:13:30Z GET 192.0.2.64:38526 /`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64:38526>"},
		{"3", "4", `GET  [26/Nov/2026:10:13:30 +0000] "192.0.2.64" "38526"`, "none"},
		{"4", "5", `GET  [26/Nov/2026:10:13:30 +0000] "192.0.2.64" "38526"`, "ipv4 192.0.2.64:38526 2026-11-26T10:13:30+999999 <192.0.2.64>"},
		{"1", "2", "192.0.2.64\t38526", "ipv4 192.0.2.64:38526 <192.0.2.64>"},
		{"1", "2", "192.0.2.64 x", "ipv4 192.0.2.64 <192.0.2.64>"},
		{"9", "", "192.0.2.64:38526", "none"},
		{"1", "", "2001:db8::7 192.0.2.64:38526", "ipv6"},
		{"REMOTE", "", `{"REMOTE":"192.0.2.64:38526","MESSAGE":"192.0.2.9:1"}`, "ipv4 192.0.2.64:38526"},
		{"REMOTE", "PORT", `{"REMOTE":"192.0.2.64","PORT":"38526"}`, "ipv4 192.0.2.64:38526"},
		{"REMOTE", "", `{"MESSAGE":"192.0.2.9:1"}`, "none"},
	} {
		if got := said(testParser(t, test.field, test.port), test.line); got != test.want {
			t.Errorf("field %q, port %q: %s\n got %s\nwant %s", test.field, test.port, test.line, got, test.want)
		}
	}
	for _, bad := range [][2]string{{"0", ""}, {"-1", ""}, {"1", "PORT"}, {"REMOTE", "2"}, {"", "2"}, {"1", "-"}} {
		if _, err := newParser(bad[0], bad[1], time.Now, time.UTC); err == nil {
			t.Errorf("fields %q were accepted", bad)
		}
	}
}
