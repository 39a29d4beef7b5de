package control

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// TestMetricsAreDocumented: the operators' handbook names every metric, and
// none that does not exist.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, m := range regexp.MustCompile("`(nat64_[a-z0-9_]+)`").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1])
	}
	for _, r := range metricRows {
		if !slices.Contains(documented, r.name) {
			t.Errorf("docs/operations.md does not name `%s`", r.name)
		}
	}
	for _, name := range documented {
		if !slices.ContainsFunc(metricRows[:], func(r struct{ name, labels, help string }) bool { return r.name == name }) {
			t.Errorf("docs/operations.md names `%s`, which is no metric", name)
		}
	}
}
