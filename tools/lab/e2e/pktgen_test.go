package e2e

import (
	"net/netip"
	"testing"
	"time"

	"handoff64/bench/generator"
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
