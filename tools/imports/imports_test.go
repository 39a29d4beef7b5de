package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "handoff64/"

// row says what a package may import from the project, and what its tests may
// import beside that. A pattern that ends in "/..." stands for all below it and
// for the package itself.
type row struct {
	pkg         string
	may, inTest []string
}

// table is the import graph. The first row that fits a package counts.
var table = []row{
	{"dataplane/packet", nil, []string{"dataplane/fixture"}},
	{"dataplane/xlat", []string{"dataplane/packet"}, []string{"dataplane/fixture", "dataplane/reference"}},
	{"dataplane/nexthop", nil, nil},
	{"dataplane/fixture", nil, nil},
	{"dataplane/reference", nil, nil},
	{"conntrack", nil, nil},
	{"ring", nil, nil},
	{"ring/xsk", []string{"ring"}, nil},
	{"ring/memport", []string{"ring"}, nil},
	{"ring/tunport", []string{"ring"}, []string{"ring/memport"}},
	{"ring/pcapport", []string{"ring"}, []string{"ring/memport"}},
	{"dataplane", []string{"dataplane/packet", "dataplane/xlat", "dataplane/nexthop", "conntrack", "ring"},
		[]string{"dataplane/fixture", "dataplane/reference", "ring/memport", "ring/pcapport"}},
	{"handoff/wire", nil, nil},
	{"handoff/segment", nil, nil},
	{"handoff", []string{"handoff/wire", "handoff/segment", "conntrack", "ring"}, nil},
	{"handoff/localnat", []string{"dataplane/xlat", "dataplane/packet"}, []string{"dataplane/reference"}},
	{"handoff/tundev", nil, nil},
	{"handoff/client", nil, nil},
	{"handoff/client/example", []string{"handoff/client"}, nil},
	{"handoff/annotate", []string{"handoff/server"}, nil},
	{"handoff/server", []string{"handoff/client", "handoff/wire", "handoff/segment", "handoff/localnat", "handoff/tundev", "dataplane/xlat", "dataplane/packet"}, []string{"dataplane/reference"}},

	{"cmd/commandline", nil, nil},
	// A command may use everything but another command; nat64ctl speaks the
	// language of nat64d's control socket.
	{"cmd/nat64d/...", []string{"cmd/nat64d/...", "cmd/commandline", "conntrack/...", "dataplane/...", "handoff/...", "ring/..."}, []string{"tools/lab/..."}},
	{"cmd/nat64ctl/...", []string{"cmd/nat64ctl/...", "cmd/commandline", "cmd/nat64d/control"}, []string{"cmd/nat64d/control/controltest"}},
	{"cmd/nat64lab/...", []string{"cmd/nat64lab/...", "cmd/commandline", "cmd/nat64d/control", "tools/lab/..."}, nil},
	{"cmd/handoffd/...", []string{"cmd/handoffd/...", "cmd/commandline", "conntrack/...", "dataplane/...", "handoff/...", "ring/..."}, []string{"tools/lab/..."}},
	{"cmd/pktgen/...", []string{"cmd/pktgen/...", "cmd/commandline", "bench/...", "conntrack/...", "dataplane/...", "handoff/...", "ring/..."}, []string{"tools/lab/..."}},

	{"tools/lab/...", []string{"tools/lab/...", "bench/...", "cmd/nat64d/config", "cmd/nat64d/control", "conntrack/...", "dataplane/...", "handoff/...", "ring/..."}, nil},
	{"tools/imports", nil, nil},
	{"tools/testreport", nil, nil},
	{"tools/documents", nil, nil},
	{"tools/dissector", nil, nil},
	{"bench/...", []string{"bench/...", "conntrack/...", "dataplane/...", "handoff/...", "ring/..."}, nil},
}

// unsafeIn lists who may import unsafe: what shares memory with the kernel, and
// the tables that live in mmapped files. Tests may: they measure structs with it.
var unsafeIn = []string{"ring/...", "conntrack"}

// vague are names that say nothing about what a package is for.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "lib"}

// pkg is what `go list -json` says about a package.
type pkg struct {
	ImportPath, Name                   string
	Imports, TestImports, XTestImports []string
	CgoFiles                           []string
}

// short is the path below the module, and whether it is one of the project's.
func short(importPath string) (string, bool) { return strings.CutPrefix(importPath, module) }

func fits(pattern, p string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return p == tree || strings.HasPrefix(p, tree+"/")
	}
	return pattern == p
}

func fitsAny(patterns []string, p string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return fits(pattern, p) })
}

func rowFor(p string) *row {
	for i := range table {
		if fits(table[i].pkg, p) {
			return &table[i]
		}
	}
	return nil
}

// violations checks one package against the table.
func violations(p pkg) (bad []string) {
	name, _ := short(p.ImportPath)
	if slices.Contains(vague, path.Base(name)) || slices.Contains(vague, p.Name) {
		bad = append(bad, name+": the name says nothing about what the package is for")
	}
	if len(p.CgoFiles) > 0 {
		bad = append(bad, name+" uses cgo")
	}
	r := rowFor(name)
	if r == nil {
		return append(bad, name+" is not in the table of the import graph: give it a row")
	}
	check := func(imports, allowed []string, where string) {
		for _, i := range imports {
			dep, ours := short(i)
			if i == "unsafe" && where == "" && !fitsAny(unsafeIn, name) {
				bad = append(bad, name+" imports unsafe")
			}
			if ours && dep != name && !fitsAny(allowed, dep) {
				bad = append(bad, name+where+" may not import "+dep)
			}
		}
	}
	inTest := append(slices.Clone(r.may), r.inTest...)
	check(p.Imports, r.may, "")
	check(p.TestImports, inTest, " in its tests")
	check(p.XTestImports, inTest, " in its tests")
	return bad
}

// list asks the go command for every package of the module.
func list(t *testing.T) []pkg {
	t.Helper()
	// With a program's profile, go list has packages once more, built for it.
	cmd := exec.Command("go", "list", "-pgo=off", "-json=ImportPath,Name,Imports,TestImports,XTestImports,CgoFiles", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Logf("%s", exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatalf("reading what go list says: %v", err)
		}
		ps = append(ps, p)
	}
}

func TestImportGraph(t *testing.T) {
	ps := list(t)
	if len(ps) < 10 {
		t.Fatalf("go list knows only %d packages", len(ps))
	}
	for _, p := range ps {
		for _, v := range violations(p) {
			t.Error(v)
		}
	}
}

// TestNoCycles covers what the compiler does not: cycles that go through the
// tests of two packages.
func TestNoCycles(t *testing.T) {
	edges := map[string][]string{}
	for _, p := range list(t) {
		name, _ := short(p.ImportPath)
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if dep, ours := short(i); ours && dep != name && !isFixture(dep) {
				edges[name] = append(edges[name], dep)
			}
		}
	}
	if c := cycle(edges); c != nil {
		t.Errorf("import cycle: %s", strings.Join(c, " → "))
	}
}

// isFixture names packages that only tests use: they import what is tested.
func isFixture(p string) bool {
	return fitsAny([]string{"dataplane/fixture", "dataplane/reference", "ring/memport", "ring/pcapport", "cmd/nat64d/control/controltest", "tools/lab/..."}, p)
}

// cycle returns the packages of one cycle, or nil.
func cycle(edges map[string][]string) []string {
	const onPath, done = 1, 2
	state := map[string]int{}
	var visit func(p string, trail []string) []string
	visit = func(p string, trail []string) []string {
		trail = append(trail, p)
		switch state[p] {
		case onPath:
			return trail[slices.Index(trail, p):]
		case done:
			return nil
		}
		state[p] = onPath
		for _, dep := range edges[p] {
			if c := visit(dep, trail); c != nil {
				return c
			}
		}
		state[p] = done
		return nil
	}
	for p := range edges {
		if c := visit(p, nil); c != nil {
			return c
		}
	}
	return nil
}

// TestTableCanFail: what the table forbids is found.
func TestTableCanFail(t *testing.T) {
	for want, p := range map[string]pkg{
		"conntrack may not import ring":                                            {ImportPath: module + "conntrack", Imports: []string{module + "ring"}},
		"ring may not import dataplane/packet":                                     {ImportPath: module + "ring", Imports: []string{module + "dataplane/packet"}},
		"dataplane may not import handoff":                                         {ImportPath: module + "dataplane", Imports: []string{module + "handoff"}},
		"dataplane may not import ring/memport":                                    {ImportPath: module + "dataplane", Imports: []string{module + "ring/memport"}},
		"dataplane in its tests may not import ring/xsk":                           {ImportPath: module + "dataplane", TestImports: []string{module + "ring/xsk"}},
		"dataplane/xlat in its tests may not import conntrack":                     {ImportPath: module + "dataplane/xlat", XTestImports: []string{module + "conntrack"}},
		"cmd/nat64d may not import cmd/nat64lab":                                   {ImportPath: module + "cmd/nat64d", Imports: []string{module + "cmd/nat64lab"}},
		"cmd/nat64d may not import tools/lab":                                      {ImportPath: module + "cmd/nat64d", Imports: []string{module + "tools/lab"}},
		"dataplane imports unsafe":                                                 {ImportPath: module + "dataplane", Imports: []string{"unsafe"}},
		"conntrack uses cgo":                                                       {ImportPath: module + "conntrack", CgoFiles: []string{"x.go"}},
		"novelty is not in the table of the import graph: give it a row":           {ImportPath: module + "novelty"},
		"conntrack/deeper is not in the table of the import graph: give it a row":  {ImportPath: module + "conntrack/deeper"},
		"cmd/nat64d/util: the name says nothing about what the package is for":     {ImportPath: module + "cmd/nat64d/util"},
		"cmd/nat64d/config/x: the name says nothing about what the package is for": {ImportPath: module + "cmd/nat64d/config/x", Name: "common"},
		"tools/another is not in the table of the import graph: give it a row":     {ImportPath: module + "tools/another"},
		"handoff/wire in its tests may not import handoff":                         {ImportPath: module + "handoff/wire", TestImports: []string{module + "handoff"}},
		"cmd/nat64ctl may not import cmd/nat64d/config":                            {ImportPath: module + "cmd/nat64ctl", Imports: []string{module + "cmd/nat64d/config"}},
		"cmd/nat64ctl may not import cmd/nat64d/control/controltest":               {ImportPath: module + "cmd/nat64ctl", Imports: []string{module + "cmd/nat64d/control/controltest"}},
		"bench may not import tools/lab/e2e":                                       {ImportPath: module + "bench", Imports: []string{module + "tools/lab/e2e"}},
		"ring/xsk may not import ring/memport":                                     {ImportPath: module + "ring/xsk", Imports: []string{module + "ring/memport", module + "ring", "unsafe"}},
	} {
		if got := violations(p); len(got) != 1 || got[0] != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	fine := pkg{ImportPath: module + "cmd/nat64d", Imports: []string{module + "cmd/nat64d/config", module + "ring/xsk", "fmt"}}
	if got := violations(fine); got != nil {
		t.Errorf("refused what is allowed: %q", got)
	}
	if c := cycle(map[string][]string{"a": {"b"}, "b": {"c"}, "c": {"b"}}); len(c) != 3 {
		t.Errorf("the cycle b → c → b is seen as %v", c)
	}
	if c := cycle(map[string][]string{"a": {"b", "c"}, "b": {"c"}}); c != nil {
		t.Errorf("a cycle where there is none: %v", c)
	}
}
