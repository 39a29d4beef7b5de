package conntrack

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const killEnv = "HANDOFF64_CONNTRACK_CHURN"

// TestKilledAnywhere kills a process that makes and ends sessions as fast as it
// can, again and again at another instant, and takes its table up.
func TestKilledAnywhere(t *testing.T) {
	if dir := os.Getenv(killEnv); dir != "" {
		churn(t, dir)
		return
	}
	dir := t.TempDir()
	restored := 0
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAnywhere$")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 8)
		if _, err := out.Read(line); err != nil || !strings.HasPrefix(string(line), "busy") {
			t.Fatalf("round %d: the process says %q, %v", round, line, err)
		}
		time.Sleep(time.Duration(round*1300) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
		f, r := reopen(t, nil, Config{Dir: dir, Now: 1000, PerClient: ClientLimits{Sessions: 1}})
		if r.Problem != nil || r.Dropped != 0 {
			t.Fatalf("round %d: %+v", round, r)
		}
		f.check()
		f.Sessions(func(i SessionInfo) bool {
			if i.Delta64 != uint16(i.Key.Client.Lo) || i.Delta46 != ^i.Delta64 {
				t.Errorf("half a session: %+v", i)
			}
			return true
		})
		restored += r.Restored
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if restored == 0 {
		t.Error("no session survived any round")
	}
}

// churn runs until it is killed.
func churn(t *testing.T, dir string) {
	f, _ := reopen(t, nil, Config{Dir: dir, Now: 1000})
	f.Flush()
	f.expireAll(1000)
	for i := 0; ; i++ {
		f.open(flow(i), StateNone, 1000)
		if v, ok := f.get64(flow(i - 1500)); ok {
			f.Shard(0).Remove(&v)
		}
		if i == 2000 {
			os.Stdout.WriteString("busy\n")
		}
	}
}
