package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestReport feeds the events of a run with every outcome.
func TestReport(t *testing.T) {
	const events = `{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"=== RUN   TestGood\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"    a_test.go:3: chatter\n"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"--- PASS: TestGood (0.00s)\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Output":"PASS\n"}
{"Action":"output","Package":"m/a","Output":"ok  \tm/a\t0.01s\n"}
{"Action":"pass","Package":"m/a"}
{"Action":"output","Package":"m/b","Test":"TestRoot","Output":"    b_test.go:9: needs root\n"}
{"Action":"output","Package":"m/b","Test":"TestRoot","Output":"--- SKIP: TestRoot (0.00s)\n"}
{"Action":"skip","Package":"m/b","Test":"TestRoot"}
{"Action":"output","Package":"m/b","Test":"TestPing/ipv4/64","Output":"    b_test.go:12: ping is not installed\n"}
{"Action":"skip","Package":"m/b","Test":"TestPing/ipv4/64"}
{"Action":"skip","Package":"m/b","Test":"TestMute"}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"    b_test.go:15: wrong\n"}
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"--- FAIL: TestBad (0.00s)\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad"}
{"Action":"output","Package":"m/b","Test":"TestHangs","Output":"panic: test timed out\n"}
{"Action":"output","Package":"m/b","Output":"FAIL\tm/b\t0.02s\n"}
{"ImportPath":"m/d","Action":"build-output","Output":"d.go:1: syntax error\n"}
`
	const want = "ok  \tm/a\t0.01s\n" +
		"    b_test.go:15: wrong\n--- FAIL: TestBad (0.00s)\n" +
		"FAIL\tm/b\t0.02s\n" +
		"d.go:1: syntax error\n" +
		"did not end: m/b.TestHangs\npanic: test timed out\n" +
		"not run: 2 tests: b.TestPing/ipv4/64 (ping is not installed), b.TestMute (no reason given)\n" +
		"not run without root: 1 test: b.TestRoot\n"
	var out bytes.Buffer
	r := report{out: &out, held: map[string][]string{}}
	if err := r.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	r.summary()
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	if err := r.read(strings.NewReader("go: cannot find main module")); err == nil {
		t.Error("output that is no JSON was accepted")
	}
}
