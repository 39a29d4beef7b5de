package bench

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// pool4 has a port for each of a million flows that share none.
const pool4 = "192.0.2.0/27"

// maxFlows is limits.sessions as it is by default.
const maxFlows = 1 << 20

// rig is one worker as nat64d makes it, between two ports in memory.
type rig struct {
	tb      testing.TB
	table   *conntrack.Table
	umem    *ring.UMEM
	frames  *ring.FrameStack
	in6     *memport.Loop
	in4     *memport.Loop
	worker  *dataplane.Worker
	handoff *dataplane.Handoff // nil without
	clock   func() conntrack.Tick
	round   []conntrack.ToServer
	log     *dataplane.Log // nil unless sessions are logged
	events  []conntrack.Event
}

// newRig makes the worker with no session yet.
func newRig(tb testing.TB, handoff bool) *rig {
	tb.Helper()
	return newRigWith(tb, handoff, func(*conntrack.Config) {})
}

// newRigWith does so with another configuration of the tables.
func newRigWith(tb testing.TB, handoff bool, change func(*conntrack.Config)) *rig {
	tb.Helper()
	r := &rig{tb: tb, clock: dataplane.NewClock()}
	var err error
	if r.umem, r.frames, err = memport.NewUMEM(4096, 2048); err != nil {
		tb.Fatal(err)
	}
	r.in6 = memport.NewLoop("ipv6", r.umem, r.frames, nil, 1024)
	r.in4 = memport.NewLoop("ipv4", r.umem, r.frames, nil, 1024)
	cfg := tableConfig(r.clock())
	if handoff {
		cfg.Entries = maxFlows
		r.handoff = newHandoff(tb)
		r.round = make([]conntrack.ToServer, 256)
	}
	change(&cfg)
	if r.table, _, err = conntrack.New(cfg); err != nil {
		tb.Fatal(err)
	}
	if cfg.LogSessions {
		r.log, r.events = dataplane.NewLog(), make([]conntrack.Event, 256)
	}
	r.worker, err = dataplane.NewWorker(dataplane.Config{
		Table: r.table, Shard: r.table.Shard(0), Hops: hops(), UMEM: r.umem, Frames: r.frames,
		Ports: [2][]ring.Port{{r.in6}, {r.in4}}, Group: dataplane.NewGroup(1), Rules: rules(), Seed: 64, Handoff: r.handoff, Log: r.log,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// tableConfig is a table for a million flows.
func tableConfig(now conntrack.Tick) conntrack.Config {
	// The secret is fixed because with a random one a full table is, one time in
	// a few, full one session early: some key finds no bucket in bounds.
	cfg := conntrack.Config{Shards: 1, Sessions: maxFlows, Now: now, Secret: new([32]byte)}
	prefix := netip.MustParsePrefix(pool4)
	for a := prefix.Addr(); prefix.Contains(a); a = a.Next() {
		cfg.Pool4 = append(cfg.Pool4, conntrack.Pool4Range{Addr: addr4(a), First: 1024, Last: 65535})
	}
	return cfg
}

// clientPackets are a packet of each of the first n flows' clients.
func clientPackets(proto, flags uint8, n int) [][]byte {
	packets := make([][]byte, n)
	for f := range packets {
		packets[f] = fixture.Flow(f).Packet6(proto, flags)
	}
	return packets
}

func newHandoff(tb testing.TB) *dataplane.Handoff {
	servers, err := conntrack.NewServers(65536, [32]byte{})
	if err != nil {
		tb.Fatal(err)
	}
	return &dataplane.Handoff{
		Out: ring.NewSPSC[conntrack.ToServer](4096), In: ring.NewSPSC[conntrack.FromServer](4096),
		Back: ring.NewSPSC[uint64](4096), Lend: ring.NewSPSC[uint64](1024), Servers: servers, Wake: func() {},
	}
}

// rules are the default configuration's.
func rules() *dataplane.Rules {
	var deny []netip.Prefix
	for _, p := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"} {
		deny = append(deny, netip.MustParsePrefix(p))
	}
	return &dataplane.Rules{
		Pool6:       []xlat.Prefix{{Hi: fixture.FlowPrefixHi, Lo: fixture.FlowPrefixLo, Bits: 96}},
		Pool4:       dataplane.NewRanges4([]netip.Prefix{netip.MustParsePrefix(pool4)}),
		Deny:        dataplane.NewRanges4(deny),
		TCPIncoming: true, Hairpin: true, LowestIPv6MTU: 1280, ICMPErrorsPerSecond: 1000,
		Translation: xlat.Options{TrafficClassFromTOS: true, UDPZeroCompute: true},
	}
}

func hops() *nexthop.Table {
	link6 := nexthop.Link{Index: 1, Name: "six", MTU: 1500, Up: true, MAC: [6]byte{2, 0, 0, 0, 0, 0x60}}
	link4 := nexthop.Link{Index: 2, Name: "four", MTU: 1500, Up: true, MAC: [6]byte{2, 0, 0, 0, 0, 0x40}}
	router := nexthop.Hop{State: nexthop.Resolved, Eth: [12]byte{2, 0, 0, 0, 0, 1}}
	return nexthop.NewStatic(link6, link4, router, router)
}

func addr4(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func (r *rig) close() {
	if err := r.worker.Close(); err != nil {
		r.tb.Error(err)
	}
	if err := r.table.Close(); err != nil {
		r.tb.Error(err)
	}
	if err := r.umem.Close(); err != nil {
		r.tb.Error(err)
	}
}

// play takes n packets of the source through the worker, in whole bursts.
func (r *rig) play(in *memport.Loop, s memport.Source, n int) {
	in.SetSource(s)
	for got := 0; got < n; {
		got += r.worker.Poll(r.clock())
		r.hear()
	}
	in.SetSource(nil)
}

// hear takes what the worker tells the handoff worker, and gives frames back
// as that one would.
func (r *rig) hear() {
	if r.log != nil {
		for r.log.Sessions.PopBatch(r.events) == len(r.events) {
		}
	}
	if r.handoff == nil {
		return
	}
	n := r.handoff.Out.PopBatch(r.round)
	for i := range r.round[:n] {
		if r.round[i].Kind != conntrack.Notify {
			r.handoff.Back.Push(r.round[i].Addr)
		}
	}
}

// establish opens n flows and returns the packets of one direction that the
// benchmark is to repeat.
func (r *rig) establish(proto uint8, dir dataplane.Direction, n int) memport.Source {
	r.tb.Helper()
	const syn, ack = conntrack.FlagSYN, conntrack.FlagACK
	opening := make([][]byte, n)
	for f := range n {
		opening[f] = fixture.Flow(f).Packet6(proto, syn)
	}
	r.play(r.in6, memport.Cycle(opening...), n)
	if used := r.table.Stats().Used; used != uint64(n) {
		r.tb.Fatalf("%d sessions after the first packets of %d flows; drops: %v", used, n, r.dropped())
	}
	if proto == fixture.TCP {
		r.play(r.in4, memport.Cycle(r.answers(proto, syn|ack, n)...), n)
	}
	if dir == dataplane.V4ToV6 {
		return memport.Cycle(r.answers(proto, ack, n)...)
	}
	for f := range n {
		opening[f] = fixture.Flow(f).Packet6(proto, ack)
	}
	return memport.Cycle(opening...)
}

// answers are the servers' packets of the first n flows.
func (r *rig) answers(proto, flags uint8, n int) [][]byte {
	packets := make([][]byte, n)
	for i := range packets {
		f := fixture.Flow(i)
		hi, lo := f.Client()
		k := conntrack.Key64{
			Client: conntrack.Addr6{Hi: hi, Lo: lo}, Server: f.Server(), ClientPort: f.ClientPort(), ServerPort: f.ServerPort(),
			Proto: conntrack.Proto(proto),
		}
		var v conntrack.View64
		if !r.table.Lookup64(&k, r.table.Hash64(&k), &v) {
			r.tb.Fatalf("flow %d has no session", i)
		}
		if proto == fixture.TCP && flags == conntrack.FlagACK && v.State() != conntrack.StateEstablished {
			r.tb.Fatalf("flow %d is in state %v", i, v.State())
		}
		packets[i] = f.Packet4(proto, flags, v.Mapped, v.MappedPort)
	}
	return packets
}

// dropped lists drop reasons with their counts.
func (r *rig) dropped() map[string]uint64 {
	drops := map[string]uint64{}
	c := r.worker.Counters()
	dataplane.EachReason(func(d dataplane.DropReason, row dataplane.Reason) {
		if c.Drops[d] != 0 {
			drops[row.Name] = c.Drops[d]
		}
	})
	return drops
}

// translated makes sure that all the worker got since before was translated in
// one direction, sent, and sent right: a benchmark of dropped packets would be
// a fast one.
func (r *rig) translated(before dataplane.Counters, dir dataplane.Direction) {
	r.tb.Helper()
	after := r.worker.Counters()
	got := after.RxPackets[0] + after.RxPackets[1] - before.RxPackets[0] - before.RxPackets[1]
	sent := after.TxPackets[0] + after.TxPackets[1] - before.TxPackets[0] - before.TxPackets[1]
	if n := after.Translated[dir] - before.Translated[dir]; n != got || sent != got || got == 0 {
		r.tb.Fatalf("%d packets received, %d translated, %d sent; drops: %v", got, n, sent, r.dropped())
	}
	if diff, ok := after.Balanced(); !ok {
		r.tb.Fatalf("%d packets are not accounted for", diff)
	}
	r.checkLast(dir)
}

// checkLast reads the packet that was sent last, which still lies in the frame
// that came back last, and checks its sums.
func (r *rig) checkLast(dir dataplane.Direction) {
	r.tb.Helper()
	all := r.frames.Frames()
	frame := r.umem.Frame(all[len(all)-1])
	var p packet.Parsed
	var pseudo uint64
	if dir == dataplane.V6ToV4 {
		if s := packet.Parse4(frame[:ring.Headroom+80], ring.Headroom+20+packet.EthernetLen, &p); s != packet.Good {
			r.tb.Fatalf("what was sent last is no IPv4 packet: %v", s)
		}
		pseudo = packet.Pseudo4(p.Src4, p.Dst4, p.End-p.L4, p.Proto)
	} else {
		if s := packet.Parse6(frame[:ring.Headroom+60], ring.Headroom-20+packet.EthernetLen, &p); s != packet.Good {
			r.tb.Fatalf("what was sent last is no IPv6 packet: %v", s)
		}
		pseudo = packet.Pseudo6(p.SrcHi, p.SrcLo, p.DstHi, p.DstLo, uint32(p.End-p.L4), p.Proto)
	}
	if p.TTL != 63 {
		r.tb.Fatalf("the packet sent last has hop limit %d, want 63", p.TTL)
	}
	if packet.Fold(packet.Sum(frame[p.L4:p.End], pseudo)) != 0xffff {
		r.tb.Fatalf("the packet sent last has a wrong checksum: %+v", p)
	}
}

// generation is what the load itself costs per packet, in nanoseconds: the
// ports alone, without a worker between them. The least of a few passes.
func (r *rig) generation(s memport.Source) float64 {
	const passes, bursts = 16, 1024
	descs := make([]ring.Desc, dataplane.BurstSize)
	r.in6.SetSource(s)
	defer r.in6.SetSource(nil)
	least := time.Duration(math.MaxInt64)
	for range passes {
		start := time.Now()
		for range bursts {
			n := r.in6.Recv(descs)
			r.in4.Send(descs[:n])
			r.in4.Flush()
		}
		least = min(least, time.Since(start))
	}
	return float64(least.Nanoseconds()) / (bursts * dataplane.BurstSize)
}
