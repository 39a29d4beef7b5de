// Command testreport runs `go test` and prints what go prints, followed by what
// did not run and why: a skipped test is never taken for one that passed.
//
//	testreport [flags and packages of go test]
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"sort"
	"strings"
)

// needsRoot is the reason that tests give which need namespaces or AF_XDP.
const needsRoot = "needs root"

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action, Package, Test, Output string
}

// report gathers what a run did not do. Used by one goroutine.
type report struct {
	out     io.Writer
	held    map[string][]string // output of tests that are not over yet
	noRoot  []string
	skipped []string // with the reason
}

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	if os.Geteuid() != 0 {
		fmt.Println("Not root: tests that need network namespaces or AF_XDP will not run; the last line says which.")
	}
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "testreport: running go test: %v\n", err)
		return 1
	}
	r := report{out: os.Stdout, held: map[string][]string{}}
	rerr := r.read(pipe)
	werr := cmd.Wait()
	r.summary()
	var exit *exec.ExitError
	switch {
	case rerr != nil:
		fmt.Fprintf(os.Stderr, "testreport: %v\n", rerr)
		return 1
	case errors.As(werr, &exit):
		return max(1, exit.ExitCode())
	case werr != nil:
		fmt.Fprintf(os.Stderr, "testreport: go test: %v\n", werr)
		return 1
	}
	return 0
}

// read follows a run to its end.
func (r *report) read(in io.Reader) error {
	for dec := json.NewDecoder(in); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading what go test says: %w", err)
		}
		r.event(&e)
	}
}

// event prints the output of packages and of failing tests, as go test does
// without -v.
func (r *report) event(e *event) {
	id := e.Package + "." + e.Test
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Test == "":
		if e.Action == "output" && e.Output != "PASS\n" {
			fmt.Fprint(r.out, e.Output)
		}
	case e.Action == "output":
		if !strings.HasPrefix(e.Output, "=== ") {
			r.held[id] = append(r.held[id], e.Output)
		}
	case e.Action == "fail":
		fmt.Fprint(r.out, strings.Join(r.held[id], ""))
		delete(r.held, id)
	case e.Action == "skip":
		r.skip(path.Base(e.Package)+"."+e.Test, strings.Join(r.held[id], ""))
		delete(r.held, id)
	case e.Action == "pass":
		delete(r.held, id)
	}
}

// skip notes a test that did not run; output holds its reason.
func (r *report) skip(name, output string) {
	if strings.Contains(output, needsRoot) {
		r.noRoot = append(r.noRoot, name)
		return
	}
	reason := "no reason given"
	for line := range strings.Lines(output) {
		// "    file_test.go:12: reason", then "--- SKIP: …"
		if _, text, found := strings.Cut(strings.TrimSpace(line), ".go:"); found {
			_, reason, _ = strings.Cut(text, ": ")
		}
	}
	r.skipped = append(r.skipped, name+" ("+reason+")")
}

// summary ends the report with what did not run, if anything did not.
func (r *report) summary() {
	// What is still held belongs to tests that never ended: a panic or a timeout.
	var open []string
	for id := range r.held {
		open = append(open, id)
	}
	sort.Strings(open)
	for _, id := range open {
		fmt.Fprintf(r.out, "did not end: %s\n%s", id, strings.Join(r.held[id], ""))
	}
	for _, part := range []struct {
		title string
		tests []string
	}{{"not run", r.skipped}, {"not run without root", r.noRoot}} {
		if n := len(part.tests); n > 0 {
			fmt.Fprintf(r.out, "%s: %d %s: %s\n", part.title, n, plural(n, "test"), strings.Join(part.tests, ", "))
		}
	}
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
