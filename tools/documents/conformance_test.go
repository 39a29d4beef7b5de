package documents

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// row is a line of a table in docs/conformance.md.
type row struct {
	line                             int
	section, what, where, state, how string
}

const (
	columns = "section | requirement | where | (yes, partly or no) | shown by"
	header  = "| section | requirement | where | | shown by |\n"
)

// rows reads the tables; complaints are about lines that are no rows.
func rows(text string) (all []row, complaints []string) {
	n, within := 0, false
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "| section |"):
			within = true
			continue
		case !strings.HasPrefix(line, "|"):
			within = false // a table of something else may follow
		}
		if !within || strings.HasPrefix(line, "| ---") {
			continue
		}
		c := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "|"), "|"), "|")
		if len(c) != 5 {
			complaints = append(complaints, at(n, "a row has the cells "+columns))
			continue
		}
		for i := range c {
			c[i] = strings.TrimSpace(c[i])
		}
		all = append(all, row{n, c[0], c[1], c[2], c[3], c[4]})
	}
	return all, complaints
}

func at(line int, what string) string { return fmt.Sprintf("docs/conformance.md:%d: %s", line, what) }

// repository is what the tables are held to.
type repository struct {
	root  string
	funcs map[string]map[string]bool // of each Go file, by its path
	tests map[string]*test
	cases map[string]bool // seen in a row?
}

// test is a test function.
type test struct{ skips []string } // reasons why it may not run

var quoted = regexp.MustCompile("`([^`]+)`")

// check says what is wrong with a row, and notes the cases that it names.
func (r *repository) check(w row) (complaints []string) {
	complain := func(what string) { complaints = append(complaints, at(w.line, what)) }
	word, reason, _ := strings.Cut(strings.NewReplacer(",", " ", ":", " ", ";", " ").Replace(w.state)+" ", " ")
	if word != "yes" && word != "partly" && word != "no" {
		complain("the fourth cell begins with yes, partly or no, not with " + word)
	}
	if word != "yes" && len(strings.TrimSpace(reason)) < 10 {
		complain(word + " needs a reason")
	}
	if w.section == "" || w.what == "" || w.where == "" {
		complain("a cell is empty")
	}
	if word != "no" && w.how == "" {
		complain(word + ", and nothing shows it")
	}
	for _, what := range r.checkWhere(w.where) {
		complain(what)
	}
	for _, m := range quoted.FindAllStringSubmatch(w.how, -1) {
		if what := r.checkShown(m[1]); what != "" {
			complain(what)
		}
	}
	return complaints
}

// checkWhere looks for files, and for functions in the files named before them.
func (r *repository) checkWhere(cell string) (complaints []string) {
	file := ""
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		name := m[1]
		if strings.Contains(name, "/") {
			file = name
			if _, err := os.Stat(filepath.Join(r.root, name)); err != nil {
				complaints = append(complaints, "there is no file "+name)
			}
			continue
		}
		if !r.funcs[file][name] {
			complaints = append(complaints, "there is no function "+name+" in "+file)
		}
	}
	if file == "" {
		complaints = append(complaints, "no file is named")
	}
	return complaints
}

func (r *repository) checkShown(name string) string {
	if strings.HasPrefix(name, "Test") || strings.HasPrefix(name, "Fuzz") {
		t := r.tests[name]
		if t == nil {
			return "there is no test " + name
		}
		for _, why := range t.skips {
			if !mayBeMissing(why) {
				return name + " may be skipped: " + why
			}
		}
		return ""
	}
	found := false
	for c := range r.cases {
		if ok, err := path.Match(name, c); err == nil && ok {
			r.cases[c], found = true, true
		}
	}
	if !found {
		return "there is no case " + name
	}
	return ""
}

// mayBeMissing: root's rights and programs of others are there in a full run,
// and `make test` lists the tests that ran without.
func mayBeMissing(why string) bool {
	return strings.Contains(why, "needs root") || strings.Contains(why, "is not installed")
}

// open reads what there is in the repository.
func open(t *testing.T) *repository {
	t.Helper()
	r := &repository{root: root, funcs: map[string]map[string]bool{}, tests: map[string]*test{}, cases: map[string]bool{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		const cases = "dataplane/testdata/cases/"
		if c, ok := strings.CutPrefix(filepath.ToSlash(name), cases); ok && strings.HasSuffix(c, ".case") {
			r.cases[strings.TrimSuffix(c, ".case")] = false
		}
		if strings.HasSuffix(name, ".go") {
			return r.source(filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// source notes a file's functions, and of tests why they may be skipped.
func (r *repository) source(name string) error {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(r.root, name), nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	r.funcs[name] = map[string]bool{}
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		r.funcs[name][fn.Name.Name] = true
		if strings.HasSuffix(name, "_test.go") && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
			known := r.tests[fn.Name.Name]
			if known == nil {
				known = &test{}
				r.tests[fn.Name.Name] = known
			}
			known.skips = append(known.skips, skips(fn)...)
		}
	}
	return nil
}

// skips are the reasons that a test gives for not running.
func skips(fn *ast.FuncDecl) (reasons []string) {
	ast.Inspect(fn, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || f.Sel.Name != "Skip" && f.Sel.Name != "Skipf" && f.Sel.Name != "SkipNow" {
			return true
		}
		why := "no reason given"
		if len(call.Args) > 0 {
			if s, ok := call.Args[0].(*ast.BasicLit); ok {
				why = s.Value
			}
		}
		reasons = append(reasons, why)
		return true
	})
	return reasons
}

// TestConformance holds the tables of docs/conformance.md to the repository.
func TestConformance(t *testing.T) {
	r := open(t)
	all, complaints := rows(documents(t)["docs/conformance.md"])
	for _, w := range all {
		complaints = append(complaints, r.check(w)...)
	}
	for c, named := range r.cases {
		if !named {
			complaints = append(complaints, "no row of docs/conformance.md names the case "+c)
		}
	}
	for _, c := range complaints {
		t.Error(c)
	}
	if len(all) < 80 || len(r.cases) < 200 {
		t.Errorf("%d rows and %d cases; there were more", len(all), len(r.cases))
	}
}

// TestConformanceCanFail: what the test forbids is found.
func TestConformanceCanFail(t *testing.T) {
	r := &repository{
		root: root, funcs: map[string]map[string]bool{"dataplane/rx.go": {"receive": true}}, cases: map[string]bool{"area/one": false, "area/two": false},
		tests: map[string]*test{"TestGood": {}, "TestRoot": {skips: []string{`"needs root"`}}, "TestOff": {skips: []string{`"flaky"`}}},
	}
	for line, want := range map[string]string{
		"| §1 | what | `dataplane/rx.go` `receive` | yes | `TestGood`, `area/*` |": "",
		"| §1 | what | `dataplane/rx.go` | yes, always | `TestRoot` |":             "",
		"| §1 | what | `dataplane/rx.go` | no: nobody wants it | |":                "",
		"| §1 | what | `dataplane/rx.go` | yes |":                                  "a row has the cells",
		"| §1 | what | `dataplane/rx.go` | perhaps | `TestGood` |":                 "yes, partly or no",
		"| §1 | what | `dataplane/rx.go` | no | |":                                 "no needs a reason",
		"| §1 | what | `dataplane/rx.go` | partly | `TestGood` |":                  "partly needs a reason",
		"| §1 | what | `dataplane/rx.go` | yes | |":                                "nothing shows it",
		"| §1 | what | | yes | `TestGood` |":                                       "a cell is empty",
		"| §1 | what | `dataplane/none.go` | yes | `TestGood` |":                   "there is no file",
		"| §1 | what | `dataplane/rx.go` `transmit` | yes | `TestGood` |":          "there is no function transmit",
		"| §1 | what | somewhere | yes | `TestGood` |":                             "no file is named",
		"| §1 | what | `dataplane/rx.go` | yes | `TestNone` |":                     "there is no test TestNone",
		"| §1 | what | `dataplane/rx.go` | yes | `TestOff` |":                      "TestOff may be skipped",
		"| §1 | what | `dataplane/rx.go` | yes | `area/three` |":                   "there is no case area/three",
	} {
		all, got := rows(header + line)
		for _, w := range all {
			got = append(got, r.check(w)...)
		}
		if text := strings.Join(got, "\n"); want == "" && text != "" || !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", line, text, want)
		}
	}
	if !r.cases["area/one"] || !r.cases["area/two"] {
		t.Error("the pattern did not count as naming its cases")
	}
}
