package main

import (
	"bytes"
	"strings"
	"testing"

	"handoff64/cmd/commandline"
)

// TestForwardMisuse: what cannot be meant is refused before anything is opened.
func TestForwardMisuse(t *testing.T) {
	for args, want := range map[string]string{
		"":                                  "--interfaces",
		"--interfaces a":                    "give two",
		"--interfaces a,b,c":                "give two",
		"--interfaces a,b --cpus x":         `"x" is not the number of a CPU`,
		"--interfaces a,b --poll sometimes": `"sometimes"`,
		"--interfaces a,b --sockets theirs": `"theirs"`,
		"--interfaces a,b --sockets asavie": "needs --next-hops",
		"--interfaces a,b --next-hops 02:00:00:00:00:01":        "give two",
		"--interfaces a,b --next-hops 02:00:00:00:00:01,garlic": `"garlic"`,
	} {
		var stdout, stderr bytes.Buffer
		if code := dispatch(strings.Fields("forward "+args), &stdout, &stderr); code != commandline.Usage || !strings.Contains(stderr.String(), want) {
			t.Errorf("forward %s: exit code %d, %q; want %d and %q", args, code, &stderr, commandline.Usage, want)
		}
	}
}
