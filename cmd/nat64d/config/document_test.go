package config

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestEveryKeyHasARow: whoever adds a key to the schema says here what a change
// of it takes, and how its value is written.
func TestEveryKeyHasARow(t *testing.T) {
	var want []string
	for _, text := range []string{examples(t)[1], string(load(t, "testdata/good/full.json"))} {
		var whole map[string]any
		if err := json.Unmarshal([]byte(text), &whole); err != nil {
			t.Fatal(err)
		}
		want = append(want, leaves("", whole)...)
	}
	var have []string
	for _, k := range keys {
		have = append(have, k.path)
	}
	for _, path := range want {
		if !slices.Contains(have, path) {
			t.Errorf("keys.go has no row for %s", path)
		}
	}
	for _, path := range have {
		// What the one file must leave out (a key that excludes another) the other has.
		if !slices.Contains(want, path) {
			t.Errorf("keys.go has a row for %s, which neither the handbook's long example nor full.json has", path)
		}
	}
}

// TestValuesAreWhatTheFileWouldSay writes what a configuration holds, key by
// key, into the shortest file there is; the same configuration must come out.
func TestValuesAreWhatTheFileWouldSay(t *testing.T) {
	for _, name := range []string{"full", "minimal"} {
		want, problems := parse("x", load(t, "testdata/good/"+name+".json"), fourCPUs)
		if problems != nil {
			t.Fatal(messages(problems))
		}
		var all []string
		for _, k := range keys {
			all = append(all, k.path)
		}
		d, err := Document{"x", load(t, "testdata/good/minimal.json"), fourCPUs}.Keep(all, want)
		if err != nil {
			t.Fatal(err)
		}
		got, problems := d.Parse()
		if problems != nil {
			t.Fatal(messages(problems))
		}
		got.Warnings, want.Warnings = nil, nil
		// What is empty either way.
		for _, c := range []*Config{got, want} {
			if len(c.KernelProtocols) == 0 {
				c.KernelProtocols = nil
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got  %+v\nwant %+v", name, got, want)
		}
		if changed := got.Changed(want); len(changed) > 0 {
			t.Errorf("%s: counted as changed: %+v", name, changed)
		}
	}
}

func TestSet(t *testing.T) {
	base := Document{"x", load(t, "testdata/good/minimal.json"), fourCPUs}
	for _, tc := range []struct {
		key, word string
		want      any    // in the notation of the file
		refusal   string // or this
	}{
		{"lowest_ipv6_mtu", "1400", 1400, ""},
		{"lowest_ipv6_mtu", "70000", nil, "lowest_ipv6_mtu: 70000 is out of range; give a whole number from 1280 to 65535"},
		{"lowest_ipv6_mtu", "big", nil, `lowest_ipv6_mtu: "big" is not a number; give a whole number from 1280 to 65535`},
		{"filtering", "address-dependent", "address-dependent", ""},
		{"filtering", `"address-dependent"`, "address-dependent", ""},
		{"filtering", "strict", nil, `filtering: "strict" is unknown; give "endpoint-independent" or "address-dependent"`},
		{"deny_ipv4", `["10.0.0.0/8"]`, []string{"10.0.0.0/8"}, ""},
		{"deny_ipv4", `[]`, []string{}, ""},
		{"deny_ipv4", `["10.0.0.0/8"`, nil, `deny_ipv4: ["10.0.0.0/8" is not JSON: unexpected end of JSON input`},
		{"deny_ipv4", `10.0.0.0/8`, nil, `deny_ipv4: "10.0.0.0/8" is not an array; give an array: [ … ]`},
		{"deny_ipv4", `["10.0.0.1/8"]`, nil, "deny_ipv4[0]: 10.0.0.1/8 has bits set behind its length; give 10.0.0.0/8"},
		{"timeouts.udp", "2m", "2m", ""},
		{"timeouts.udp", "10ms", nil, `timeouts.udp: "10ms" is out of range; give a duration from 1s to 8760h, such as "90s", "5m" or "2h4m"`},
		{"log.level", "debug", "debug", ""},
		{"icmp_source.ipv4", "192.0.2.9", "192.0.2.9", ""},
		{"icmp_source.ipv4", "interface", "interface", ""},
		{"hairpin", "false", false, ""},
		{"hairpin", "no", nil, `hairpin: "no" is not a truth value; give true or false`},
		{"mtu.ipv6", "1300", 1300, ""},
		{"kernel_protocols", "[47,50]", []int{47, 50}, ""},
		{"mtu.ipv6", "9000", nil, "mtu.ipv6: 9000 does not fit a frame of 2048 octets; give at most 1774, or xdp.frame_size 4096"},
		{"tcp_mss_clamp", "off", "off", ""},
		{"tcp_mss_clamp", "auto", "auto", ""},
		{"tcp_mss_clamp", "1400", 1400, ""},
		{"timeouts", `{"udp":"2m"}`, nil, "timeouts is an object; set one of its keys: timeouts.udp, "},
		{"timeout.udp", "2m", nil, `timeout.udp: unknown key; the nearest known key is "timeouts.udp"`},
		{"lowest_mtu", "1400", nil, `lowest_mtu: unknown key; the nearest known key is "lowest_ipv6_mtu"`},
		{"", "1", nil, `: unknown key; the nearest known key is `},
		{"pool6", `["64:ff9b::/96"]`, nil, "pool6 cannot be changed while nat64d runs; change it in the file and restart nat64d (sessions survive it)"},
		{"static_bib", `[]`, nil, "static_bib is not set as a whole; use bib add and bib remove, or change it in the file and reload"},
	} {
		d, err := base.Set(tc.key, tc.word)
		said := ""
		if err != nil {
			said = err.Error()
		} else if c, problems := d.Parse(); problems != nil {
			said = problems[0].Message()
		} else if got, err := lookUp(tc.key); err != nil || !reflect.DeepEqual(got.value(c), tc.want) {
			t.Errorf("set %s %s: %v, want %v (%v)", tc.key, tc.word, got.value(c), tc.want, err)
		}
		if tc.refusal == "" && said != "" || !strings.HasPrefix(said, tc.refusal) {
			t.Errorf("set %s %s: %q, want %q", tc.key, tc.word, said, tc.refusal)
		}
	}
}

// A change is checked together with what is there already.
func TestSetIsCheckedAgainstTheRest(t *testing.T) {
	d, err := Document{"x", load(t, "testdata/good/minimal.json"), fourCPUs}.Set("lowest_ipv6_mtu", "1400")
	if err != nil {
		t.Fatal(err)
	}
	if d, err = d.Set("mtu.ipv6", "1300"); err != nil {
		t.Fatal(err)
	}
	if _, problems := d.Parse(); len(problems) != 1 || problems[0].Message() != "lowest_ipv6_mtu: 1400 is more than mtu.ipv6, which is 1300; give at most that (RFC 7915 §4)" {
		t.Errorf("got %s", messages(problems))
	}
}

func TestChanged(t *testing.T) {
	d := Document{"x", load(t, "testdata/good/minimal.json"), fourCPUs}
	before, _ := d.Parse()
	d, err := d.Set("timeouts.udp", "2m")
	if err != nil {
		t.Fatal(err)
	}
	after, problems := d.Parse()
	if problems != nil {
		t.Fatal(messages(problems))
	}
	if got := after.Changed(before); !reflect.DeepEqual(got, []Value{{"timeouts.udp", Live, "2m"}}) {
		t.Errorf("%+v", got)
	}
}

// FuzzSet: no key and no value make a document that cannot be read, or a
// configuration that is not the one checked.
func FuzzSet(f *testing.F) {
	base, _ := parse("x", []byte(fuzzBase), nil)
	f.Add("lowest_ipv6_mtu", "1400")
	f.Add("deny_ipv4", `["10.0.0.0/8"]`)
	f.Add("timeouts.udp", "2m")
	f.Add("log.level", `"debug"`)
	f.Add("a.b", "{")
	f.Fuzz(func(t *testing.T, path, word string) {
		d, err := Document{"x", []byte(fuzzBase), nil}.Set(path, word)
		if err != nil {
			return
		}
		c, problems := d.Parse()
		for _, p := range problems {
			if strings.Contains(p.What, "not JSON") || strings.Contains(p.What, "not readable") {
				t.Errorf("set %q %q: %v", path, word, p)
			}
		}
		if c == nil {
			return
		}
		for _, v := range c.Changed(base) {
			if v.Path != path {
				t.Errorf("set %q %q changes %s", path, word, v.Path)
			}
		}
	})
}

const fuzzBase = `{"ipv6_interface":"a","ipv4_interface":"b","pool4":[{"address":"192.0.2.1"}]}`
