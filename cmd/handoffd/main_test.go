package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"handoff64/cmd/commandline"
)

// asProgram makes the test binary be handoffd: the tests kill it.
const asProgram = "HANDOFFD_RUN_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// handoffd runs the program within the test.
func handoffd(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"entries", "-h"}, {"lookup", "--help"}, {"status", "--help"}} {
		code, out, errs := handoffd(args...)
		if code != commandline.OK || errs != "" || !strings.Contains(out, "handoffd "+strings.TrimSuffix(args[0], "--help")) {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"--version"}, {"run", "--version"}, {"lookup", "--version"}} {
		if code, out, errs := handoffd(args...); code != commandline.OK || errs != "" || !strings.HasPrefix(out, "handoffd ") {
			t.Errorf("%v: exit %d, %q, %q", args, code, out, errs)
		}
	}
}

// TestUsageErrors: bad usage ends with 2 and one line that says what is wrong.
func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "*.json")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	for want, args := range map[string][]string{
		"no command":                           {},
		`command "fly" is unknown`:             {"fly"},
		`command "annotated" is unknown`:       {"annotated"},
		`--by "year": give time or table`:      {"annotate", "--by", "year"},
		`field "0": a field is`:                {"annotate", "--state-dir", "nowhere", "--log", "/dev/null", "--field", "0"},
		"the modes are minimal, local-nat and": {"run", "--mode", "local"},
		"10.0.0.0/8, 172.16.0.0/12":            {"run", "--mode=local-nat", "--pool", "198.51.100.0/24"},
		"is not a prefix such as":              {"run", "--mode=local-nat", "--pool", "100.64.0.0"},
		"did you mean 100.64.0.0/16":           {"run", "--mode-changes", "--pool", "100.64.0.1/16"},
		"device-mtu 100":                       {"run", "--mode", "mixed", "--device-mtu", "100"},
		`mode "full" is unknown`:               {"run", "--mode", "full"},
		`listen "x" is not ADDRESS:PORT`:       {"run", "--listen", "x"},
		"the control channel is IPv4":          {"run", "--listen", "[::]:64064"},
		`log-format "xml"`:                     {"run", "--log-format", "xml"},
		"has 64509 usable ports":               {"run", "--max-entries-per-nat64", "65000"},
		"max-entries-per-nat64 0":              {"run", "--max-entries-per-nat64", "0"},
		`run takes no argument "now"`:          {"run", "now"},
		"-fast":                                {"run", "--fast"},
		"open the configuration":               {"run", "--config", filepath.Join(dir, "none")},
		"is not JSON":                          {"run", "--config", file("{")},
		"must be one JSON object":              {"run", "--config", file("[]")},
		`key "lsten" is unknown`:               {"run", "--config", file(`{"lsten": "x"}`)},
		`key "config" is unknown`:              {"run", "--config", file(`{"config": "x"}`)},
		`"log" stands there twice`:             {"run", "--config", file(`{"log": "a", "log": "b"}`)},
		"listen must be a string":              {"run", "--config", file(`{"listen": 1}`)},
		"max-entries-per-nat64 must be a numb": {"run", "--config", file(`{"max-entries-per-nat64": "9"}`)},
		"max-entries-per-nat64: parse error":   {"run", "--config", file(`{"max-entries-per-nat64": 1.5}`)},
		"mode-changes must be true or false":   {"run", "--config", file(`{"mode-changes": "yes"}`)},
		"has more than 1048576 octets":         {"run", "--config", file(strings.Repeat(" ", 1<<20+1))},
		"lookup takes one ADDRESS:PORT":        {"lookup"},
		`http "9465" is not [ADDRESS]:PORT`:    {"run", "--http", "9465"},
		"not a time such as":                   {"lookup", "192.0.2.7:3719", "--at", "yesterday"},
		"entries takes no argument":            {"entries", "all"},
		"-nat64":                               {"entries", "--nat64", "everyone"},
	} {
		code, out, errs := handoffd(args...)
		if code != commandline.Usage || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "handoffd: ") || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q, want %q", args, code, errs, want)
		}
	}
}

// TestFailures: what cannot be done ends with 1.
func TestFailures(t *testing.T) {
	for want, args := range map[string][]string{
		"no handoffd runs":      {"entries", "--state-dir", t.TempDir()},
		"bind the control port": {"run", "--listen", "192.0.2.1:1", "--state-dir", t.TempDir()},
	} {
		if code, _, errs := handoffd(args...); code != commandline.Failure || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit %d, %q", args, code, errs)
		}
	}
}

// TestSettings: the command line wins over the file, the file over defaults.
func TestSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handoffd.json")
	text := `{"listen": "127.0.0.1:1", "state-dir": "/a", "log": "-", "log-format": "json", "mode": "minimal", "max-entries-per-nat64": 7}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, done, err := readSettings(&program{}, &commands()[0], []string{"--config", path, "--state-dir", "/b"})
	if err != nil || done {
		t.Fatal(done, err)
	}
	c, err := s.serverConfig()
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen.String() != "127.0.0.1:1" || c.StateDir != "/b" || c.Log != "-" || c.LogFormat != "json" || c.MaxEntries != 7 {
		t.Errorf("%+v", c)
	}
	s, _, err = readSettings(&program{}, &commands()[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = s.serverConfig(); err != nil || c.Listen.String() != "0.0.0.0:64064" || c.StateDir != "/var/lib/handoffd" || c.MaxEntries != 64000 || c.LogFormat != "text" {
		t.Errorf("%+v (%v)", c, err)
	}
}
