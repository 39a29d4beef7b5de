package main

import (
	"bytes"
	"strings"
	"testing"

	"handoff64/cmd/commandline"
)

// TestCommandLine: help and version on stdout with exit code 0, mistakes in
// one line on stderr with exit code 2, for the program and each command.
func TestCommandLine(t *testing.T) {
	type row struct {
		args string
		code int
		want string
	}
	rows := []row{
		{"", commandline.Usage, "no command"},
		{"--help", commandline.OK, "Usage:"},
		{"--version", commandline.OK, "pktgen "},
		{"juggle", commandline.Usage, `"juggle" is unknown`},
	}
	for _, c := range commands() {
		rows = append(rows,
			row{c.name + " --help", commandline.OK, "pktgen " + c.name},
			row{c.name + " --version", commandline.OK, "pktgen "},
			row{c.name + " --no-such-flag", commandline.Usage, "--no-such-flag"},
			row{c.name + " stray", commandline.Usage, `"stray"`},
		)
	}
	for _, r := range rows {
		t.Run(r.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			if code := dispatch(strings.Fields(r.args), &stdout, &stderr); code != r.code {
				t.Errorf("exit code %d, want %d", code, r.code)
			}
			said, silent := &stdout, &stderr
			if r.code != commandline.OK {
				said, silent = silent, said
				if n := strings.Count(said.String(), "\n"); n != 1 {
					t.Errorf("%d lines on stderr: %q", n, said)
				}
			}
			if !strings.Contains(said.String(), r.want) || silent.Len() > 0 {
				t.Errorf("said %q, want %q; and %q elsewhere", said, r.want, silent)
			}
		})
	}
}

// TestUsageListsCommands: what can be called is what help shows.
func TestUsageListsCommands(t *testing.T) {
	var out bytes.Buffer
	usage(&out)
	for _, c := range commands() {
		if !strings.Contains(out.String(), "  "+c.name+" ") || len(c.summary) < 10 {
			t.Errorf("help does not explain %s: %s", c.name, &out)
		}
	}
}
