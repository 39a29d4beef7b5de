package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// capabilities reads what a process may do: every set that the kernel shows, by
// every thread.
func capabilities(t *testing.T, pid int) (sets []string) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads of %d (%v)", pid, err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Cap") {
				sets = append(sets, strings.TrimSpace(line))
			}
		}
	}
	return sets
}

// TestNoPrivilegeRemains: whatever the mode, and whoever starts it, once it is
// ready no thread may do anything that an ordinary user may not; and the device
// goes with the process.
func TestNoPrivilegeRemains(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: network namespaces and capabilities need root")
	}
	const nobody = 65534
	ambient := []uintptr{unix.CAP_NET_ADMIN}
	if info, err := os.Stat("/dev/net/tun"); err == nil && info.Mode().Perm()&0o006 != 0o006 {
		ambient = append(ambient, unix.CAP_DAC_OVERRIDE) // most systems let everybody open it
	}
	for name, c := range map[string]struct {
		args []string
		as   syscall.SysProcAttr
	}{
		"minimal, root":   {nil, syscall.SysProcAttr{}},
		"local-nat, root": {[]string{"--mode", "local-nat"}, syscall.SysProcAttr{}},
		"mixed, root":     {[]string{"--mode", "mixed", "--device", "other0"}, syscall.SysProcAttr{}},
		"minimal, nobody": {nil, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}},
		"local-nat, nobody": {[]string{"--mode", "local-nat", "--pool", "10.9.0.0/24"}, syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: ambient}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, append(c.args, "--listen", "0.0.0.0:64064")...)
			p.as = &c.as
			p.as.Cloneflags = syscall.CLONE_NEWNET
			p.exe = copyProgram(t, filepath.Dir(p.dir))
			if err := os.Mkdir(p.dir, 0o750); err != nil {
				t.Fatal(err)
			}
			if cred := p.as.Credential; cred != nil {
				if err := os.Chown(p.dir, int(cred.Uid), int(cred.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			p.start()
			root := p.as.Credential == nil
			for _, set := range capabilities(t, p.cmd.Process.Pid) {
				// An ordinary user cannot empty its bounding set; nothing is in any other.
				if !root && strings.HasPrefix(set, "CapBnd") {
					continue
				}
				if _, bits, _ := strings.Cut(set, "\t"); strings.Trim(bits, "0") != "" {
					t.Errorf("%s", set)
				}
			}
			if len(c.args) > 0 {
				devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", p.cmd.Process.Pid))
				if err != nil || !strings.Contains(string(devices), "handoff0:") && !strings.Contains(string(devices), "other0:") {
					t.Errorf("devices (%v): %s", err, devices)
				}
			}
			p.stop()
		})
	}
}
