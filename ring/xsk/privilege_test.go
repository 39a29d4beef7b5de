package xsk

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// keepOnly drops all effective capabilities of the calling thread but the
// given ones, until the test ends. The caller has locked the thread.
func keepOnly(t *testing.T, caps ...uint) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had, want [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		t.Fatal(err)
	}
	want = had
	want[0].Effective, want[1].Effective = 0, 0
	for _, c := range caps {
		want[c/32].Effective |= 1 << (c % 32)
	}
	if err := unix.Capset(&header, &want[0]); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Capset(&header, &had[0]); err != nil {
			t.Error(err)
		}
	})
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	needsRoot(t)
	for _, tt := range []struct {
		name            string
		keep            []uint
		want, unwelcome []string
	}{
		{"none", nil, []string{"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF"}, nil},
		{"no raw", []uint{unix.CAP_NET_ADMIN, unix.CAP_BPF}, []string{"CAP_NET_RAW"}, []string{"CAP_BPF", "CAP_NET_ADMIN"}},
		{"no BPF", []uint{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, []string{"CAP_BPF"}, []string{"CAP_NET"}},
		{"SYS_ADMIN for BPF", []uint{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}, []string{"CAP_NET_RAW"}, []string{"CAP_BPF"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWires(t, 1)
			cfg := w.config(ModeAuto)
			keepOnly(t, tt.keep...)
			d, err := Open(cfg)
			if err == nil {
				d.Close()
				t.Fatal("opened without privileges")
			}
			if !errors.Is(err, unix.EPERM) {
				t.Errorf("%v is not EPERM", err)
			}
			for _, s := range tt.want {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not name %s", err, s)
				}
			}
			for _, s := range tt.unwelcome {
				if strings.Contains(err.Error(), s) {
					t.Errorf("%q names %s", err, s)
				}
			}
		})
	}
}

// TestThreeCapabilitiesAreEnough runs with no more than what is documented,
// from the left-over of a killed instance on.
func TestThreeCapabilitiesAreEnough(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeAuto)
	cfg.FramesPerQueue = 512 // 2 MiB: within the usual limit on pinned memory
	cfg.StateDir = t.TempDir()
	leaveProgram(t, "six0", ModeNative, cfg.StateDir)
	keepOnly(t, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF)
	d := openDevice(t, cfg)
	f := startForwarder(d)
	exchange(t, w.six, w.four, numbered6, 50)
	f.finish(t)
}

// TestUnknownLeftOverNeedsSysAdmin is the same without a note.
func TestUnknownLeftOverNeedsSysAdmin(t *testing.T) {
	w := newWires(t, 1)
	leaveProgram(t, "six0", ModeNative, "")
	keepOnly(t, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_BPF)
	d, err := Open(w.config(ModeAuto))
	if err == nil {
		d.Close()
		t.Fatal("a program that nobody could know was replaced")
	}
	for _, s := range []string{"CAP_SYS_ADMIN", "ip link set dev six0 xdp off"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %s", err, s)
		}
	}
}
