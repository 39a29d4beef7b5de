package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"handoff64/tools/lab"
)

// ping in both directions, from nothing to what takes many fragments, and as
// fast as answers come.
func TestProgramPingSizes(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	w := judged(t, lab.Options{}, static("icmp", 77, 88))
	server := lab.Embed(w.Server()).String()
	for _, size := range []string{"0", "1", "8", "56", "1231", "1232", "1233", "1400", "1452", "1453", "1472", "1473", "3000", "20000"} {
		// With -w it ends with an error unless both answers come; without, it
		// waits for two round trips only.
		out := w.output(w.client, "ping", "-6", "-n", "-c", "2", "-i", "0.01", "-w", "10", "-s", size, server)
		if strings.Contains(out, "DUP") || strings.Contains(out, "From ") {
			t.Errorf("from the client, %s octets:\n%s", size, out)
		}
		out = w.output(w.server, "ping", "-4", "-n", "-M", "dont", "-c", "2", "-i", "0.01", "-w", "10", "-e", "88", "-s", size, lab.Pool4.String())
		if strings.Contains(out, "DUP") || strings.Contains(out, "From ") {
			t.Errorf("from the server, %s octets:\n%s", size, out)
		}
	}
	w.output(w.client, "ping", "-6", "-n", "-f", "-c", "2000", "-w", "60", "-s", "1000", server)
	if s := w.stats(); s.Dropped() > 0 {
		t.Errorf("drops: %v", reasons(s))
	}
}

// Datagrams of the server's towards the client's traceroute ports, as static
// mappings: what a traceroute from the IPv4 side is.
func traceable(first, last int) func(map[string]any) {
	return func(config map[string]any) {
		for port := first; port <= last; port++ {
			static("udp", port, port)(config)
		}
	}
}

// The way from IPv4 to a client behind static mappings. Its last hop is the
// pool's address: towards IPv4 the client has no other. r6 has no IPv4 address,
// and answers from one of the translator's (RFC 6791 §3.2).
func TestProgramTracerouteFromIPv4(t *testing.T) {
	t.Parallel()
	need(t, "traceroute")
	w := judged(t, lab.Options{Routers: true}, traceable(33434, 33450), static("icmp", 99, 99), static("tcp", 80, 80))
	w.echoTCP(w.client, "[::]:80")
	for _, method := range [][]string{{"-U", "-p", "33434"}, {"-T", "-p", "80"}} {
		out := w.output(w.server, "traceroute", append(append([]string{"-4", "-n", "-q", "1", "-m", "8"}, method...), lab.Pool4.String())...)
		hops := hopsIn(out)
		want := []string{w.Address("r4", "server").String(), lab.Nat64IPv4.String(), lab.Nat64IPv4.String(), lab.Pool4.String()}
		if len(hops) != len(want) {
			t.Errorf("traceroute %v shows %d hops, want %d:\n%s", method, len(hops), len(want), out)
			continue
		}
		for i := range want {
			// Either of the translator's addresses will do for its own errors.
			if hops[i] != want[i] && !(want[i] == lab.Nat64IPv4.String() && hops[i] == lab.Pool4.String()) {
				t.Errorf("traceroute %v, hop %d is %s, want %s:\n%s", method, i+1, hops[i], want[i], out)
			}
		}
	}
}

var hopLine = regexp.MustCompile(`(?m)^ *\d+ +([0-9a-f.:]+|\*)`)

// hopsIn are the addresses that traceroute -n printed, "*" for none.
func hopsIn(out string) (hops []string) {
	for _, m := range hopLine.FindAllStringSubmatch(out, -1) {
		hops = append(hops, m[1])
	}
	return hops
}

// tracepath finds the path MTU with a smaller link behind either router: 20
// octets more on the IPv6 side, but never less than 1280 (RFC 7915 §4.2, §5.2).
func TestProgramTracepath(t *testing.T) {
	t.Parallel()
	need(t, "tracepath")
	w := judged(t, lab.Options{Routers: true}, traceable(44444, 44470))
	// Hosts remember a path's MTU: each step is smaller than the one before.
	for _, step := range []struct {
		behind       string // the host whose link becomes smaller
		mtu          int
		from6, from4 int
	}{
		{"server", 1500, 1500, 1480},
		{"server", 1400, 1420, 1400},
		{"client", 1400, 1400, 1380},
		{"client", 1280, 1280, 1260},
	} {
		router := map[string]string{"server": "r4", "client": "r6"}[step.behind]
		w.must(w.Host(step.behind).SetMTU("eth0", step.mtu))
		w.must(w.Host(router).SetMTU(step.behind, step.mtu))
		for _, run := range []struct {
			host lab.Host
			args []string
			want int
		}{
			{w.client, []string{"-6", "-n", "-m", "10", lab.Embed(w.Server()).String()}, step.from6},
			{w.server, []string{"-4", "-n", "-m", "10", "-p", "44444", lab.Pool4.String()}, step.from4},
		} {
			out := w.output(run.host, "tracepath", run.args...)
			if want := fmt.Sprintf("Resume: pmtu %d hops 4", run.want); !strings.Contains(out, want) {
				t.Errorf("%d octets behind %s: tracepath from the %s does not end with %q:\n%s", step.mtu, router, run.host.Name, want, out)
			}
		}
	}
}
