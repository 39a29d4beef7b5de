package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/rfc8219"
	"handoff64/bench/rfc9693"
	"handoff64/bench/search"
	"handoff64/bench/traffic"
	"handoff64/bench/trial"
	"handoff64/tools/lab"
	exchange "handoff64/tools/lab/traffic"
)

// tester is a generator at both ends of the network.
func (w *world) tester(p traffic.Protocol, dst netip.Prefix, flows uint64) *generator.Tester {
	w.t.Helper()
	ports := uint16(flows >> (128 - dst.Bits())) // so that all destinations are in use
	tester, err := generator.Open(generator.Config{
		Initiator: generator.Endpoint{Interface: "eth0", Namespace: w.client.Path()},
		Responder: generator.Endpoint{Interface: "eth0", Namespace: w.server.Path()},
		Flows: traffic.Flows{
			Protocol: p, Src: netip.PrefixFrom(w.Client(), 128), Dst: dst, SrcPorts: traffic.Ports{First: 10_000, Last: 9999 + ports}, DstPorts: traffic.Ports{First: 9, Last: 9},
		},
		Verify: true, Wait: 5 * time.Second,
	})
	w.must(err)
	return tester
}

// TestPktgen: the generator's packets go through nat64d in both directions
// without loss or harm, and its interfaces are the hosts' again afterwards.
func TestPktgen(t *testing.T) {
	t.Parallel()
	w := plain(t)
	dst := netip.PrefixFrom(lab.Embed(w.Server()), 128)
	const flows = 2000
	for _, p := range []traffic.Protocol{traffic.UDP, traffic.TCP, traffic.Echo} {
		tester := w.tester(p, dst, flows)
		missing, err := tester.Learn(w.ctx, 10_000)
		w.must(err)
		if missing > 0 {
			t.Fatalf("%v: %d of %d flows did not get through", p, missing, flows)
		}
		var r *generator.Result
		for range attempts {
			r, err = tester.Run(w.ctx, generator.Run{Direction: trial.Both, Rate: 3000, Packets: 2 * flows, Sizes: traffic.Sizes{120, 1400}})
			w.must(err)
			if r.Ways[0].Lost+r.Ways[1].Lost == 0 {
				break
			}
		}
		for d, way := range r.Ways {
			if way.Sent != 2*flows || way.Received != way.Sent || way.Duplicated+way.Reordered+way.BadChecksum+way.NoLatency != 0 {
				t.Errorf("%v, %v: %+v", p, trial.Direction(d), way)
			}
			if least, most := way.Latency.Min(), way.Latency.Max(); least < 500 || most > int64(5*time.Second) {
				t.Errorf("%v, %v: delays from %d to %d ns", p, trial.Direction(d), least, most)
			}
		}
		if r.Astray+r.Damaged+r.Foreign != 0 {
			t.Errorf("%v: %+v", p, r)
		}
		w.must(tester.Close())
	}
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	w.must(exchange.Exchange(c, noise(100)))
}

// TestPktgenSeesLoss: half of the flows go to an address that nat64d refuses,
// and exactly their packets are missing.
func TestPktgenSeesLoss(t *testing.T) {
	t.Parallel()
	refused := netip.MustParseAddr("192.0.2.11") // the server's neighbour
	w := plain(t, func(config map[string]any) { config["deny_ipv4"] = []string{refused.String() + "/32"} })
	dst := netip.PrefixFrom(lab.Embed(w.Server()), 127)
	if !dst.Contains(lab.Embed(refused)) {
		t.Fatalf("%v and %v are no prefix: the test is broken", w.Server(), refused)
	}
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	w.must(exchange.Exchange(w.dial(w.client, "udp", 0, w.embedded(7)), noise(100))) // now all neighbours are known
	const packets = 4000
	tester := w.tester(traffic.UDP, dst, packets)
	var way *generator.Way
	denied, want := uint64(0), uint64(packets/2)
	for range attempts {
		before := w.stats().Drops["denied_destination"]
		r, err := tester.Run(w.ctx, generator.Run{Rate: 2000, Packets: packets})
		w.must(err)
		way, denied = r.Ways[trial.ToResponder], w.stats().Drops["denied_destination"]-before
		if denied == want {
			break
		}
	}
	w.must(tester.Close())
	if way.Sent != packets || way.Received != want || way.Lost != want || way.Loss() != 0.5 || denied != want {
		t.Errorf("%d refused, counted %+v", denied, way)
	}
}

// attempts is how often a measurement is made that shows nothing if the machine
// is so busy that nat64d loses packets for want of time.
const attempts = 3

// pktgen runs the program between client and server, and reads what it prints. On
// a machine that is so busy that a procedure finds nothing to measure, it may
// take some attempts.
func (w *world) pktgen(result any, command string, args ...string) {
	w.t.Helper()
	err := w.pktgenOnce(result, command, args...)
	for i := 1; i < attempts && err != nil; i++ {
		w.t.Log(err)
		err = w.pktgenOnce(result, command, args...)
	}
	w.must(err)
}

func (w *world) pktgenOnce(result any, command string, args ...string) error {
	program := filepath.Join(filepath.Dir(built.Nat64d), "pktgen")
	cmd := exec.CommandContext(w.ctx, program, append([]string{
		command, "--json", "--tx", "eth0", "--tx-netns", w.client.Path(), "--rx", "eth0", "--rx-netns", w.server.Path(), "--dst", lab.Embed(w.Server()).String(),
	}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("pktgen %s: %w: %s", command, err, &stderr)
	}
	if err := json.Unmarshal(out, result); err != nil {
		return fmt.Errorf("pktgen %s printed %q: %w", command, out, err)
	}
	return nil
}

// TestPktgenRFC8219: every test of the RFC has a result, and the numbers of
// one agree with each other. They are no measurement.
func TestPktgenRFC8219(t *testing.T) {
	t.Parallel()
	w := plain(t)
	var r struct {
		Flows       int
		Interrupted bool
		Sizes       []struct {
			Size       int
			Throughput search.Found
			Loss       []rfc8219.LossPoint `json:"frame_loss"`
			Latency    rfc8219.Latency
			PDV        rfc8219.PDV
		}
	}
	w.pktgen(&r, "rfc8219", "--flows", "500", "--sizes", "80,1280", "--max-rate", "20k", "--precision", "0.3", "--loss", "0.01", "--verify-loss", "3",
		"--learn-rate", "5k", "--trial", "300ms", "--stream", "500ms", "--repetitions", "2", "--wait", "1s")
	if r.Flows != 500 || r.Interrupted || len(r.Sizes) != 2 || r.Sizes[0].Size != 80 || r.Sizes[1].Size != 1280 {
		t.Fatalf("%+v", r)
	}
	for _, s := range r.Sizes {
		f := s.Throughput
		if f.Rate <= 0 || f.Rate > 20_000 || len(f.Steps) == 0 || f.Steps[0].Rate != 20_000 {
			t.Errorf("%d octets: throughput %+v", s.Size, f)
		}
		if len(s.Loss) < 2 || s.Loss[0].Rate != 20_000 || s.Loss[1].Rate != 18_000 {
			t.Errorf("%d octets: frame loss %+v", s.Size, s.Loss)
		}
		if l := s.Latency; l.Rate != f.Rate || l.Tags == 0 || l.Typical.Repetitions != 2 || l.Typical.Median < 500 || l.Worst.Median < l.Typical.Median {
			t.Errorf("%d octets: latency %+v", s.Size, l)
		}
		if p := s.PDV; p.Rate != f.Rate || p.PDV.Repetitions != 2 || p.Min.Median < 500 || p.PDV.Median <= 0 {
			t.Errorf("%d octets: PDV %+v", s.Size, p)
		}
	}
}

// TestPktgenRFC9693: connections are counted as nat64d counts them, and the
// capacity is that of its table.
func TestPktgenRFC9693(t *testing.T) {
	t.Parallel()
	w := plain(t, func(config map[string]any) { config["limits"] = map[string]any{"sessions": 1000} })
	flush := built.Nat64ctl + " --socket " + w.d.Socket() + " flush"
	var r struct {
		Establishment search.Found
		TearDown      rfc9693.TearDown
		Capacity      rfc9693.Capacity
	}
	w.pktgen(&r, "rfc9693", "--flows", "800", "--max-rate", "20k", "--precision", "0.3", "--verify-loss", "3", "--safe-rate", "5k", "--repetitions", "2", "--wait", "2s",
		"--empty", flush)
	if f := r.Establishment; f.Rate <= 0 || f.Rate > 20_000 || f.Steps[0].Rate != 20_000 {
		t.Errorf("establishment: %+v", f)
	}
	if d := r.TearDown; d.Connections != 800 || d.Rate.Repetitions != 2 || d.Rate.Median <= 0 {
		t.Errorf("tear-down: %+v", d)
	}
	if s := w.stats().Sessions; s.Created < 3*800 {
		t.Errorf("three tables of 800 connections and more were made: %+v", s)
	}
	w.pktgen(&r, "rfc9693", "--tests", "capacity", "--flows", "2000", "--max-rate", "10k", "--verify-loss", "1", "--safe", "500", "--within", "500", "--wait", "100ms", "--empty", flush)
	if c := r.Capacity; c.AtLeast || c.Connections > 1000 || c.Connections+c.Error < 1000 {
		t.Errorf("capacity: %+v, want 1000", c)
	}
}
