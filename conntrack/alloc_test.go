package conntrack

import "testing"

// Nothing that the packet path calls allocates (design.md, invariant 2).
func TestPacketPathDoesNotAllocate(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, AddressDependent: true, Static: []Static{web}, Dir: t.TempDir()})
	k := flow(1)
	k.Proto = TCP
	se := f.open(k, StateEstablished, 1)
	k46 := se.key46()
	var v64 View64
	var v46 View46
	i, now := 0, Tick(1)
	for name, call := range map[string]func(){
		"lookup 64": func() {
			h := f.Hash64(&k)
			hashes, at := [1]uint64{h}, [1]uint32{}
			f.Touch64(hashes[:])
			f.Locate64(hashes[:], at[:])
			if !f.LookupAt64(&k, h, at[0], &v64) || !f.Lookup64(&k, h, &v64) {
				t.Fatal("lost")
			}
		},
		"lookup 46": func() {
			h := f.Hash46(&k46)
			hashes, at := [1]uint64{h}, [1]uint32{}
			f.Touch46(hashes[:])
			f.Locate46(hashes[:], at[:])
			if !f.LookupAt46(&k46, h, at[0], &v46) || !f.Lookup46(&k46, h, &v46) {
				t.Fatal("lost")
			}
		},
		"touch":   func() { v64.Touch(now); v46.Touch(now); v64.SetHop(v64.Hop + 1) },
		"TCP":     func() { f.PacketTCP64(&v64, FlagRST, now); f.PacketTCP46(&v46, FlagACK, now) },
		"FindBIB": func() { f.FindBIB(TCP, poolAddr, 8080); f.FindBIB(UDP, se.Mapped, se.MappedPort) },
		"owner":   func() { f.Owner(k.Client, k.ClientPort) },
		"map, insert, expire": func() {
			i, now = i+1, now+400
			n := flow(2 + i%1000)
			o := f.ownerOf(&n)
			f.open(n, StateNone, now)
			n.ServerPort++
			keys, hashes := [1]*Key64{&n}, [1]uint64{f.Hash64(&n)}
			var next [1]Foresight
			for step := range 1 + Ahead {
				o.Foresee(keys[:], hashes[:], next[:], step)
			}
			if _, v := o.MapForeseen(&n, &next[0]); v != OK {
				t.Fatal(v)
			}
			o.HasSessionWith(n.Client, n.ClientPort, n.Server, n.Proto)
			f.Shard(0).Expire(now, 64)
			f.Shard(1).Expire(now, 64)
		},
		"static session": func() {
			w, v := f.fromV4(TCP, poolAddr, 8080, 0x01020304, now)
			if v != OK {
				t.Fatal(v)
			}
			x, _ := f.get64(w.Key)
			f.ownerOf(&w.Key).Remove(&x)
		},
		"unmap": func() {
			n := flow(5000)
			f.ownerOf(&n).Map(n.Client, n.ClientPort, UDP)
			f.ownerOf(&n).Unmap(n.Client, n.ClientPort, UDP)
		},
		"stats": func() { f.Stats() },
	} {
		f.get64(k)
		v64, _ = f.get64(k)
		v46, _ = f.get46(k46)
		if n := testing.AllocsPerRun(200, call); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
		if _, ok := f.get64(k); !ok {
			f.open(k, StateEstablished, now)
			v, _ := f.get64(k)
			k46.Mapped, k46.MappedPort = v.Mapped, v.MappedPort
		}
	}
	f.check()
}
