package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

func TestTrace(t *testing.T) {
	d := controltest.New()
	d.Missed = 4
	d.TraceValue = []control.TraceEvent{
		{Time: time.Unix(0, 0), Packet: 17, Protocol: "icmp", Outcome: "translated", Steps: []control.TraceStep{{Step: "parse", Text: "a ping"}, {Step: "lookup", Text: "session found"}}},
		{Time: time.Unix(0, 0), Worker: 1, Packet: 3, Protocol: "tcp", Outcome: "dropped", Reason: "no_route"},
	}
	path := serve(t, d)
	stamp := time.Unix(0, 0).Local().Format("15:04:05.000000")
	code, stdout, stderr := ctl("--socket", path, "trace", "count=2")
	want := stamp + " worker 0 packet 17: icmp translated\n  parse      a ping\n  lookup     session found\n" +
		stamp + " worker 1 packet 3: tcp dropped: no_route\n"
	if code != 0 || stdout != want || stderr != "2 packets; 4 more were missed: narrow the filter\n" {
		t.Errorf("%d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = ctl("--socket", path, "--json", "trace", "tcp", "count=1")
	if code != 0 || !strings.HasPrefix(stdout, `{"time":"`) || strings.Count(stdout, "\n") != 1 {
		t.Errorf("%d %s", code, stdout)
	}
	if code, stdout, stderr = ctl("--socket", path, "trace", "drop=unknown"); code != 2 || stdout != "" || stderr != "nat64ctl: filter drop: no such reason\n" {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
}

func TestCapture(t *testing.T) {
	d := controltest.New()
	d.FramesValue = []control.Frame{{Time: time.Unix(0, 0), Octets: bytes.Repeat([]byte{7}, 100), Wire: 100}}
	path := serve(t, d)
	file := filepath.Join(t.TempDir(), "x.pcapng")
	code, stdout, stderr := ctl("--socket", path, "capture", file, "count=1")
	b, err := os.ReadFile(file)
	if code != 0 || stdout != "" || err != nil || !bytes.Contains(b, d.FramesValue[0].Octets) || !strings.HasSuffix(stderr, " octets\n") {
		t.Errorf("%d %s%s %v", code, stdout, stderr, err)
	}
	code, stdout, _ = ctl("--socket", path, "capture", "-", "count=1", "--octets", "50")
	// Not counted one by one: times in the file hold such octets, too.
	whole := strings.Repeat("\x07", 50)
	if code != 0 || strings.Count(stdout, whole) != 1 || strings.Contains(stdout, whole+"\x07") {
		t.Errorf("%d, not 50 octets of the frame: %q", code, stdout)
	}
	unwritable := filepath.Join(t.TempDir(), "no", "x")
	if code, _, stderr = ctl("--socket", path, "capture", unwritable, "count=1"); code != 1 || !strings.Contains(stderr, "no such file") {
		t.Errorf("%d %s", code, stderr)
	}
}
