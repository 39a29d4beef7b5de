package main

import "testing"

func TestTUNName(t *testing.T) {
	for socket, want := range map[string]string{
		"/run/nat64d.sock":        "nat64",
		"/run/nat64d/nat64d.sock": "nat64",
		"/run/nat64d-b.sock":      "nat64-nat64d-b",
		"/run/b.sock":             "nat64-b",
		"/tmp/x/control":          "nat64-control",
		"/run/a long name.sock":   "nat64-a_long_na",
		"/run/ä%:.sock":           "nat64-___",
	} {
		got := tunName(socket)
		if got != want || len(got) > longestName {
			t.Errorf("%s: %q, want %q", socket, got, want)
		}
	}
}
