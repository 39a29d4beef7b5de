package conntrack

import "testing"

// Looking a burst up in passes finds what single lookups find, whatever its
// size and however many shards it is spread over.
func TestLookupInPasses(t *testing.T) {
	f := newFixture(t, Config{Shards: 3, Sessions: 3000, Pool4: benchPool()})
	const known, strangers = 2000, 77
	var keys64 []Key64
	var keys46 []Key46
	for i := range known + strangers {
		k := flow(i)
		k46 := Key46{Server: k.Server, Mapped: poolAddr, ServerPort: k.ServerPort, MappedPort: uint16(i), Proto: k.Proto}
		if i < known {
			se := f.open(k, StateNone, 1)
			k46 = se.key46()
		}
		keys64, keys46 = append(keys64, k), append(keys46, k46)
	}
	for _, size := range []int{0, 1, 63, 64, 65, 300, known + strangers} {
		h64, h46, at := make([]uint64, size), make([]uint64, size), make([]uint32, size)
		first := known + strangers - size
		for i := range size {
			h64[i], h46[i] = f.Hash64(&keys64[first+i]), f.Hash46(&keys46[first+i])
		}
		f.Touch64(h64)
		f.Locate64(h64, at)
		for i := range size {
			var v, single View64
			k := &keys64[first+i]
			found := f.LookupAt64(k, h64[i], at[i], &v)
			if found != (first+i < known) || found != f.Lookup64(k, h64[i], &single) || v != single {
				t.Fatalf("%d packets: flow %d: found %v, %+v; by itself %+v", size, first+i, found, v, single)
			}
		}
		f.Touch46(h46)
		f.Locate46(h46, at)
		for i := range size {
			var v, single View46
			k := &keys46[first+i]
			found := f.LookupAt46(k, h46[i], at[i], &v)
			if found != (first+i < known) || found != f.Lookup46(k, h46[i], &single) || v != single {
				t.Fatalf("%d packets: flow %d back: found %v, %+v; by itself %+v", size, first+i, found, v, single)
			}
		}
	}
}
