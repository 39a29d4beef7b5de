package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/dataplane/fixture"
)

// TestCasesReplay takes every case through `nat64d replay`: captures in,
// captures out, the reasons that --drops prints.
func TestCasesReplay(t *testing.T) {
	for _, c := range loadCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			text, _ := caseConfig(t, c)
			file := filepath.Join(t.TempDir(), "nat64d.json")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			replayCase(t, c, file)
		})
	}
}

// replayCase replays as much of the case as can be written down in advance,
// learns from the output what the marks stand for, and begins anew with that,
// until all of it was replayed. Replays are repeatable, so the marks stay.
func replayCase(t *testing.T, c *fixture.Case, config string) {
	values := c.NewValues()
	for done := 0; ; {
		var in [2]capture
		steps := captured(c, values, &in)
		if steps == done {
			t.Fatalf("line %d: a packet carries a mark that nothing before it has bound", c.Steps[steps].Line)
		}
		done = steps
		out, drops := replayFile(t, config, &in)
		values = c.NewValues()
		for side := range out {
			var want []*fixture.Packet
			for _, s := range c.Steps[:done] {
				want = append(want, s.Expect[side]...)
			}
			compareSide(t, &c.Steps[0], fixture.Side(side), want, out[side], values)
		}
		if t.Failed() {
			return
		}
		if done == len(c.Steps) {
			compareDrops(t, c, drops)
			return
		}
	}
}

// marker ends a time of waiting: the clock of a replay is that of its packets.
var marker = append(make([]byte, 12), 0x88, 0xb5, 0, 0)

// captured writes down the case's packets with their times, up to the first
// that cannot be known yet, and returns how many steps these are.
func captured(c *fixture.Case, values *fixture.Values, in *[2]capture) (steps int) {
	type timed = struct {
		at     time.Duration
		packet []byte
	}
	now := time.Duration(0)
	for i, s := range c.Steps {
		if s.Send == nil {
			now += s.Wait
			in[fixture.Side6] = append(in[fixture.Side6], timed{now, marker})
			continue
		}
		octets, err := values.Fill(s.Send)
		if err != nil {
			return i
		}
		now += time.Microsecond // keeps the order between both files
		in[s.Side] = append(in[s.Side], timed{now, asFrame(s.Side, octets)})
	}
	return len(c.Steps)
}

// replayFile runs the command and reads what it wrote.
func replayFile(t *testing.T, config string, in *[2]capture) (out [2][][]byte, drops map[string]uint64) {
	t.Helper()
	dir := t.TempDir()
	files := [2]string{filepath.Join(dir, "six.pcap"), filepath.Join(dir, "four.pcap")}
	var stdout, stderr bytes.Buffer
	code := dispatch([]string{"replay", "--config", config, "--ipv6-in", in[0].write(t, "6.pcap"), "--ipv4-in", in[1].write(t, "4.pcap"),
		"--ipv6-out", files[0], "--ipv4-out", files[1], "--drops"}, &stdout, &stderr)
	if code != commandline.OK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for side, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets(t, text) {
			out[side] = append(out[side], p.Data())
		}
	}
	return out, printedDrops(stdout.String())
}

// printedDrops reads the lines "REASON NUMBER  SENTENCE".
func printedDrops(stdout string) map[string]uint64 {
	drops := map[string]uint64{}
	for line := range strings.Lines(stdout) {
		f := strings.Fields(line)
		if len(f) < 3 || line[0] == ' ' {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			drops[f[0]] = n
		}
	}
	return drops
}

func compareDrops(t *testing.T, c *fixture.Case, got map[string]uint64) {
	t.Helper()
	want := map[string]uint64{}
	for _, s := range c.Steps {
		for reason, n := range s.Drops {
			want[reason] += n
		}
		if s.Send == nil {
			want["not_ip"]++ // the marker
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("drops %v, want %v", got, want)
	}
}
