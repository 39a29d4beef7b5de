package dataplane

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"testing"

	"handoff64/conntrack"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// TestShortcutChangesNothing gives the same bursts to two workers, of which one
// is watched and so takes all packets through the steps. What leaves, in which
// order, the counters and the sessions are the same, but for identifications.
func TestShortcutChangesNothing(t *testing.T) {
	limits := func(rs *Rules) {
		rs.MTU, rs.LowestIPv6MTU, rs.ICMPErrorsPerSecond = [families]uint32{1400, 1350}, 1280, 1_000_000
	}
	short, long := newRig(t, setup{frames: 2048, rules: limits}), newRig(t, setup{frames: 2048, rules: limits})
	long.tap(TapConfig{})
	g := &burstMaker{t: t, rnd: rand.New(rand.NewPCG(7915, 6146))}
	shortcuts := 0
	for round := range 400 {
		side := Family(round % 2)
		packets := g.burst(side)
		send := (*rig).from6
		if side == IPv4 {
			send = (*rig).from4
		}
		a6, a4 := send(short, packets...)
		b6, b4 := send(long, packets...)
		shortcuts += int(short.workers[0].short[V6ToV4].n + short.workers[0].short[V4ToV6].n)
		sameOutput(t, a6, b6)
		sameOutput(t, a4, b4)
		g.learn(short.table)
		if c, d := short.workers[0].counters.Counters, long.workers[0].counters.Counters; c != d {
			t.Fatalf("round %d: counters %+v, by the steps %+v", round, c, d)
		}
		if c, d := sessionsOf(short.table), sessionsOf(long.table); !maps.Equal(c, d) {
			maps.DeleteFunc(c, func(k conntrack.Key64, s conntrack.SessionInfo) bool { return d[k] == s })
			for k, s := range c {
				t.Errorf("round %d: session %+v, by the steps %+v", round, s, d[k])
			}
			t.FailNow()
		}
		short.now += 3
		long.now += 3
	}
	c := &short.workers[0].counters
	if shortcuts == 0 || c.Translated[V6ToV4] < 5000 || c.Translated[V4ToV6] < 5000 || c.Generated < 100 {
		t.Errorf("too little happened to show anything: %d on the shortcut, %+v", shortcuts, c.Counters)
	}
}

func sessionsOf(table *conntrack.Table) map[conntrack.Key64]conntrack.SessionInfo {
	all := map[conntrack.Key64]conntrack.SessionInfo{}
	table.Sessions(func(s conntrack.SessionInfo) bool {
		all[s.Key] = s
		return true
	})
	return all
}

// sameOutput compares frames in order. IPv4 headers are compared without
// identification, and without the checksum, which must be right.
func sameOutput(t *testing.T, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets left, %d by the steps", len(got), len(want))
	}
	for i := range got {
		a, b := bytes.Clone(got[i]), bytes.Clone(want[i])
		if a[ethernetHeader]>>4 == 4 {
			if packet.Fold(packet.Sum(a[ethernetHeader:][:packet.IPv4Len], 0)) != 0xffff {
				t.Fatalf("packet %d: header checksum of % x", i, a)
			}
			for _, h := range [][]byte{a[ethernetHeader:], b[ethernetHeader:]} {
				binary.BigEndian.PutUint16(h[4:], 0)
				binary.BigEndian.PutUint16(h[packet.IPv4Checksum:], 0)
			}
		}
		if !bytes.Equal(a, b) {
			t.Fatalf("packet %d is % x, by the steps % x", i, a, b)
		}
	}
}

// burstMaker makes bursts of packets of a few hosts, most of them plain.
type burstMaker struct {
	t      *testing.T
	rnd    *rand.Rand
	mapped []conntrack.Session
	flags  []string // of TCP segments in this burst
}

func (g *burstMaker) learn(table *conntrack.Table) {
	g.mapped = g.mapped[:0]
	for _, s := range sessionsOf(table) {
		if s.Key.Proto != conntrack.ICMP {
			g.mapped = append(g.mapped, s.Session)
		}
	}
	// a map has no order, and the bursts of a failed run must come again
	for i := range g.mapped {
		for j := i; j > 0 && g.mapped[j].MappedPort < g.mapped[j-1].MappedPort; j-- {
			g.mapped[j], g.mapped[j-1] = g.mapped[j-1], g.mapped[j]
		}
	}
}

func (g *burstMaker) burst(side Family) [][]byte {
	packets := make([][]byte, 1+g.rnd.IntN(2*BurstSize))
	odd := g.rnd.IntN(3) * g.rnd.IntN(8) // of 16: many bursts are all plain
	// Connections see what takes the steps after what takes the shortcut, which
	// makes a difference if the latter ends them.
	g.flags = []string{"A", "A", "A", "S", "SA", ""}
	if g.rnd.IntN(2) == 0 {
		odd, g.flags = 0, []string{"A", "A", "FA", "R", ""}
	}
	for i := range packets {
		packets[i] = g.packet(side)
		if g.rnd.IntN(16) < odd {
			g.spoil(packets[i], side)
		}
	}
	return packets
}

func (g *burstMaker) packet(side Family) []byte {
	sizes := []int{0, 1, 12, 100, 1000, 1230, 1252, 1253, 1300, 1340, 1420}
	body := make([]byte, sizes[g.rnd.IntN(1+g.rnd.IntN(len(sizes)))])
	flags := g.flags[g.rnd.IntN(len(g.flags))]
	client, port, server := []string{clientA, clientB}[g.rnd.IntN(2)], 40000+g.rnd.IntN(4), "198.51.100."+string('1'+rune(g.rnd.IntN(3)))
	if g.rnd.IntN(40) == 0 {
		server = mappedA // hairpin
	}
	switch n := g.rnd.IntN(20); {
	case n == 0 && side == IPv6:
		return echo6(g.t, client, server, uint16(port), 1, body[:min(len(body), 100)])
	case side == IPv6 && n < 10:
		return udp6(g.t, client, port, server, 53, body)
	case side == IPv6:
		return tcp6(g.t, client, port, server, 80, flags)
	}
	to := 1024 + g.rnd.IntN(100)
	if len(g.mapped) > 0 && g.rnd.IntN(20) > 0 {
		s := g.mapped[g.rnd.IntN(len(g.mapped))]
		to = int(s.MappedPort)
		if s.Key.Proto == conntrack.UDP {
			return udp4(g.t, server, int(s.Key.ServerPort), mappedA, to, body)
		}
	}
	return tcp4(g.t, server, 80, mappedA, to, flags)
}

// spoil makes a packet unusual, in one of many ways.
func (g *burstMaker) spoil(b []byte, side Family) {
	switch g.rnd.IntN(4) {
	case 0: // any octet behind the addresses of the link
		b[12+g.rnd.IntN(len(b)-12)] ^= 1 << g.rnd.IntN(8)
	case 1: // an octet of the headers
		b[12+g.rnd.IntN(min(len(b)-12, 50))] = byte(g.rnd.Uint32())
	case 2: // a hop limit that ends
		if side == IPv6 {
			b[ethernetHeader+7] = byte(g.rnd.IntN(3))
		} else {
			b[ethernetHeader+8] = byte(g.rnd.IntN(3))
			g.sumHeader(b)
		}
	default: // flags and lengths of IPv4, with a right sum
		if side == IPv4 {
			b[ethernetHeader+[]int{0, 1, 3, 6, 6, 7}[g.rnd.IntN(6)]] ^= 1 << g.rnd.IntN(8)
			g.sumHeader(b)
		}
	}
}

func (g *burstMaker) sumHeader(b []byte) {
	h := b[ethernetHeader:]
	h = h[:min(max(int(h[0]&15)*4, packet.IPv4Len), len(h))]
	binary.BigEndian.PutUint16(h[packet.IPv4Checksum:], 0)
	binary.BigEndian.PutUint16(h[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(h, 0)))
}

// A burst that ends with the last octet of the memory, or has a descriptor that
// says too much, is left to the steps.
func TestShortcutStaysInFrames(t *testing.T) {
	r := newRig(t, setup{})
	w := r.workers[0]
	b := udp6(t, clientA, 1, serverA, 2, nil)
	last := uint64(len(r.umem.Mem) - r.umem.FrameSize)
	for _, d := range []ring.Desc{
		{Addr: last + uint64(r.umem.FrameSize-len(b)), Len: uint32(len(b))}, {Addr: last, Len: uint32(len(b))},
		{Addr: ring.Headroom, Len: uint32(r.umem.FrameSize)}, {Addr: last + uint64(r.umem.FrameSize) - 1, Len: 1},
	} {
		copy(r.umem.Mem[d.Addr:], b)
		w.main.n, w.main.descs[0] = 1, d
		w.choose(&w.main)
		if n := w.short[V6ToV4].n + w.short[V4ToV6].n; n != 0 {
			t.Errorf("%+v was taken for plain", d)
		}
	}
}

// The shortcut allocates nothing.
func TestShortcutAllocatesNothing(t *testing.T) {
	r := newRig(t, setup{frames: 2048, lossless: true})
	_, out4 := r.from6(udp6(t, clientA, 1000, serverA, 5300, nil))
	_, _, mapped, _ := transport(t, one(t, out4))
	r.from4(udp4(t, serverA, 5300, mappedA, mapped, nil)) // the way back knows its hop
	w := r.workers[0]
	packets := [][]byte{udp6(t, clientA, 1000, serverA, 5300, nil), udp4(t, serverA, 5300, mappedA, mapped, nil)}
	allocs := testing.AllocsPerRun(200, func() {
		for _, b := range packets {
			w.main.n = BurstSize
			for i := range w.main.n {
				addr, _ := w.frames.Pop()
				copy(w.umem.Frame(addr)[ring.Headroom:], b)
				w.main.descs[i] = ring.Desc{Addr: addr + ring.Headroom, Len: uint32(len(b))}
			}
			if !w.shortcut(&w.main) {
				t.Fatal("packets of an established flow did not take the shortcut")
			}
			w.discardOutput()
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per round, want 0", allocs)
	}
}
