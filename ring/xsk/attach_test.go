package xsk

import (
	"fmt"
	"strings"
	"testing"

	"github.com/asavie/xdp"
)

// leaveProgram attaches a filter as a killed process leaves it: without
// sockets and without anybody who holds it.
func leaveProgram(t *testing.T, name string, mode Mode, stateDir string) {
	t.Helper()
	l, err := findLink(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := loadFilterProgram(testConfig(), 1, testMAC, true, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.attach(l, mode); err != nil {
		t.Fatal(err)
	}
	if err := f.note(l, stateDir); err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}

func TestLeftOverIsTakenOver(t *testing.T) {
	needsRoot(t)
	for _, left := range []Mode{ModeNative, ModeGeneric} {
		for _, mode := range []Mode{ModeNative, ModeGeneric} {
			t.Run(fmt.Sprintf("%s after %s", mode, left), func(t *testing.T) {
				w := newWires(t, 1)
				leaveProgram(t, "six0", left, "")
				old := w.programOn("six0")
				if old == 0 {
					t.Fatal("nothing was left behind: the test is broken")
				}
				d := openDevice(t, w.config(mode))
				if now := w.programOn("six0"); now == old || now == 0 {
					t.Errorf("program %d is attached, %d was left", now, old)
				}
				f := startForwarder(d)
				exchange(t, w.six, w.four, numbered6, 50)
				f.finish(t)
			})
		}
	}
}

func TestNoteNamesTheLeftOver(t *testing.T) {
	w := newWires(t, 1)
	dir := t.TempDir()
	l, err := findLink("six0")
	if err != nil {
		t.Fatal(err)
	}
	leaveProgram(t, "six0", ModeNative, dir)
	if noted, id := notedProgram(l, dir), w.programOn("six0"); noted != id {
		t.Errorf("program %d is noted, %d is attached", noted, id)
	}
	cfg := w.config(ModeNative)
	cfg.StateDir = dir
	d := openDevice(t, cfg)
	if noted, id := notedProgram(l, dir), w.programOn("six0"); noted != id {
		t.Errorf("program %d is noted, %d is attached", noted, id)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if noted := notedProgram(l, dir); noted != 0 {
		t.Errorf("program %d is still noted", noted)
	}
}

func TestForeignProgramIsRefused(t *testing.T) {
	w := newWires(t, 1)
	foreign, err := xdp.NewProgram(1)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	l, err := findLink("four0")
	if err != nil {
		t.Fatal(err)
	}
	if err := (&filter{xdp: foreign}).attach(l, ModeGeneric); err != nil {
		t.Fatal(err)
	}
	id := w.programOn("four0")
	d, err := Open(w.config(ModeAuto))
	if err == nil {
		d.Close()
		t.Fatal("opened over somebody else's program")
	}
	for _, want := range []string{`"four0"`, `"xsk_ebpf"`, "ip link set dev four0 xdp off"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %s", err, want)
		}
	}
	if now := w.programOn("four0"); now != id {
		t.Errorf("program %d is attached, %d was", now, id)
	}
	if now := w.programOn("six0"); now != 0 {
		t.Errorf("the failed Open left program %d on the other interface", now)
	}
}

func TestSecondInstanceIsRefused(t *testing.T) {
	w := newWires(t, 1)
	d := openDevice(t, w.config(ModeAuto))
	if second, err := Open(w.config(ModeAuto)); err == nil {
		second.Close()
		t.Fatal("two instances on one interface")
	} else if !strings.Contains(err.Error(), "in use by another running instance") {
		t.Errorf("the error is %q", err)
	}
	f := startForwarder(d) // the first one has not noticed
	exchange(t, w.six, w.four, numbered6, 50)
	f.finish(t)
}
