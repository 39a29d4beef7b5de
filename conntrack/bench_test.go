package conntrack

import (
	"fmt"
	"testing"
)

// benchPool has a port for each of a million flows, every flow from a client
// port of its own: the dearest mix, nothing is shared.
func benchPool() (ranges []Pool4Range) {
	for a := range uint32(24) {
		ranges = append(ranges, Pool4Range{poolAddr + a, 1024, 65535})
	}
	return ranges
}

// scattered gives flow numbers in an order that no prefetcher guesses.
func scattered(i, n int) int { return int(uint64(i) * 2654435761 % uint64(n)) }

var flowCounts = []int{1, 1000, 65536, 1 << 20}

// BenchmarkLookup hashes and finds sessions a burst of 64 at a time, as the
// worker does; ns/op is for one packet.
func BenchmarkLookup(b *testing.B) {
	for _, n := range flowCounts {
		f := newFixture(b, Config{Sessions: 1 << 20, Pool4: benchPool()})
		keys64, keys46 := make([]Key64, n), make([]Key46, n)
		for i := range n {
			se := f.open(flow(scattered(i, n)), StateNone, 1)
			keys64[i], keys46[i] = se.Key, se.key46()
		}
		b.Run(fmt.Sprintf("64/flows=%d", n), func(b *testing.B) { f.bench64(b, keys64) })
		b.Run(fmt.Sprintf("46/flows=%d", n), func(b *testing.B) { f.bench46(b, keys46) })
	}
}

const benchBurst = 64

func (f *fixture) bench64(b *testing.B, keys []Key64) {
	var hashes [benchBurst]uint64
	var slots [benchBurst]uint32
	var views [benchBurst]View64
	b.ReportAllocs()
	at := 0
	for i := 0; i < b.N; i += benchBurst {
		if at+benchBurst > len(keys) {
			at = 0
		}
		for j := range benchBurst {
			hashes[j] = f.Hash64(&keys[(at+j)%len(keys)])
		}
		f.Touch64(hashes[:])
		f.Locate64(hashes[:], slots[:])
		for j := range benchBurst {
			if !f.LookupAt64(&keys[(at+j)%len(keys)], hashes[j], slots[j], &views[j]) {
				b.Fatal("lost a session")
			}
		}
		at += benchBurst
	}
}

func (f *fixture) bench46(b *testing.B, keys []Key46) {
	var hashes [benchBurst]uint64
	var slots [benchBurst]uint32
	var views [benchBurst]View46
	b.ReportAllocs()
	at := 0
	for i := 0; i < b.N; i += benchBurst {
		if at+benchBurst > len(keys) {
			at = 0
		}
		for j := range benchBurst {
			hashes[j] = f.Hash46(&keys[(at+j)%len(keys)])
		}
		f.Touch46(hashes[:])
		f.Locate46(hashes[:], slots[:])
		for j := range benchBurst {
			if !f.LookupAt46(&keys[(at+j)%len(keys)], hashes[j], slots[j], &views[j]) {
				b.Fatal("lost a session")
			}
		}
		at += benchBurst
	}
}

// BenchmarkLookupMiss is a packet that no session is known of, at a full table.
func BenchmarkLookupMiss(b *testing.B) {
	f := newFixture(b, Config{Sessions: 1 << 20, Pool4: benchPool()})
	f.fill(1 << 20)
	var v View64
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		k := flow(1<<20 + i)
		if f.Lookup64(&k, f.Hash64(&k), &v) {
			b.Fatal("found a session that nobody opened")
		}
	}
}

func (f *fixture) fill(n int) {
	f.tb.Helper()
	for i := range n {
		f.open(flow(i), StateNone, 1)
	}
}

// BenchmarkInsert takes new flows as a worker does: looks a burst of them up in
// vain, then maps and inserts each. While the table fills up to n sessions it
// is timed, while it empties it is not.
func BenchmarkInsert(b *testing.B) {
	for _, n := range []int{1000, 65536, 1 << 20} {
		b.Run(fmt.Sprintf("flows=%d", n), func(b *testing.B) {
			f := newFixture(b, Config{Sessions: 1 << 20, Pool4: benchPool()})
			now := Tick(1)
			f.fill(n)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += benchBurst {
				if i%n < benchBurst {
					b.StopTimer()
					now += 400 * TicksPerSecond
					f.expireAll(now)
					b.StartTimer()
				}
				f.insertBurst(i%n, now)
			}
		})
	}
}

func (f *fixture) insertBurst(first int, now Tick) {
	var keys [benchBurst]Key64
	var refs [benchBurst]*Key64
	var next [benchBurst]Foresight
	var hashes [benchBurst]uint64
	var v View64
	s := f.Shard(0)
	for j := range keys {
		keys[j] = flow(first + j)
		hashes[j] = f.Hash64(&keys[j])
	}
	f.Touch64(hashes[:])
	for j := range keys {
		if f.Lookup64(&keys[j], hashes[j], &v) {
			f.tb.Fatal("found a session that nobody opened")
		}
		refs[j] = &keys[j]
	}
	for step := range benchBurst + Ahead {
		s.Foresee(refs[:], hashes[:], next[:], step)
		i := step - Ahead
		if i < 0 {
			continue
		}
		m, verdict := s.MapForeseen(refs[i], &next[i])
		if verdict != OK {
			f.tb.Fatal(verdict)
		}
		se := Session{Key: keys[i], Mapped: m.Addr, MappedPort: m.Port}
		if verdict := s.Open(&se, &next[i], now, &v); verdict != OK {
			f.tb.Fatal(verdict)
		}
	}
}

// BenchmarkExpire ends a million sessions whose time has come.
func BenchmarkExpire(b *testing.B) {
	const n = 1 << 20
	f := newFixture(b, Config{Sessions: n, Pool4: benchPool()})
	s, now, left := f.Shard(0), Tick(1), 0
	b.ReportAllocs()
	for i := 0; i < b.N; {
		if left == 0 {
			b.StopTimer()
			for j := range n {
				f.open(flow(j), StateNone, now)
			}
			left, now = n, now+400*TicksPerSecond
			b.StartTimer()
		}
		got := s.Expire(now, 64)
		i, left = i+got, left-got
	}
}

// BenchmarkPortBlocksUsedUp is what the first packet of a client costs when
// every block of 4096 addresses is somebody's. That must not depend on how many
// there are: established sessions share the worker with whoever keeps asking.
func BenchmarkPortBlocksUsedUp(b *testing.B) {
	const addrs, size = 4096, 4096
	c := Config{Shards: 1, Sessions: 1 << 17, PortBlocks: PortBlocks{Size: size, Grace: 1000}}
	for i := range uint32(addrs) {
		c.Pool4 = append(c.Pool4, Pool4Range{Addr: poolAddr + i, First: 1024, Last: 65535})
	}
	f := newFixture(b, c)
	k := Key64{ClientPort: 1, Server: 1, ServerPort: 1, Proto: UDP}
	for n := range uint64(addrs * 65536 / size) {
		k.Client = Addr6{1, n}
		f.open(k, StateNone, 1)
		f.Shard(0).Events()
	}
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		if _, v := f.Shard(0).Map(Addr6{2, n}, 1, UDP); v != PortsUsedUp {
			b.Fatal(v)
		}
	}
}
