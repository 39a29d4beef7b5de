package documents

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// TestFuzzTargetsKeepACorpus: what fuzzing found interesting is kept beside
// each target, so that every run of the tests tries it, and docs/design.md
// lists the target.
func TestFuzzTargetsKeepACorpus(t *testing.T) {
	design := documents(t)["docs/design.md"]
	targets := 0
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range fuzzTarget.FindAllStringSubmatch(string(text), -1) {
			targets++
			folder := filepath.Join(filepath.Dir(path), "testdata", "fuzz", m[1])
			if files, err := os.ReadDir(folder); err != nil || len(files) == 0 {
				t.Errorf("%s: no corpus in %s: run make fuzz and keep some of what go env GOCACHE has under fuzz/ (%v)", m[1], folder, err)
			}
			pkg, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			if !strings.Contains(design, "| `"+m[1]+"` | `"+filepath.ToSlash(pkg)+"` |") {
				t.Errorf("docs/design.md does not list %s of %s among the fuzz targets", m[1], pkg)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if targets < 20 {
		t.Errorf("%d fuzz targets; there were more", targets)
	}
}
