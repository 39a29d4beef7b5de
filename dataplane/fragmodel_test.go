package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"handoff64/conntrack"
	"handoff64/ring"
)

// fragModel is a datagram as a list of octets: slow and obvious.
type fragModel struct {
	owner map[int]int // octet to the fragment that brought it
	sent  [][3]int    // at, n, more (1) or not
	end   int
}

func (f *fragModel) add(at, n int, more bool) fit {
	m := 0
	if more {
		m = 1
	}
	touched := false
	for o := at; o < at+n; o++ {
		if i, ok := f.owner[o]; ok {
			if f.sent[i] == [3]int{at, n, m} {
				return repeats
			}
			touched = true
		}
	}
	switch {
	case touched:
		return overlaps
	case more && f.end != 0 && at+n >= f.end, !more && f.end != 0:
		return overlaps
	}
	if !more {
		for o := range f.owner {
			if o >= at+n {
				return overlaps
			}
		}
	}
	if len(f.sent) == maxPieces {
		return exceeds
	}
	for o := at; o < at+n; o++ {
		f.owner[o] = len(f.sent)
	}
	f.sent = append(f.sent, [3]int{at, n, m})
	if !more {
		f.end = at + n
	}
	return fits
}

// FuzzDatagram compares the intervals of a datagram with octets in a map.
func FuzzDatagram(f *testing.F) {
	f.Add([]byte{0, 2, 1, 2, 1, 0, 3, 5, 1})
	f.Add([]byte{4, 1, 1, 0, 4, 1, 5, 7, 0, 5, 7, 0, 5, 7, 1})
	f.Add(bytes.Repeat([]byte{1, 1, 1, 200, 3, 0}, 20))
	f.Fuzz(func(t *testing.T, in []byte) {
		var d datagram
		m := fragModel{owner: map[int]int{}}
		for ; len(in) >= 3; in = in[3:] {
			at, n, more := int(in[0])*8, 1+int(in[1]), in[2]&1 == 1
			if more {
				n = (1 + int(in[1])%8) * 8
			}
			got, want := d.add(at, n, more), m.add(at, n, more)
			if got != want {
				t.Fatalf("%d octets at %d, more %v: %d, the model says %d\n%+v", n, at, more, got, want, m.sent)
			}
			if d.complete() != (m.end != 0 && len(m.owner) == m.end) {
				t.Fatalf("complete: %v; %d octets of %d", d.complete(), len(m.owner), m.end)
			}
		}
	})
}

// FuzzFragments lets fragments of a few datagrams come in any order and shape,
// over several workers, with pauses. Nothing may get lost uncounted, no frame
// stay behind when the time of all is over, and no more be held than allowed.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{0x00, 0x10, 0x01, 0x80, 0x23, 0x42, 0xf0, 0x00, 0x11})
	f.Add(bytes.Repeat([]byte{0x31, 0x07, 0x92, 0xe4}, 30))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := cutRig(t, setup{workers: 2, frames: 512, fragments: 16})
		flows := cutFlows()
		for ; len(in) >= 2; in = in[2:] {
			flow := flows[int(in[0]&0xf)%len(flows)]
			id := uint32(in[0]>>4&3) + 1
			pieces := flow.cut(t, make([]byte, 300), id, 64)
			p := pieces[int(in[1]&7)%len(pieces)]
			switch in[1] >> 4 {
			case 14:
				p = shifted(t, p, 8)
			case 13:
				p = ending(t, p)
			case 12:
				r.now += conntrack.Tick(in[1]&7) * 5
			}
			n := int(in[1] >> 3 & 1)
			if flow.v6 {
				r.pass(r.in6[n], [][]byte{p})
			} else {
				r.pass(r.in4[n], [][]byte{p})
			}
			for _, w := range r.workers {
				if w.datagrams.waiting > w.datagrams.limit {
					t.Fatalf("%d fragments are held", w.datagrams.waiting)
				}
			}
			r.check()
		}
		r.now += 3 * defaultFragmentTicks
		r.poll()
		for _, w := range r.workers {
			d := w.datagrams
			if d.waiting+d.released+d.lists[0].n+d.lists[1].n+d.lists[2].n != 0 {
				t.Fatalf("something is left: %d held, %d released, %+v", d.waiting, d.released, d.lists)
			}
		}
	})
}

// TestFragmentsDoNotAllocate covers held, gathered and passing ones.
func TestFragmentsDoNotAllocate(t *testing.T) {
	for _, f := range cutFlows() {
		r := cutRig(t, setup{})
		pieces := f.cut(t, random(500), 5, 64)
		w := r.workers[0]
		n := testing.AllocsPerRun(50, func() {
			w.main.n = 0
			for i := len(pieces) - 1; i >= 0; i-- { // Inject and Flush of memport allocate: around them
				addr, _ := w.frames.Pop()
				copy(w.umem.Frame(addr)[ring.Headroom:], pieces[i])
				d := ring.Desc{Addr: addr + ring.Headroom, Len: uint32(len(pieces[i]))}
				w.main.add(w.umem, d, viaPort)
			}
			w.begin(r.now)
			w.process(&w.main)
			for s := range w.out {
				for i := range w.out[s].n {
					w.frames.Push(w.out[s].descs[i].Addr)
					w.counters.Translated[0]++
				}
				w.out[s].n = 0
			}
			w.counters.RxPackets[0] += uint64(len(pieces))
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", f.name, n)
		}
	}
}

// TestHairpinnedFragments go round as fragments, in any order.
func TestHairpinnedFragments(t *testing.T) {
	for _, workers := range []int{1, 2, 4} {
		for name := range orders(6) {
			r := cutRig(t, setup{workers: workers})
			data := random(6*64 - 8)
			pieces := pieces6(t, udp6(t, clientA, 4000, mappedA, 8080, data), 0x70001, 64)
			var out [][]byte
			for i, at := range orders(len(pieces))[name] {
				o, out4 := r.pass(r.in6[i%workers], [][]byte{pieces[at]})
				none(t, out4)
				out = append(out, o...)
			}
			b := whole(t, 1, out)
			if upper := upperOf(t, b); !bytes.Equal(upper[8:], data) || upper[3] != 80 {
				t.Errorf("%d workers, %s: %d octets", workers, name, len(upper))
			}
			if _, dst := addressOf(b); dst.String() != clientB {
				t.Errorf("went to %v", dst)
			}
		}
	}
}

// TestFragmentsOfAQuery: the first fragment asks the server; the others wait
// for its return, in which everything is decided.
func TestFragmentsOfAQuery(t *testing.T) {
	for _, workers := range []int{1, 2, 4} {
		for port := 4000; port < 4008; port++ {
			r := newRig(t, setup{handoff: true, workers: workers})
			r.servers.Set(addr4(serverA), conntrack.ServerHandoff)
			data := random(400)
			pieces := pieces6(t, udp6(t, clientA, port, serverA, 7000, data), 9, 64)
			out6, out4 := r.from6(pieces...)
			none(t, out6)
			none(t, out4)
			hi, lo := hiLo(clientA)
			owner := r.table.Owner(conntrack.Addr6{Hi: hi, Lo: lo}, uint16(port))
			asked := r.tunnelled(t, owner)
			if len(asked) != 1 || !bytes.Equal(asked[0].packet, ipOf(pieces[0])) {
				t.Fatalf("%d workers: asked %d times", workers, len(asked))
			}
			r.entry(t, clientA, uint16(port), 5555)
			out6, out4 = r.comesBack(t, owner, viaServer, pieces[0])
			none(t, out6)
			if upper := upperOf(t, whole(t, 9, out4)); !bytes.Equal(upper[8:], data) || int(upper[0])<<8|int(upper[1]) != 5555 {
				t.Errorf("%d octets", len(upper))
			}
		}
	}
}

// TestFragmentsOnConcurrentWorkers has every worker run on a goroutine of its
// own, with the fragments of each datagram spread over all.
func TestFragmentsOnConcurrentWorkers(t *testing.T) {
	const workers, datagrams = 4, 300
	r := cutRig(t, setup{workers: workers, frames: 2048, fragments: 8192})
	flows := cutFlows()
	type parcel struct {
		v6 bool
		b  []byte
	}
	shares := make([][]parcel, workers)
	datas := map[uint32][]byte{}
	for id := uint32(1); id <= datagrams; id++ {
		f := flows[id%7]
		datas[id] = random(400)
		for _, p := range f.cut(t, datas[id], id, 64) {
			n := rand.IntN(workers)
			shares[n] = append(shares[n], parcel{f.v6, p})
		}
	}
	outs := make([][][]byte, workers)
	var wg sync.WaitGroup
	var left sync.WaitGroup
	left.Add(workers)
	done := make(chan struct{})
	go func() { left.Wait(); close(done) }()
	for i, w := range r.workers {
		wg.Go(func() {
			finished := false
			for idle := 0; idle < 2000; {
				for range 8 {
					if len(shares[i]) == 0 {
						break
					}
					in := r.in4[i]
					if shares[i][0].v6 {
						in = r.in6[i]
					}
					if !in.Inject(shares[i][0].b) {
						break
					}
					shares[i] = shares[i][1:]
				}
				n := w.Poll(r.now)
				outs[i] = append(append(outs[i], r.in4[i].Drain()...), r.in6[i].Drain()...)
				if len(shares[i]) == 0 && !finished {
					finished = true
					left.Done()
				}
				select {
				case <-done:
					if n == 0 {
						idle++
					} else {
						idle = 0
					}
				default:
				}
			}
		})
	}
	wg.Wait()
	r.poll()
	got := map[uint32][][]byte{}
	for i := range outs {
		outs[i] = append(append(outs[i], r.in4[i].Drain()...), r.in6[i].Drain()...)
		for _, o := range outs[i] {
			_, _, id, _, _ := fragmentOf(t, o)
			got[id] = append(got[id], o)
		}
	}
	for id, data := range datas {
		f := flows[id%7]
		f.check(t, got[id], data, id)
		if t.Failed() {
			t.Fatal(fmt.Sprint("datagram ", id, " of ", f.name))
		}
	}
}
