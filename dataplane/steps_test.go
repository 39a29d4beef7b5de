package dataplane

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane/fixture"
	"handoff64/dataplane/xlat"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// BenchmarkSteps shows where the time of a packet goes that takes all the steps:
// those of a burst, with a look at the clock between them. A metric for each
// step is in ns per packet; clock-ns is what one look costs a packet and is part
// of each of them.
func BenchmarkSteps(b *testing.B) {
	benchmarkParts(b, func(w *Worker, burst *burst) []part {
		return []part{
			{"describe", func() { burst.describe(w.umem, 0) }},
			{"parse", func() { w.parse(burst) }},
			{"classify", func() { w.classify(burst) }},
			{"lookup", func() { w.lookup(burst) }},
			{"translate", func() { w.translate(burst) }},
			{"tx", func() { w.tx(burst) }},
		}
	})
}

// BenchmarkShortcut does so for the passes of the shortcut, which the packets of
// established flows take. ns/op, being all of them, is more than a packet takes
// in bench.BenchmarkDataplane.
func BenchmarkShortcut(b *testing.B) {
	benchmarkParts(b, func(w *Worker, burst *burst) []part {
		return []part{
			{"choose", func() { w.choose(burst) }},
			{"locate", w.locate},
			{"finish", func() { w.finish(burst) }},
			{"tx", func() { w.sendShort(burst) }},
		}
	})
}

// part is a part of a round that is timed by itself.
type part struct {
	name string
	do   func()
}

func benchmarkParts(b *testing.B, parts func(*Worker, *burst) []part) {
	for _, proto := range []uint8{fixture.UDP, fixture.TCP} {
		for _, dir := range []Direction{V6ToV4, V4ToV6} {
			for _, flows := range []int{1, 1000, 65536, 1 << 20} {
				name := fmt.Sprintf("%s/%s/flows=%d", map[uint8]string{fixture.UDP: "udp", fixture.TCP: "tcp"}[proto],
					[]string{"64", "46"}[dir], flows)
				var r *stepRig
				b.Run(name, func(b *testing.B) {
					if r == nil {
						r = newStepRig(b, proto, dir, flows)
					}
					r.run(b, parts(r.w, &r.w.main))
				})
				if r != nil {
					r.close()
				}
			}
		}
	}
}

// stepRig is one worker whose steps the benchmark calls itself.
type stepRig struct {
	b     *testing.B
	w     *Worker
	in    *memport.Loop // where the packets come from
	port  *inPort
	clock func() conntrack.Tick
}

func newStepRig(b *testing.B, proto uint8, dir Direction, flows int) *stepRig {
	umem, frames, err := memport.NewUMEM(1024, 2048)
	if err != nil {
		b.Fatal(err)
	}
	in6, in4 := memport.NewLoop("ipv6", umem, frames, nil, 512), memport.NewLoop("ipv4", umem, frames, nil, 512)
	cfg := conntrack.Config{Shards: 1, Sessions: 1 << 20, Secret: new([32]byte)}
	for a := range uint32(32) {
		cfg.Pool4 = append(cfg.Pool4, conntrack.Pool4Range{Addr: addr4("192.0.2.0") + a, First: 1024, Last: 65535})
	}
	table, _, err := conntrack.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	w, err := NewWorker(Config{
		Table: table, Shard: table.Shard(0), Hops: resolvedHops(), UMEM: umem, Frames: frames,
		Ports: [2][]ring.Port{{in6}, {in4}}, Group: NewGroup(1), Seed: 1, Rules: &Rules{
			Pool6:       []xlat.Prefix{{Hi: fixture.FlowPrefixHi, Lo: fixture.FlowPrefixLo, Bits: 96}},
			Pool4:       NewRanges4([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/27")}),
			TCPIncoming: true, Hairpin: true, LowestIPv6MTU: 1280,
			Translation: xlat.Options{TrafficClassFromTOS: true, UDPZeroCompute: true},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	r := &stepRig{b: b, w: w, clock: NewClock()}
	r.open(in6, in4, proto, dir, flows)
	return r
}

// open starts the flows and leaves the ports with packets that belong to them.
func (r *stepRig) open(in6, in4 *memport.Loop, proto uint8, dir Direction, flows int) {
	there, back := make([][]byte, flows), make([][]byte, flows)
	play := func(in *memport.Loop, packets [][]byte) {
		in.SetSource(memport.Cycle(packets...))
		for n := 0; n < flows; {
			n += r.w.Poll(r.clock())
		}
		in.SetSource(nil)
	}
	for f := range there {
		there[f] = fixture.Flow(f).Packet6(proto, conntrack.FlagSYN)
	}
	play(in6, there)
	answer := func(flags uint8) {
		for f := range back {
			mapped, port := r.mapped(proto, fixture.Flow(f))
			back[f] = fixture.Flow(f).Packet4(proto, flags, mapped, port)
		}
	}
	answer(conntrack.FlagSYN | conntrack.FlagACK)
	play(in4, back)
	answer(conntrack.FlagACK)
	for f := range there {
		there[f] = fixture.Flow(f).Packet6(proto, conntrack.FlagACK)
	}
	r.in, r.port = in6, &r.w.rx[0]
	load := there
	if dir == V4ToV6 {
		r.in, r.port, load = in4, &r.w.rx[1], back
	}
	r.in.SetSource(memport.Cycle(load...))
}

func (r *stepRig) mapped(proto uint8, f fixture.Flow) (addr uint32, port uint16) {
	hi, lo := f.Client()
	k := conntrack.Key64{
		Client: conntrack.Addr6{Hi: hi, Lo: lo}, Server: f.Server(), ClientPort: f.ClientPort(), ServerPort: f.ServerPort(),
		Proto: conntrack.Proto(proto),
	}
	var v conntrack.View64
	if !r.w.table.Lookup64(&k, r.w.table.Hash64(&k), &v) {
		r.b.Fatalf("flow %d has no session", f)
	}
	return v.Mapped, v.MappedPort
}

// run is what Poll does, with a clock between the parts.
func (r *stepRig) run(b *testing.B, middle []part) {
	w := r.w
	before := w.counters.Counters
	parts := append([]part{
		{"begin", func() { w.begin(r.clock()) }},
		{"rx", func() { w.receive(r.port) }},
	}, middle...)
	parts = append(parts, part{"end", func() {
		w.shard.Expire(w.now, expireBudget)
		w.flush()
		w.counters.publish()
	}})
	spent := make([]time.Duration, len(parts))
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += w.main.n {
		last := time.Now()
		for i := range parts {
			parts[i].do()
			now := time.Now()
			spent[i] += now.Sub(last)
			last = now
		}
	}
	b.StopTimer()
	r.check(&before)
	for i, p := range parts {
		b.ReportMetric(float64(spent[i].Nanoseconds())/float64(b.N), p.name+"-ns")
	}
	start := time.Now()
	for range 1000 {
		time.Now()
	}
	b.ReportMetric(float64(time.Since(start).Nanoseconds())/1000/BurstSize, "clock-ns")
}

// check makes sure that every packet was translated.
func (r *stepRig) check(before *Counters) {
	c := &r.w.counters
	received := c.RxPackets[IPv6] + c.RxPackets[IPv4] - before.RxPackets[IPv6] - before.RxPackets[IPv4]
	sent := c.Translated[V6ToV4] + c.Translated[V4ToV6] - before.Translated[V6ToV4] - before.Translated[V4ToV6]
	if received == 0 || sent != received {
		r.b.Fatalf("%d packets received, %d translated, drops %v", received, sent, c.Drops)
	}
}

func (r *stepRig) close() {
	if err := r.w.Close(); err != nil {
		r.b.Error(err)
	}
	if err := r.w.table.Close(); err != nil {
		r.b.Error(err)
	}
	if err := r.w.umem.Close(); err != nil {
		r.b.Error(err)
	}
}
