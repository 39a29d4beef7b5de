package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// asMain in the environment makes the test binary be nat64lab.
const asMain = "NAT64LAB_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// nat64lab runs the command as a process and returns its exit code and
// outputs.
func nat64lab(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return finish(t, exec.Command(os.Args[0], args...))
}

// finish runs a prepared command as nat64lab.
func finish(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	cmd.Env = append(os.Environ(), asMain+"=1")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestHelpAndVersionEverywhere(t *testing.T) {
	for _, c := range append(commands(), command{name: ""}) {
		args := strings.Fields(c.name)
		if code, out, errOut := nat64lab(t, append(args, "--help")...); code != 0 || !strings.HasPrefix(out, "usage: nat64lab") || errOut != "" {
			t.Errorf("%v --help: exit code %d, %q, %q", args, code, out, errOut)
		}
		if code, out, _ := nat64lab(t, append(args, "--version")...); code != 0 || !strings.HasPrefix(out, "nat64lab ") {
			t.Errorf("%v --version: exit code %d, %q", args, code, out)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string
	}{
		{"", "no command"},
		{"upp", `unknown command "upp"`},
		{"up --queue 2", "defined: --queue;"},
		{"up --queues two", "two"},
		{"up --queues 65", "1 to 64"},
		{"up --clients 2", "needs the routers"},
		{"up --routers --mtu4 100", "576 to 1500"},
		{"up --name a/b", "letters, digits"},
		{"up now", `unexpected argument "now"`},
		{"down all", `unexpected argument "all"`},
		{"list all", `unexpected argument "all"`},
		{"exec", "which host?"},
		{"exec client --", "which program?"},
		{"demo --mb 0", "--mb starts at 1"},
		{"throughput --seconds 0", "--seconds and --runs start at 1"},
	} {
		code, _, errOut := nat64lab(t, strings.Fields(tc.args)...)
		if code != 2 || !strings.Contains(errOut, tc.want) {
			t.Errorf("nat64lab %s: exit code %d, %q; want 2 and %q", tc.args, code, errOut, tc.want)
		}
		if strings.Count(errOut, "\n") != 1 {
			t.Errorf("nat64lab %s: more than one line: %q", tc.args, errOut)
		}
	}
}

func TestWithoutRoot(t *testing.T) {
	run := nat64lab
	if lab.NeedRoot() == nil {
		run = asNobody(t)
	}
	for _, args := range []string{"up --no-nat64d", "down", "exec client -- true"} {
		if code, _, errOut := run(t, strings.Fields(args)...); code != 1 || !strings.Contains(errOut, "needs root") {
			t.Errorf("nat64lab %s: exit code %d, %q", args, code, errOut)
		}
	}
	for _, args := range []string{"up", "demo", "throughput"} { // these look no further either
		if code, _, errOut := run(t, args); code != 1 || !strings.Contains(errOut, "needs root") {
			t.Errorf("nat64lab %s: exit code %d, %q", args, code, errOut)
		}
	}
}

// asNobody returns nat64lab run by an unprivileged user, who must be able to
// reach the program.
func asNobody(t *testing.T) func(*testing.T, ...string) (int, string, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nat64lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "nat64lab")
	content, err := os.ReadFile(os.Args[0])
	if err := errors.Join(err, os.WriteFile(program, content, 0o755), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, args ...string) (int, string, string) {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return finish(t, cmd)
	}
}

func TestUpExecListDown(t *testing.T) {
	if lab.NeedRoot() != nil {
		t.Skip("needs root")
	}
	name := fmt.Sprintf("clitest-%d", os.Getpid())
	t.Cleanup(func() {
		if err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})
	expect := func(want int, args ...string) string {
		t.Helper()
		code, out, errOut := nat64lab(t, args...)
		if code != want {
			t.Errorf("nat64lab %v: exit code %d, want %d: %s", args, code, want, errOut)
		}
		return out + errOut
	}
	expect(0, "up", "--name", name, "--no-nat64d", "--routers", "--clients", "2")
	if out := expect(0, "list"); !strings.Contains(out, name+"\t") || !strings.Contains(out, "client2") {
		t.Errorf("list printed %q", out)
	}
	if out := expect(1, "up", "--name", name, "--no-nat64d"); !strings.Contains(out, "is up already") {
		t.Errorf("second up printed %q", out)
	}
	// The program's exit code and output are nat64lab's.
	expect(7, "exec", "--name", name, "client2", "--", "/bin/sh", "-c", "exit 7")
	if out := expect(0, "exec", "--name", name, "r6", "--", "/bin/cat", "/proc/sys/net/ipv6/conf/all/forwarding"); out != "1\n" {
		t.Errorf("r6 has forwarding %q", out)
	}
	if out := expect(0, "exec", "--name", name, "nat64", "/bin/cat", "/proc/sys/net/ipv6/conf/all/forwarding"); out != "0\n" {
		t.Errorf("nat64 has forwarding %q", out)
	}
	if out := expect(2, "exec", "--name", name, "server2", "--", "true"); !strings.Contains(out, `no host "server2"`) {
		t.Errorf("exec in a host that is not there printed %q", out)
	}
	expect(1, "exec", "--name", name, "client", "--", "no-such-program")
	expect(0, "down", "--name", name)
	expect(0, "down", "--name", name)
	if out := expect(0, "list"); strings.Contains(out, name) {
		t.Errorf("list after down printed %q", out)
	}
	if out := expect(1, "exec", "--name", name, "client", "--", "true"); !strings.Contains(out, "no lab "+name+" is up") {
		t.Errorf("exec after down printed %q", out)
	}
}
