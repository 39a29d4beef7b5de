package e2e

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// These tests use programs that people use. Each of them has a twin above
// that needs no program, so a machine without one loses no coverage.

// need skips the test if a program is not installed.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// output runs a program in a host and returns what it printed.
func (w *world) output(h lab.Host, program string, args ...string) string {
	w.t.Helper()
	out, err := h.Output(w.ctx, program, args...)
	if err != nil {
		w.t.Fatalf("%v:\n%s", err, out)
	}
	return out
}

func TestProgramPing(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	w := plain(t)
	out := w.output(w.client, "ping", "-6", "-c", "5", "-i", "0.1", "-s", "1400", lab.Embed(w.Server()).String())
	if !strings.Contains(out, "5 received") || !strings.Contains(out, "ttl=63") {
		t.Errorf("ping printed:\n%s", out)
	}
}

func TestProgramTraceroute(t *testing.T) {
	t.Parallel()
	need(t, "traceroute")
	w := judged(t, lab.Options{Routers: true})
	for _, method := range []string{"-U", "-I", "-T"} { // UDP, ICMP, TCP
		out := w.output(w.client, "traceroute", "-6", "-n", "-q", "1", method, lab.Embed(w.Server()).String())
		for _, hop := range []netip.Addr{w.Address("r6", "client"), w.Address("nat64", lab.IPv6Interface), lab.Embed(lab.R4IPv4), lab.Embed(w.Server())} {
			if !strings.Contains(out, hop.String()) {
				t.Errorf("traceroute %s does not show %s:\n%s", method, hop, out)
			}
		}
	}
}

func TestProgramCurl(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	w := plain(t)
	url := "http://" + w.web() + "/octets?n=5000000"
	out := w.output(w.client, "curl", "--silent", "--show-error", "--globoff", "--output", "/dev/null", "--write-out", "%{http_code} %{size_download}", url)
	if out != "200 5000000" {
		t.Errorf("curl printed %q", out)
	}
}

func TestProgramIperf3(t *testing.T) {
	t.Parallel()
	need(t, "iperf3")
	w := judged(t, lab.Options{}, static("tcp", 5201, 5201), static("udp", 5201, 5201))
	w.iperf3(w.server, w.Server(), w.client, lab.Embed(w.Server()))
	w.iperf3(w.client, w.Client(), w.server, lab.Pool4)
}

// iperf3 runs a server in one host and all kinds of transfer from another.
func (w *world) iperf3(at lab.Host, bind netip.Addr, from lab.Host, to netip.Addr) {
	w.t.Helper()
	server := exec.CommandContext(w.ctx, "iperf3", "--server", "--bind", bind.String())
	w.must(at.Start(server))
	defer func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	w.eventually("iperf3's server listens", 10*time.Second, func() error {
		c, err := at.DialContext(w.ctx, "tcp", netip.AddrPortFrom(bind, 5201).String())
		if err == nil {
			c.Close()
		}
		return err
	})
	udp := []string{"--udp", "--bitrate", "20M", "--length", "1400"}
	fragments := []string{"--udp", "--bitrate", "20M", "--length", "8000"}
	for _, mode := range [][]string{nil, {"--reverse"}, udp, append([]string{"--reverse"}, udp...), fragments, append([]string{"--reverse"}, fragments...)} {
		var out string
		// The server may still be busy with the connection of the last one.
		w.eventually("iperf3 "+strings.Join(mode, " "), 30*time.Second, func() (err error) {
			args := append([]string{"--client", to.String(), "--time", "1"}, mode...)
			if out, err = from.Output(w.ctx, "iperf3", args...); err != nil {
				err = errors.New(out)
			}
			return err
		})
		if !strings.Contains(out, "receiver") {
			w.t.Errorf("iperf3 %v to %s printed:\n%s", mode, to, out)
		}
	}
}
