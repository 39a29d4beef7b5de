package conntrack

import "testing"

// What Foresee foresees for a burst is what Map and Insert then do. It may be
// wrong where packets of the burst get into each other's way, which is rare.
func TestForesee(t *testing.T) {
	const burst, bursts = 64, 50
	f := newFixture(t, Config{Sessions: 1 << 16, AddressDependent: true, Pool4: benchPool()})
	s := f.Shard(0)
	right := 0
	for n := range bursts {
		var keys [burst]*Key64
		var hashes [burst]uint64
		var next [burst]Foresight
		for i := range keys {
			k := flow(n*burst + i)
			keys[i], hashes[i] = &k, f.Hash64(&k)
		}
		for step := range burst + Ahead {
			s.Foresee(keys[:], hashes[:], next[:], step)
		}
		if n == 0 {
			f.check() // nothing changed
		}
		for i, k := range keys {
			m, v := s.MapForeseen(k, &next[i])
			if v != OK {
				t.Fatalf("flow %d: %v", n*burst+i, v)
			}
			se := Session{Key: *k, Mapped: m.Addr, MappedPort: m.Port}
			foreseen := s.mapping(next[i].guess) == m
			var v64 View64
			if v := s.Open(&se, &next[i], 1, &v64); v != OK {
				t.Fatalf("flow %d: %v", n*burst+i, v)
			}
			if found, ok := f.get64(*k); !ok || v64 != found {
				t.Fatalf("flow %d: the view is %+v, a lookup's %+v", n*burst+i, v64, found)
			}
			if foreseen {
				right++
			}
		}
	}
	s.Expire(1, 1) // publishes the counters
	f.check()
	if right < burst*bursts*95/100 {
		t.Errorf("foreseen: %d of %d", right, burst*bursts)
	}
	k := flow(0)
	k.ServerPort++
	var next [1]Foresight
	for step := range 1 + Ahead {
		s.Foresee([]*Key64{&k}, []uint64{f.Hash64(&k)}, next[:], step)
	}
	if m, v := s.MapForeseen(&k, &next[0]); v != OK || s.mapping(next[0].guess) != m {
		t.Errorf("an existing mapping is %v, %v; foreseen was %v", m, v, s.mapping(next[0].guess))
	}
}
