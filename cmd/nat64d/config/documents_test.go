package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// handbook is where operators read about the configuration.
const handbook = "../../../docs/operations.md"

var jsonBlock = regexp.MustCompile("(?s)\n```json\n(.*?)```")

// examples are the configuration files that the handbook shows: the shortest
// one first, then the one with all defaults.
func examples(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, m := range jsonBlock.FindAllStringSubmatch(string(load(t, handbook)), -1) {
		if strings.Contains(m[1], `"ipv6_interface"`) {
			found = append(found, m[1])
		}
	}
	if len(found) != 2 {
		t.Fatalf("%s shows %d configuration files, want 2", handbook, len(found))
	}
	return found
}

// TestDocumentedExamples: both files of the handbook are valid without a
// warning, mean the same, and the long one really says every default.
func TestDocumentedExamples(t *testing.T) {
	want := defaults()
	want.IPv6Interface, want.IPv4Interface, want.Poll = "eth1", "eth0", "adaptive"
	want.Pool4 = []Pool4{{netip.MustParsePrefix("192.0.2.64/32"), [][2]uint16{{1024, 65535}}}}
	for i, text := range examples(t) {
		c, problems := parse("operations.md", []byte(text), fourCPUs)
		if problems != nil || len(c.Warnings) > 0 {
			t.Errorf("example %d: %s", i, messages(problems))
			continue
		}
		c.Workers.Count = 0 // 1, when given, is what nat64d makes of 0
		if !reflect.DeepEqual(c, want) {
			t.Errorf("example %d:\ngot  %+v\nwant %+v", i, c, want)
		}
	}
}

// TestKeysAreDocumented: the long example has every key of the schema, and
// the tables name every key there is, those that are refused as well.
func TestKeysAreDocumented(t *testing.T) {
	var whole map[string]any
	if err := json.Unmarshal([]byte(examples(t)[1]), &whole); err != nil {
		t.Fatal(err)
	}
	for _, f := range (&parser{config: defaults()}).schema() {
		if _, ok := whole[f.key]; !ok {
			t.Errorf("the long example lacks %q", f.key)
		}
	}
	paths := leaves("", whole)
	text := string(load(t, handbook))
	for _, p := range paths {
		if !strings.Contains(text, "`"+p+"`") {
			t.Errorf("%s has no row for `%s`", handbook, p)
		}
	}
}

// leaves lists the paths of all keys that are not objects.
func leaves(path string, object map[string]any) (paths []string) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		at := join(path, key)
		if inner, ok := object[key].(map[string]any); ok {
			paths = append(paths, leaves(at, inner)...)
			continue
		}
		paths = append(paths, at)
	}
	return paths
}

// TestWhatAChangeTakesIsDocumented: the handbook's table names the keys that can
// be changed without a restart.
func TestWhatAChangeTakesIsDocumented(t *testing.T) {
	_, rest, found := strings.Cut(string(load(t, handbook)), "### Changing it while nat64d runs")
	section, _, _ := strings.Cut(rest, "\n\n**")
	if !found {
		t.Fatal("the section about changes is gone")
	}
	for _, takes := range []Takes{Live, Reload} {
		var row, want []string
		for line := range strings.Lines(section) {
			if cells := strings.Split(line, "|"); strings.Contains(line, "| `"+takes.String()+"`") {
				for _, m := range regexp.MustCompile("`([a-z0-9_.]+)`").FindAllStringSubmatch(cells[2], -1) {
					row = append(row, m[1])
				}
			}
		}
		for _, k := range keys {
			if k.takes == takes {
				want = append(want, k.path)
			}
		}
		slices.Sort(row)
		slices.Sort(want)
		if !slices.Equal(row, want) {
			t.Errorf("keys whose change takes %q in the handbook: %v\nin keys.go: %v", takes, row, want)
		}
	}
}

// The message about a file that is nested too deep sends its reader there.
func TestExampleIsWhereMessagesSayItIs(t *testing.T) {
	deep := strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1)
	_, problems := Parse("x", []byte(deep))
	if len(problems) != 1 || !strings.Contains(problems[0].Fix, strings.TrimPrefix(handbook, "../../../")) {
		t.Fatalf("got %s", messages(problems))
	}
	if _, err := os.Stat(handbook); err != nil {
		t.Error(fmt.Errorf("the file that messages name: %w", err))
	}
}
