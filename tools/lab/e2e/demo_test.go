package e2e

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/demo"
	"handoff64/tools/lab/throughput"
)

// gone checks that nothing is left of a lab.
func gone(t *testing.T, name string) {
	t.Helper()
	names, err := lab.Names()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(names, name) {
		t.Errorf("lab %s is still up", name)
	}
	if left, _ := filepath.Glob("/run/netns/" + name + "-*"); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
}

func TestDemoPasses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), *testTimeout)
	defer cancel()
	name := labName(labs.Add(1))
	var out bytes.Buffer
	err := demo.Run(ctx, demo.Options{Lab: lab.Options{Name: name}, Binaries: built, Out: &out, Octets: 10_000_000})
	if err != nil {
		t.Fatalf("%v; it printed:\n%s", err, &out)
	}
	for _, want := range []string{"SHA-256", "1452 ✓", "hop limit 61", "64:ff9b::c000:2fe", "translated",
		"nat64ctl servers", "kill -9", "handoffd lookup", " Initialized ", " Created ", "\nPASS: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, &out)
		}
	}
	gone(t, name)
}

// A demo that cannot fail would show nothing.
func TestDemoFailsWithoutATranslator(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), *testTimeout)
	defer cancel()
	nothing, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	name := labName(labs.Add(1))
	var out bytes.Buffer
	err = demo.Run(ctx, demo.Options{Lab: lab.Options{Name: name}, Binaries: lab.Binaries{Nat64d: nothing, Nat64ctl: nothing}, Out: &out})
	if err == nil || !strings.Contains(out.String(), "\nFAIL: ") {
		t.Errorf("error %v; it printed:\n%s", err, &out)
	}
	gone(t, name)
}

func TestDemoCleansUpWhenInterrupted(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, interrupt := context.WithCancel(context.Background())
	name := labName(labs.Add(1))
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		// More than can be downloaded while the test waits.
		ended <- demo.Run(ctx, demo.Options{Lab: lab.Options{Name: name}, Binaries: built, Out: &out, Octets: 1 << 40})
	}()
	// nat64d answers, so the demo is in the middle of it.
	l := awaitLab(t, name)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if answer, err := l.Ctl(ctx, built, "--json", "sessions"); err == nil && strings.Contains(answer, "tcp") {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the demo does not begin its download")
			break
		}
	}
	interrupt()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that it was cancelled", err)
	}
	if !strings.Contains(out.String(), "\nFAIL: interrupted") {
		t.Errorf("it printed:\n%s", &out)
	}
	gone(t, name)
}

// awaitLab waits until somebody else has made a lab.
func awaitLab(t *testing.T, name string) *lab.Lab {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		l, err := lab.Open(name)
		if err == nil {
			return l
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The figures are not judged; that there are some is.
func TestThroughputMeasuresBothPaths(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), *testTimeout)
	defer cancel()
	rows, err := throughput.Measure(ctx, throughput.Options{Lab: lab.Options{Name: labName(labs.Add(1))}, Binaries: built, Seconds: 1, Runs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) < 4 {
		t.Errorf("%d rows, want both paths in both directions: %+v", len(rows), rows)
	}
	for _, r := range rows {
		t.Logf("%-24s %-8s %s: %6.0f Mbit/s", r.Path, r.Tool, r.Direction, r.Median)
		if r.Median <= 0 {
			t.Errorf("nothing was measured: %+v", r)
		}
	}
}
