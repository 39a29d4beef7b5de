package main

import (
	"errors"
	"strings"
	"testing"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

func TestSet(t *testing.T) {
	d := controltest.New()
	d.SetFunc = func(by, key, value string) (control.Changed, error) {
		if !strings.HasPrefix(by, "uid ") {
			t.Errorf("by %q", by)
		}
		switch {
		case key != "lowest_ipv6_mtu":
			return control.Changed{}, control.ConfigError{Problems: []string{key + ": unknown key"}}
		case value == "9":
			return control.Changed{}, errors.New("nat64d is stopping")
		case value == "1280":
			return control.Changed{Applied: []control.Change{}}, nil
		}
		return control.Changed{Applied: []control.Change{{Key: key, From: 1280, To: 1400}}, Warnings: []string{"hm"}}, nil
	}
	path := serve(t, d)
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"set lowest_ipv6_mtu 1400", 0, "lowest_ipv6_mtu: 1280 -> 1400\nwarning: hm\n", ""},
		{"set lowest_ipv6_mtu 1400 --json", 0, `{"applied":[{"key":"lowest_ipv6_mtu","from":1280,"to":1400}],"warnings":["hm"]}` + "\n", ""},
		{"set lowest_ipv6_mtu 1280", 0, "lowest_ipv6_mtu is that already\n", ""},
		{"set lowest_ipv6_mtu 9", 1, "", "nat64ctl: nat64d is stopping\n"},
		{"set x -1", 2, "", "nat64ctl: x: unknown key\n"}, // no flag
		{"set x 1", 2, "", "nat64ctl: x: unknown key\n"},
		{"set x", 2, "", `nat64ctl: "x" is no key of the configuration; nat64ctl set --all shows them` + "\n"},
	} {
		code, stdout, stderr := ctl(append([]string{"--socket", path}, strings.Fields(test.args)...)...)
		if code != test.code || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%s: %d\n%s%s", test.args, code, stdout, stderr)
		}
	}
}

func TestReload(t *testing.T) {
	d := controltest.New()
	path := serve(t, d)
	for _, test := range []struct {
		answer         control.Changed
		err            error
		code           int
		stdout, stderr string
	}{
		{control.Changed{Applied: []control.Change{}}, nil, 0, "nothing has changed\n", ""},
		{control.Changed{
			Applied: []control.Change{{Key: "hairpin", From: true, To: false}}, Restart: []control.Change{{Key: "workers.cpus", From: nil, To: []int{1}}},
		}, nil, 0, "hairpin: true -> false\nworkers.cpus: takes a restart of nat64d (running -, file [1])\n", ""},
		{control.Changed{}, control.ConfigError{Problems: []string{"f:1: a", "f:2: b"}}, 2, "", "nat64ctl: f:1: a\nnat64ctl: f:2: b\n"},
		{control.Changed{}, errors.New("the filter failed"), 1, "", "nat64ctl: the filter failed\n"},
	} {
		d.ReloadFunc = func(string) (control.Changed, error) { return test.answer, test.err }
		code, stdout, stderr := ctl("--socket", path, "reload")
		if code != test.code || stdout != test.stdout || stderr != test.stderr {
			t.Errorf("%+v: %d\n%s%s", test.answer, code, stdout, stderr)
		}
	}
}
