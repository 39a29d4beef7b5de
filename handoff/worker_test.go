package handoff

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/ring"
)

// Every problem of a configuration is named, all at once.
func TestConfigCheck(t *testing.T) {
	if _, err := Open(Config{BatchDelay: -1, StrangersPerSecond: -1, WorkerWake: []func(){nil},
		Pool6: []netip.Prefix{netip.MustParsePrefix("2001:db8::/33"), netip.MustParsePrefix("192.0.2.0/32"), {}}}); err == nil {
		t.Error("accepted")
	} else {
		for _, word := range []string{"pool4", "server_port", "client_port", "key_file", "batch_delay", "stranger_packets_per_second",
			"links", "worker wake", "UMEM", "2001:db8::/33", "192.0.2.0/32", "invalid"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("no word of %s in %v", word, err)
			}
		}
	}
}

// What Open cannot have it names.
func TestOpenFails(t *testing.T) {
	r := newRig(t)
	if _, err := Open(r.cfg); err == nil || !strings.Contains(err.Error(), "handoff.client_port") {
		t.Errorf("the port is in use: %v", err)
	}
	if err := os.Chmod(r.cfg.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.cfg); err == nil || !strings.Contains(err.Error(), r.cfg.KeyFile) {
		t.Errorf("anybody can read the keys: %v", err)
	}
}

// A datagram that the kernel refuses does not take those behind it along.
func TestUnsendable(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	for _, to := range []uint32{s.addr, 0xffffffff, s.addr, 0xffffffff} {
		r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: to, Own: ownAddr}, udp4(s.addr, ownAddr, 1, 2, nil))
	}
	r.pass(0)
	s.recv()
	s.recv()
	if st := r.w.Stats(); st.Tunnelled != 2 || st.SendError != 2 || st.SendFull != 0 {
		t.Errorf("%+v", st)
	}
	r.census()
}

// While too many entries wait for their echo, a walk waits.
func TestWalkWaitsForEchoes(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	for i := range maxRetries*3/4 + 1 {
		r.w.retries.add(retryKey{client: conntrack.Addr6{Lo: uint64(i)}, channelKey: channelKey{ownAddr, s.addr}}, 1, 0)
	}
	r.w.found <- conntrack.ToServer{Kind: conntrack.Notify, Server: s.addr, Own: ownAddr, Client: client1, ClientPort: 1, MappedPort: 2000}
	r.pass(0)
	if len(r.w.found) != 1 || r.w.pending() {
		t.Error("the walk did not wait")
	}
	r.w.accept(s.addr, ownAddr, r.formC(s.addr, entry(conntrack.Addr6{Lo: 0}, 0, 2000), nil))
	if !r.w.pending() {
		t.Error("the walk waits on")
	}
	r.pass(0)
	if len(r.w.found) != 0 {
		t.Error("nothing was taken")
	}
}

// A walk ends with its worker.
func TestCloseDuringWalk(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	r.sessions = make([]conntrack.SessionInfo, 2*foundQueue)
	for i := range r.sessions {
		r.sessions[i] = r.session(s.addr, client1, uint16(i), 2000, conntrack.OriginNAT64)
	}
	r.w.accept(s.addr, ownAddr, r.formC(s.addr, entry(client1, 1, 2000), nil))
	r.w.startWalk()
	for len(r.w.found) < foundQueue {
		runtime.Gosched()
	}
	r.close() // returns only when the walk has
}

// Run sleeps when there is nothing to do, and a packet worker wakes it; what was
// not saved yet is saved at the end.
func TestWakeFromSleep(t *testing.T) {
	r := newRig(t)
	r.close()
	w, err := Open(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.w = w
	s := r.server(1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done }) // also when the test fails
	asleep := func() {
		for limit := time.Now().Add(20 * time.Second); !w.sleep.asleep.Load(); runtime.Gosched() {
			if time.Now().After(limit) {
				t.Fatal("never asleep")
			}
		}
	}
	for range 100 {
		asleep()
		packet := udp6(octets6(client1), within(s.addr), 1, 2, nil)
		f, _ := r.stack.Pop()
		at := f + ring.Headroom
		copy(r.umem.Mem[at:], packet)
		r.push(0, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1, Addr: at, Len: uint16(len(packet))})
		w.Wake()
		s.recv()
		r.drain()
	}
	asleep()
	cancel() // out of its sleep, too
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.takeBack()
	r.census()
}

// What is known at the end is written before Run returns.
func TestRunSavesAtTheEnd(t *testing.T) {
	r := newRig(t)
	r.w.servers.set(r.w.servers.touch(serverAddr(1)), conntrack.ServerHandoff)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.w.Run(ctx); err != nil {
		t.Error(err)
	}
	if known, err := readState(r.w.stateFile); err != nil || len(known) != 1 {
		t.Errorf("%v %v", known, err)
	}
	r.restart()
	r.w.stateFile = filepath.Join(t.TempDir(), "missing", "servers")
	r.w.servers.dirty = true
	if err := r.w.Run(ctx); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("nowhere to write to: %v", err)
	}
}
