package ring_test

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"handoff64/ring"
)

// The kernel has been asked for what Pages says: its own list of the mapping's
// flags has "ht" for reserved huge pages, "hg" for transparent ones.
func TestUMEMPagesAreAsked(t *testing.T) {
	u, err := ring.NewUMEM(4096, 2048)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	flags := vmFlags(t, uintptr(unsafe.Pointer(&u.Mem[0])))
	want := map[ring.Pages]string{ring.PagesHuge: "ht", ring.PagesTransparent: "hg"}[u.Pages()]
	if want == "" {
		if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err == nil {
			t.Error("small pages, although this kernel has transparent huge ones")
		}
		return
	}
	if !slices.Contains(flags, want) {
		t.Errorf("pages are %s, but the mapping's flags %v have no %s", u.Pages(), flags, want)
	}
}

// vmFlags are the flags of the mapping that an address lies in (proc_pid_smaps(5)).
func vmFlags(t *testing.T, at uintptr) []string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		first, _, _ := strings.Cut(lines.Text(), " ")
		if from, to, ok := addresses(first); ok {
			inside = from <= at && at < to
		} else if rest, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return strings.Fields(rest)
		}
	}
	t.Fatal(fmt.Errorf("no mapping at %#x", at))
	return nil
}

func addresses(word string) (from, to uintptr, ok bool) {
	a, b, ok := strings.Cut(word, "-")
	x, err := strconv.ParseUint(a, 16, 64)
	y, err2 := strconv.ParseUint(b, 16, 64)
	return uintptr(x), uintptr(y), ok && err == nil && err2 == nil
}
