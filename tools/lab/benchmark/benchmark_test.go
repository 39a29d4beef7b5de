package benchmark

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"handoff64/tools/lab/compare"
)

const printed = `goos: linux
goarch: amd64
pkg: handoff64/bench
cpu: AMD EPYC
BenchmarkCalibration/copy-64-2            	202145414	         1.136 ns/op	         1.133 cpu-ns/op
BenchmarkDataplane/udp/64/flows=1-2       	 2429214	        98.52 ns/op	        10.15 Mpps	        98.51 cpu-ns/op	        10.06 gen-ns/op	       0 B/op	       0 allocs/op
BenchmarkScaling/udp/flows=1000-2         	 5000000	       263.3 ns/op	         1.542 machine-x	       107.2 one-ns/op	        73.50 two-ns/op	         1.458 x
PASS
`

// TestReadGoTest: names and units are those that the benchmarks have.
func TestReadGoTest(t *testing.T) {
	runs := map[string]map[string][]float64{}
	var order []string
	for _, text := range []string{printed, strings.Replace(printed, "98.52 ns/op", "90 ns/op", 1)} {
		var err error
		if order, err = read([]byte(text), runs, order); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(order, " "); got != "Calibration/copy-64 Dataplane/udp/64/flows=1 Scaling/udp/flows=1000" {
		t.Errorf("names %s", got)
	}
	for name, want := range map[string]map[string][]float64{
		"Dataplane/udp/64/flows=1": {"ns/op": {98.52, 90}, "cpu-ns/op": {98.51, 98.51}, "Mpps": {10.15, 10.15}, "allocs/op": {0, 0}},
		"Scaling/udp/flows=1000":   {"x": {1.458, 1.458}, "machine-x": {1.542, 1.542}},
	} {
		for unit, values := range want {
			if got := runs[name][unit]; len(got) != 2 || !near(got[0], values[0]) || !near(got[1], values[1]) {
				t.Errorf("%s %s: %v, want %v", name, unit, got, values)
			}
		}
	}
}

func near(a, b float64) bool { return a >= b*0.999999 && a <= b*1.000001 }

// TestCommittedResults: the document shows what lies beside it, and all of it
// can be drawn.
func TestCommittedResults(t *testing.T) {
	r, err := Load("../../../bench/results")
	if err != nil {
		t.Fatal(err)
	}
	if r.Memory == nil || r.Sessions == nil || r.Devices == nil || r.RFC == nil || r.Tunnels == nil {
		t.Fatalf("results of a group are missing: %+v", r)
	}
	const document = "../../../docs/benchmarks.md"
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	text, err := renewed(string(content), r.Tables())
	if err != nil {
		t.Fatal(err)
	}
	if text != string(content) {
		t.Errorf("%s does not have the tables of bench/results: `nat64lab bench --groups none --document docs/benchmarks.md` renews them", document)
	}
	for _, table := range r.Tables() {
		if !strings.Contains(text, "<!-- make bench: "+table.Name+" -->") {
			t.Errorf("%s has no place for table %s", document, table.Name)
		}
		for _, row := range table.Rows {
			if len(row) != len(table.Columns) {
				t.Errorf("table %s: row %q does not fit columns %q", table.Name, row, table.Columns)
			}
		}
	}
	dir := t.TempDir()
	if err := r.Plot(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"throughput-over-flows.svg", "cost-over-flows.svg", "devices.svg", "latency.svg"} {
		svg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		committed, err := os.ReadFile(filepath.Join("../../../bench/results", name))
		// Other processors round differently.
		if err != nil || runtime.GOARCH == "amd64" && !bytes.Equal(svg, committed) {
			t.Errorf("bench/results/%s is not drawn from the results beside it (%v)", name, err)
		}
	}
}

func TestRenewed(t *testing.T) {
	tables := []Table{{Name: "a", Columns: []string{"x", "y"}, Rows: [][]string{{"1", "2"}}, Before: []string{"before"}, After: []string{"after"}}, {Name: "b"}}
	got, err := renewed("1\n<!-- make bench: a -->\nold\n<!-- end -->\n2\n", tables)
	const want = "1\n<!-- make bench: a -->\nbefore\n\n| x | y |\n| --- | ---: |\n| 1 | 2 |\n\nafter\n<!-- end -->\n2\n"
	if err != nil || got != want {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
	if _, err := renewed("<!-- make bench: a -->\nold\n", tables); !errors.Is(err, errMark) {
		t.Errorf("without an end: %v", err)
	}
}

// TestRunKeepsAndShows runs nothing, and shows what an earlier run left.
func TestRunKeepsAndShows(t *testing.T) {
	dir := t.TempDir()
	b := Benchmarks{Header: Header{Version: "v", Command: "c"}, Benchmarks: []Benchmark{{"Dataplane/udp/64/flows=1", map[string]compare.Spread{"cpu-ns/op": compare.SpreadOf([]float64{60, 70, 80})}}}}
	if err := save(dir, groupMemory, b); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Run(context.Background(), Options{Dir: dir, Out: &out, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "60.0 (70.0)") {
		t.Errorf("shown:\n%s", &out)
	}
	if _, err := os.Stat(filepath.Join(dir, "cost-over-flows.svg")); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file(dir, groupRFC), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "rfc.json") {
		t.Errorf("a broken file: %v", err)
	}
}

func TestThousands(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 1234567.8: "1,234,568"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
