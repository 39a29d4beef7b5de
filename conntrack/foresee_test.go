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
		s.Foresee(keys[:], hashes[:], next[:])
		if n == 0 {
			f.check() // nothing changed
		}
		for i, k := range keys {
			m, v := s.MapForeseen(k.Client, k.ClientPort, k.Proto, &next[i])
			if v != OK {
				t.Fatalf("flow %d: %v", n*burst+i, v)
			}
			se := Session{Key: *k, Mapped: m.Addr, MappedPort: m.Port}
			if v := s.Insert(&se, 1); v != OK {
				t.Fatalf("flow %d: %v", n*burst+i, v)
			}
			k46 := se.key46()
			if s.mapping(next[i].bib) == m && next[i].hash46 == f.Hash46(&k46) {
				right++
			}
		}
	}
	f.check()
	if right < burst*bursts*95/100 {
		t.Errorf("foreseen: %d of %d", right, burst*bursts)
	}
	k := flow(0)
	k.ServerPort++
	var next [1]Foresight
	s.Foresee([]*Key64{&k}, []uint64{f.Hash64(&k)}, next[:])
	if m, v := s.MapForeseen(k.Client, k.ClientPort, k.Proto, &next[0]); v != OK || s.mapping(next[0].bib) != m {
		t.Errorf("an existing mapping is %v, %v; foreseen was %v", m, v, s.mapping(next[0].bib))
	}
}
