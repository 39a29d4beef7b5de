package e2e

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// background is a nat64ctl that runs until it is interrupted, as by Ctrl-C.
type background struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
	err bytes.Buffer
}

func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.Write(p)
}

func (b *background) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func (w *world) start(args ...string) *background {
	w.t.Helper()
	b := &background{cmd: exec.CommandContext(w.ctx, built.Nat64ctl, append([]string{"--socket", w.d.Socket()}, args...)...)}
	b.cmd.Stdout, b.cmd.Stderr = b, &b.err
	w.must(b.cmd.Start())
	return b
}

// interrupt sends what Ctrl-C sends and expects a good end.
func (w *world) interrupt(b *background) string {
	w.t.Helper()
	w.must(b.cmd.Process.Signal(unix.SIGINT))
	if err := b.cmd.Wait(); err != nil {
		w.t.Errorf("%v: %s", err, b.err.String())
	}
	return b.text()
}

// A trace shows a ping there and back, and a dropped packet with its reason; a
// capture the same packets, octet by octet as tshark reads them.
func TestTraceAndCapture(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff)
	need(t, "tshark")
	p := w.pinger(w.client, "ip6", 77)
	trace := w.start("--json", "trace", "client="+clientAddr)
	file := filepath.Join(t.TempDir(), "all.pcapng")
	capture := w.start("capture", file)
	// Pings until both look on: nothing says when.
	w.eventually("the trace shows a ping", 20*time.Second, func() error {
		if _, err := p.Ping(w.ctx, lab.Embed(w.Server()), 56, 0); err != nil {
			return err
		}
		if strings.Count(trace.text(), `"outcome":"translated"`) < 4 {
			return exec.ErrNotFound
		}
		return nil
	})
	stranger := w.dial(w.server, "udp", 0, netip.AddrPortFrom(lab.Pool4, 9999).String())
	dropped := w.start("trace", "dropped", "drop=no_mapping", "count=1")
	before := w.stats().Drops["no_mapping"]
	w.eventually("the trace of a dropped packet ends by itself", 20*time.Second, func() error {
		_, _ = stranger.Write([]byte("?")) // answered with an error
		if !strings.Contains(dropped.text(), "no_mapping") {
			return exec.ErrNotFound
		}
		return nil
	})
	w.must(dropped.cmd.Wait())
	if w.stats().Drops["no_mapping"] == before {
		t.Error("it is not counted")
	}
	for _, want := range []string{"udp dropped: no_mapping", "192.0.2.64 is a pool4 address", "answered with ICMP type 3 code 3", w.Server().String()} {
		if !strings.Contains(dropped.text(), want) {
			t.Errorf("the trace does not say %q:\n%s", want, dropped.text())
		}
	}
	w.pingTraced(w.interrupt(trace))
	w.interrupt(capture)
	w.pingCaptured(file)
	if errs := capture.err.String(); strings.Contains(errs, "missed") {
		t.Errorf("the capture: %s", errs)
	}
}

// pingTraced expects both directions of a ping in a trace.
func (w *world) pingTraced(lines string) {
	w.t.Helper()
	var there, back, opened bool
	for line := range strings.Lines(lines) {
		var e struct {
			Protocol, Client, Server, Mapped, Outcome string
			Steps                                     []struct{ Step, Text string }
		}
		w.must(json.Unmarshal([]byte(line), &e))
		if e.Outcome != "translated" {
			continue
		}
		if e.Protocol != "icmp" || len(e.Steps) != 5 || !strings.HasPrefix(e.Client, "["+clientAddr+"]:") || !strings.HasPrefix(e.Mapped, lab.Pool4.String()) {
			w.t.Errorf("traced: %s", line)
			continue
		}
		there = there || strings.Contains(e.Steps[0].Text, "in on eth6: IPv6, 104 octets, icmp echo request") && strings.Contains(e.Steps[4].Text, "84 octets out on eth4")
		back = back || strings.Contains(e.Steps[0].Text, "in on eth4: IPv4, 84 octets, icmp echo reply") && strings.Contains(e.Steps[4].Text, "104 octets out on eth6")
		opened = opened || strings.Contains(e.Steps[2].Text, "session found")
	}
	if !there || !back || !opened {
		w.t.Errorf("a ping there (%v) and back (%v) over a session (%v):\n%s", there, back, opened, lines)
	}
}

// pingCaptured expects a ping before and after translation, both ways, and the
// reason of a dropped packet, in what tshark reads.
func (w *world) pingCaptured(file string) {
	w.t.Helper()
	out := w.tshark(file, "-o", "ip.check_checksum:TRUE", "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "frame.packet_id",
		"-e", "icmp.type", "-e", "icmpv6.type", "-e", "frame.comment", "-e", "ip.checksum.status", "-e", "icmp.checksum.status", "-e", "icmpv6.checksum.status")
	seen := map[string]map[string]bool{} // packet id: what there is of it
	reason := false
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) != 9 {
			w.t.Fatalf("tshark says %q", line)
		}
		reason = reason || f[5] == "dropped: no_mapping"
		for _, status := range strings.Split(strings.Join(f[6:], ","), ",") { // of the packet and of what it quotes
			if status != "" && status != "1" && status != "Good" {
				w.t.Errorf("a checksum is bad: %q", line)
			}
		}
		if seen[f[2]] == nil {
			seen[f[2]] = map[string]bool{}
		}
		seen[f[2]][f[0]+" "+f[3]+f[4]] = true
	}
	pairs := map[string]bool{}
	for _, what := range seen {
		if what["eth6 128"] && what["eth4 8"] {
			pairs["there"] = true
		}
		if what["eth4 0"] && what["eth6 129"] {
			pairs["back"] = true
		}
	}
	if !pairs["there"] || !pairs["back"] || !reason {
		w.t.Errorf("pairs %v, reason %v:\n%s", pairs, reason, out)
	}
}
