package conntrack

import (
	"testing"
)

func TestSessionIsFoundFromBothSides(t *testing.T) {
	for _, shards := range []int{1, 2, 3, 8} {
		f := newFixture(t, Config{Shards: shards, AddressDependent: true})
		const n = 3000
		for i := range n {
			se := f.open(flow(i), StateNone, 10)
			v64, ok := f.get64(se.Key)
			if !ok {
				t.Fatalf("flow %d: not found by its IPv6 side", i)
			}
			if v64.Mapped != se.Mapped || v64.MappedPort != se.MappedPort || v64.Delta != se.Delta64 || v64.Hop != 0 {
				t.Fatalf("flow %d: %+v, want %+v", i, v64, se)
			}
			v46, ok := f.get46(se.key46())
			if !ok {
				t.Fatalf("flow %d: not found by its IPv4 side", i)
			}
			if v46.Client != se.Key.Client || v46.ClientPort != se.Key.ClientPort || v46.Delta != se.Delta46 || v46.Owner != v64.Owner {
				t.Fatalf("flow %d: %+v, want %+v", i, v46, se)
			}
		}
		f.check()
		if st := f.Stats(); st.Used != n || st.Created != n {
			t.Fatalf("stats %+v, want %d sessions", st, n)
		}
		for i := range n {
			v, ok := f.get64(flow(i))
			if !ok {
				t.Fatalf("flow %d: gone", i)
			}
			f.Shard(int(v.Owner)).Remove(&v)
			if _, ok := f.get64(flow(i)); ok {
				t.Fatalf("flow %d: still there", i)
			}
		}
		f.check()
		if st := f.Stats(); st.Used != 0 || st.BIB != 0 {
			t.Fatalf("stats %+v after removing all", st)
		}
	}
}
