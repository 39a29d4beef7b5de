package conntrack

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// Tables ask for huge pages: reserved ones ("ht" among the flags of the
// mapping, proc_pid_smaps(5)), else transparent ones ("hg").
func TestTablesAskForHugePages(t *testing.T) {
	_, err := os.Stat("/sys/kernel/mm/transparent_hugepage")
	able := err == nil
	maps := map[string]func() (region, error){
		"slots":         func() (region, error) { return mapAnonymous(bigRegion + 4096) },
		"a small table": func() (region, error) { return mapAnonymous(2 * hugePage) },
		"mappings":      func() (region, error) { return mapSparse(2*hugePage, true) },
	}
	for name, newRegion := range maps {
		r, err := newRegion()
		if err != nil {
			t.Fatal(err)
		}
		if flags := vmFlags(t, &r.mem[0]); able && !strings.Contains(flags+" ", " hg ") && !strings.Contains(flags+" ", " ht ") {
			t.Errorf("%s: flags are%s", name, flags)
		}
		if err := r.unmap(); err != nil {
			t.Error(err)
		}
	}
}

// vmFlags are the flags of the mapping that an octet lies in.
func vmFlags(t *testing.T, p *byte) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at, inside := uintptr(unsafe.Pointer(p)), false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var from, to uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x ", &from, &to); n == 2 {
			inside = from <= at && at < to
		} else if flags, ok := strings.CutPrefix(lines.Text(), "VmFlags:"); ok && inside {
			return flags
		}
	}
	t.Fatalf("no mapping at %#x", at)
	return ""
}
