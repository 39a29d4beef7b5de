package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
)

// flow is one flow of each kind whose packets are cut up.
type cutFlow struct {
	name string
	make func(t testing.TB, data []byte) []byte
	v6   bool
}

func tcpData(t testing.TB, v6 bool, data []byte) []byte {
	c := tcpLayer(4000, 4001, "S")
	if v6 {
		ip := ip6(clientA, via6(serverA), layers.IPProtocolTCP)
		c.SetNetworkLayerForChecksum(ip)
		return build(t, ether(layers.EthernetTypeIPv6), ip, c, gopacket.Payload(data))
	}
	ip := ip4(serverA, mappedA, layers.IPProtocolTCP)
	c.SrcPort, c.DstPort = 4001, 8080
	c.SetNetworkLayerForChecksum(ip)
	return build(t, ether(layers.EthernetTypeIPv4), ip, c, gopacket.Payload(data))
}

// zeroed is an IPv4 UDP packet without a checksum.
func zeroed(b []byte) []byte {
	b = slices.Clone(b)
	b[ethernetHeader+26], b[ethernetHeader+27] = 0, 0
	return b
}

// cutFlows go through mappings that cutRig makes.
func cutFlows() []cutFlow {
	return []cutFlow{
		{"UDP from IPv6", func(t testing.TB, d []byte) []byte { return udp6(t, clientA, 4000, serverA, 4001, d) }, true},
		{"TCP from IPv6", func(t testing.TB, d []byte) []byte { return tcpData(t, true, d) }, true},
		{"echo from IPv6", func(t testing.TB, d []byte) []byte { return echo6(t, clientA, serverA, 77, 1, d) }, true},
		{"UDP from IPv4", func(t testing.TB, d []byte) []byte { return udp4(t, serverA, 4001, mappedA, 8080, d) }, false},
		{"UDP from IPv4 without checksum", func(t testing.TB, d []byte) []byte { return zeroed(udp4(t, serverA, 4001, mappedA, 8080, d)) }, false},
		{"TCP from IPv4", func(t testing.TB, d []byte) []byte { return tcpData(t, false, d) }, false},
		{"echo from IPv4", func(t testing.TB, d []byte) []byte { return echo4(t, 8, serverA, mappedA, 88, 1, d) }, false},
	}
}

// cutRig has static mappings for what comes from IPv4.
func cutRig(t *testing.T, s setup) *rig {
	r := newRig(t, s)
	hi, lo := hiLo(clientB)
	for _, st := range []conntrack.Static{
		{Proto: conntrack.UDP, ClientPort: 80, MappedPort: 8080}, {Proto: conntrack.TCP, ClientPort: 80, MappedPort: 8080},
		{Proto: conntrack.ICMP, ClientPort: 7, MappedPort: 88},
	} {
		st.Mapped, st.Client = addr4(mappedA), conntrack.Addr6{Hi: hi, Lo: lo}
		if err := r.table.AddStatic(st); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// cut is the flow's packet as fragments.
func (f *cutFlow) cut(t testing.TB, data []byte, id uint32, size int) [][]byte {
	if f.v6 {
		return pieces6(t, f.make(t, data), id, size)
	}
	return pieces4(t, f.make(t, data), uint16(id), size)
}

// send lets fragments arrive, each on a worker of its own turn, and returns
// what comes out on the other side.
func (f *cutFlow) send(r *rig, pieces ...[]byte) [][]byte {
	r.t.Helper()
	var all [][]byte
	for i, p := range pieces {
		n := i % len(r.workers)
		in := r.in4[n]
		if f.v6 {
			in = r.in6[n]
		}
		out6, out4 := r.pass(in, [][]byte{p})
		if f.v6 {
			none(r.t, out6)
			all = append(all, out4...)
		} else {
			none(r.t, out4)
			all = append(all, out6...)
		}
	}
	return all
}

// check puts together what came out and compares it with what was sent: the
// payload octet by octet, the ports and the checksum.
func (f *cutFlow) check(t *testing.T, out [][]byte, data []byte, id uint32) {
	t.Helper()
	b := whole(t, id, out)
	upper := upperOf(t, b)
	src, dst := addressOf(b)
	wantSrc, wantDst := mappedA, serverA
	if !f.v6 {
		wantSrc, wantDst = "64:ff9b::c633:640a", clientB
	}
	if src.String() != wantSrc || dst.String() != wantDst {
		t.Errorf("%v -> %v", src, dst)
	}
	if !bytes.HasSuffix(upper, data) || len(upper) != len(f.make(t, data))-ethernetHeader-map[bool]int{true: 40, false: 20}[f.v6] {
		t.Errorf("%d octets of the upper layer differ from what was sent", len(upper))
	}
	switch b[ethernetHeader+map[bool]int{true: 9, false: 6}[f.v6]] {
	case 1:
		if upper[0] != 8 {
			t.Errorf("ICMPv4 type %d", upper[0])
		}
	case 58:
		if upper[0] != 128 || upper[5] != 7 {
			t.Errorf("ICMPv6 type %d, identifier %d", upper[0], upper[5])
		}
	default:
		if port := int(upper[2])<<8 | int(upper[3]); f.v6 && port != 4001 || !f.v6 && port != 80 {
			t.Errorf("destination port %d", port)
		}
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// orders are ways in which the fragments of a datagram can come.
func orders(n int) map[string][]int {
	in := make([]int, n)
	for i := range in {
		in[i] = i
	}
	reverse := slices.Clone(in)
	slices.Reverse(reverse)
	return map[string][]int{"in order": in, "reverse": reverse, "random": rand.Perm(n), "first last": append(slices.Clone(in[1:]), 0)}
}

// TestFragmentsInEveryOrder sends every kind of datagram, in 2 to 20 fragments,
// in order and out of it, with one worker and with several.
func TestFragmentsInEveryOrder(t *testing.T) {
	for _, workers := range []int{1, 2, 4} {
		for _, f := range cutFlows() {
			t.Run(fmt.Sprintf("%s/%d workers", f.name, workers), func(t *testing.T) {
				r := cutRig(t, setup{workers: workers})
				id := uint32(100)
				for _, n := range []int{2, 3, 7, 20} {
					for name, order := range orders(n) {
						id++
						data := random(64*n - 40)
						pieces := f.cut(t, data, id, 64)
						if len(pieces) != n {
							t.Fatalf("%d pieces, want %d", len(pieces), n)
						}
						shuffled := make([][]byte, n)
						for i, p := range order {
							shuffled[i] = pieces[p]
						}
						out := f.send(r, shuffled...)
						if t.Failed() || len(out) != n {
							t.Fatalf("%d fragments %s: %d came out", n, name, len(out))
						}
						f.check(t, out, data, id)
					}
				}
				for _, w := range r.workers {
					if w.datagrams.waiting+w.datagrams.released != 0 || w.datagrams.lists[listHolding].n != 0 || w.datagrams.lists[listSettled].n != 0 {
						t.Errorf("something is left of complete datagrams: %+v", w.datagrams.lists)
					}
				}
			})
		}
	}
}

// TestFragmentsPassWithoutQueueing: once the first has passed, each later
// fragment leaves in the round in which it came.
func TestFragmentsPassWithoutQueueing(t *testing.T) {
	r := cutRig(t, setup{})
	f := cutFlows()[3]
	for i, p := range f.cut(t, random(1000), 9, 128) {
		if out := f.send(r, p); len(out) != 1 {
			t.Fatalf("fragment %d: %d packets came out at once", i, len(out))
		}
	}
}

// TestFragmentsOfEverySize: UDP up to 65,507 octets in fragments of every kind
// of size, all arriving in one burst after the other.
func TestFragmentsOfEverySize(t *testing.T) {
	r := cutRig(t, setup{})
	id := uint32(0)
	for _, f := range cutFlows() {
		if f.name == "TCP from IPv6" || f.name == "TCP from IPv4" {
			continue
		}
		for _, n := range []int{57, 1453, 1472, 2000, 4096, 9000, 16000, 30000, 65500, 65507} {
			for _, size := range []int{552, 1232, 1448} {
				if n < size {
					continue
				}
				id++
				data := random(n)
				var out [][]byte
				for burst := range slices.Chunk(f.cut(t, data, id, size), 50) {
					if f.v6 {
						_, o := r.from6(burst...)
						out = append(out, o...)
					} else {
						o, _ := r.from4(burst...)
						out = append(out, o...)
					}
				}
				r.poll()
				out = append(append(out, r.in6[0].Drain()...), r.in4[0].Drain()...)
				f.check(t, out, data, id)
				if t.Failed() {
					t.Fatalf("%s: %d octets in pieces of %d", f.name, n, size)
				}
			}
		}
	}
}

// TestInterleavedDatagrams: fragments of many datagrams of all kinds come mixed.
func TestInterleavedDatagrams(t *testing.T) {
	for _, workers := range []int{1, 2, 4} {
		r := cutRig(t, setup{workers: workers, frames: 2048})
		type sent struct {
			f    cutFlow
			data []byte
			id   uint32
		}
		all := map[uint32]*sent{}
		type arrival struct {
			s     *sent
			piece []byte
		}
		var arrivals []arrival
		for id := uint32(1); id <= 60; id++ {
			s := &sent{cutFlows()[id%7], random(100 + rand.IntN(600)), id}
			all[id] = s
			for _, p := range s.f.cut(t, s.data, id, 64) {
				arrivals = append(arrivals, arrival{s, p})
			}
		}
		rand.Shuffle(len(arrivals), func(i, j int) { arrivals[i], arrivals[j] = arrivals[j], arrivals[i] })
		out := map[uint32][][]byte{}
		for _, a := range arrivals {
			for _, o := range a.s.f.send(r, a.piece) {
				_, _, id, _, _ := fragmentOf(t, o)
				out[id] = append(out[id], o)
			}
		}
		for id, s := range all {
			s.f.check(t, out[id], s.data, id)
		}
	}
}

// TestDuplicatesAreHarmless: every fragment twice, in any order.
func TestDuplicatesAreHarmless(t *testing.T) {
	for _, f := range cutFlows() {
		r := cutRig(t, setup{})
		data := random(500)
		pieces := f.cut(t, data, 5, 64)
		twice := append(slices.Clone(pieces[1:]), pieces[2:]...) // the first late, so that all are held
		out := f.send(r, append(twice, pieces[0])...)
		f.check(t, out, data, 5)
		if n := r.drops(DropFragmentDuplicate); n != uint64(len(pieces)-2) {
			t.Errorf("%s: %d duplicates", f.name, n)
		}
	}
}

// TestOverlapsAreRefused: a second octet for one place spoils the datagram,
// whatever came before, and what comes later. RFC 5722, RFC 1858, RFC 3128.
func TestOverlapsAreRefused(t *testing.T) {
	for _, f := range cutFlows() {
		for name, overlap := range map[string]func(p [][]byte) []byte{
			"shifted by 8":   func(p [][]byte) []byte { return shifted(t, p[2], 8) },
			"another end":    func(p [][]byte) []byte { return ending(t, p[3]) },
			"behind the end": func(p [][]byte) []byte { return shifted(t, p[3], 512) },
		} {
			for _, late := range []bool{false, true} {
				r := cutRig(t, setup{})
				pieces := f.cut(t, random(500), 5, 64)
				bad := overlap(pieces)
				seq := append(slices.Clone(pieces[:7]), bad, pieces[7])
				if name == "behind the end" {
					seq = append(slices.Clone(pieces[:3]), pieces[4:]...)
					seq = append(seq, bad, pieces[3])
				}
				if late { // the first comes last: nothing may leave
					seq = append(slices.Clone(seq[1:]), seq[0])
				}
				out := f.send(r, seq...)
				if len(out) == len(pieces) || late && len(out) != 0 {
					t.Errorf("%s, %s: %d of %d fragments came out", f.name, name, len(out), len(pieces))
				}
				if got := r.drops(DropFragmentOverlap); int(got) != len(seq)-len(out) {
					t.Errorf("%s, %s: %d came out, %d dropped of %d", f.name, name, len(out), got, len(seq))
				}
			}
		}
	}
}

// shifted moves a fragment further back by octets.
func shifted(t testing.TB, f []byte, by int) []byte {
	f = slices.Clone(f)
	h := f[ethernetHeader:]
	if h[0]>>4 == 6 {
		at := int(h[42])<<8 | int(h[43])
		h[42], h[43] = byte((at+by)>>8), byte(at+by)
		return f
	}
	at := int(h[6])<<8 | int(h[7])
	h[6], h[7] = byte((at+by/8)>>8), byte(at+by/8)
	return rechecksummed(f)
}

// ending says that nothing follows a fragment.
func ending(t testing.TB, f []byte) []byte {
	f = slices.Clone(f)
	h := f[ethernetHeader:]
	if h[0]>>4 == 6 {
		h[43] &^= 1
		return f
	}
	h[6] &^= 0x20
	return rechecksummed(f)
}

// TestNothingLeavesForTheHostBeforeItsFirst and after: what is the host's goes
// to its kernel, all of it, as it came.
func TestFragmentsOfTheHost(t *testing.T) {
	host := func(rs *Rules) {
		rs.Host = HostRules{
			Enabled: true, ControlPort: 64064, DiscardPort: 9,
			Pool: []PoolPorts{{First: addr4(mappedA), Last: addr4(mappedA), Ports: [][2]uint16{{1024, 65535}}}},
		}
	}
	for name, c := range map[string]struct {
		packet []byte
		hosts  bool
	}{
		"UDP below the range":           {udp4(t, serverA, 53, mappedA, 500, random(200)), true},
		"UDP to the control channel":    {udp4(t, serverA, 64064, mappedA, 64064, random(200)), true},
		"UDP below, without a checksum": {zeroed(udp4(t, serverA, 53, mappedA, 500, random(200))), true},
		"UDP to the discard port":       {udp4(t, serverA, 53, mappedA, 9, random(200)), false},
		"UDP in the range":              {udp4(t, serverA, 53, mappedA, 5000, random(200)), false},
		"a ping":                        {echo4(t, 8, serverA, mappedA, 5000, 1, random(200)), true},
		"a ping through a static one":   {echo4(t, 8, serverA, mappedA, 88, 1, random(200)), false},
		"an answer to the host's ping":  {echo4(t, 0, serverA, mappedA, 500, 1, random(200)), true},
		"an answer to a client's ping":  {echo4(t, 0, serverA, mappedA, 5000, 1, random(200)), false},
		"a timestamp":                   {echo4(t, 13, serverA, mappedA, 5000, 1, random(200)), true},
		"an error about the host's UDP": {quoting4(t, udp4(t, mappedA, 500, serverA, 53, random(200))), true},
		"an error about a client's UDP": {quoting4(t, udp4(t, mappedA, 5000, serverA, 53, random(200))), false},
		"GRE":                           {with4(t, func(ip *layers.IPv4) { ip.Protocol = 47 }), true},
	} {
		for order, index := range orders(len(pieces4(t, c.packet, 7, 64))) {
			r := cutRig(t, setup{rules: host})
			pieces := pieces4(t, c.packet, 7, 64)
			if name == "GRE" {
				pieces = [][]byte{piece4(t, 7, 0, true, make([]byte, 64), 47), piece4(t, 7, 64, false, make([]byte, 8), 47)}
				index = []int{1, 0}
			}
			want := map[string]bool{}
			for _, i := range index {
				want[string(pieces[i])] = true
				r.from4(pieces[i])
			}
			got := r.kernel[0].Drain()
			if !c.hosts {
				if len(got) != 0 {
					t.Errorf("%s, %s: %d fragments went to the kernel", name, order, len(got))
				}
				continue
			}
			for _, g := range got {
				if !want[string(g)] {
					t.Errorf("%s, %s: not as it came: % x", name, order, g)
				}
				delete(want, string(g))
			}
			if len(want) != 0 {
				t.Errorf("%s, %s: %d fragments did not reach the kernel", name, order, len(want))
			}
		}
	}
}
