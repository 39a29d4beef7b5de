package main

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

func TestTopLines(t *testing.T) {
	before, now := controltest.ExampleStats(1), controltest.ExampleStats(3)
	status := controltest.New().Status()
	status.Handoff = control.HandoffStatus{Enabled: true, Servers: 2, CachedEntries: 12345}
	lines := topLines(&before, &now, &status, 2*time.Second)
	golden(t, "top", strings.ReplaceAll(strings.Join(lines, "\n"), bold, "* ")+"\n")
	// Nothing has happened, and nothing is there.
	empty := control.Stats{}
	golden(t, "top-empty", strings.ReplaceAll(strings.Join(topLines(&empty, &empty, &control.Status{}, 0), "\n"), bold, "* ")+"\n")
}

// What does not fit is cut, so that the screen does not scroll.
func TestTopFitsTheScreen(t *testing.T) {
	var out bytes.Buffer
	p := &program{out: bufio.NewWriter(&out)}
	p.drawTop([]string{bold + strings.Repeat("é", 100), "second", "third", "fourth"}, 40, 3)
	p.out.Flush()
	want := home + bold + strings.Repeat("é", 40) + plain + endOfLine + "second" + endOfLine + clearBelow
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestPerSecond(t *testing.T) {
	for v, want := range map[float64]string{0: "0 ", 999: "999 ", 1000: "1.00 k", 12345: "12 k", 9.5e6: "9.50 M", 2.5e9: "2.50 G", 3e13: "30.0 T"} {
		if got := perSecond(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
