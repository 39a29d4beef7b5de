package conntrack

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// client is a numbered client port that a given shard owns.
func (f *fixture) client(shard, n int) Key64 {
	k := Key64{Client: Addr6{0x20010db8_00000000, uint64(n)}, ClientPort: uint16(n), Server: 0xcb007101, ServerPort: 53, Proto: UDP}
	for f.Owner(k.Client, k.ClientPort) != shard {
		k.Client.Hi++
	}
	return k
}

// Every port of a range can be used, however many shards there are and whichever
// of them needs it; the one after the last is refused, and one given back is
// found again.
func TestLastPortIsFound(t *testing.T) {
	ranges := []Pool4Range{{poolAddr, 1000, 1999}, {poolAddr, 5000, 5063}, {poolAddr + 9, 65400, 65535}}
	const want = 1000 + 64 + 136 - 2
	for shards := 1; shards <= 4; shards++ {
		for user := range shards {
			f := newFixture(t, Config{Shards: shards, Pool4: ranges, Reserved: []uint16{1500, 65500}})
			seen := map[Mapping]bool{}
			for i := range want {
				se := f.open(f.client(user, i), StateNone, 1)
				m := Mapping{Addr: se.Mapped, Port: se.MappedPort}
				if seen[m] || m.Port == 1500 || m.Port == 65500 {
					t.Fatalf("%d shards: %v handed out wrongly", shards, m)
				}
				seen[m] = true
			}
			k := f.client(user, want)
			if _, v := f.tryOpen(k, StateNone, 1); v != PortsUsedUp {
				t.Fatalf("%d shards: verdict %v after the last port", shards, v)
			}
			f.check()
			gone, _ := f.get64(f.client(user, 77))
			f.Shard(user).Remove(&gone)
			if se := f.open(k, StateNone, 1); se.Mapped != gone.Mapped || se.MappedPort != gone.MappedPort {
				t.Fatalf("got %s:%d, want the port given back", ipv4(se.Mapped), se.MappedPort)
			}
			f.check()
		}
	}
}

// A shard takes from its own blocks while they last: the hint in a returning
// packet's port is then right.
func TestOwnBlocksFirst(t *testing.T) {
	f := newFixture(t, Config{Shards: 4})
	for shard := range 4 {
		for i := range 500 {
			se := f.open(f.client(shard, i), StateNone, 1)
			if owner := int(se.MappedPort>>blockShift) % 4; owner != shard {
				t.Fatalf("shard %d took port %d of shard %d", shard, se.MappedPort, owner)
			}
		}
	}
}

// RFC 4787 REQ-4: the parity is the client port's while there is one to be had.
func TestParityIsKept(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 2000, 2999}}})
	for i := range 500 {
		if se := f.open(f.client(0, 2*i+1), StateNone, 1); se.MappedPort&1 != 1 {
			t.Fatalf("client port %d got %d", 2*i+1, se.MappedPort)
		}
	}
	if se := f.open(f.client(0, 2001), StateNone, 1); se.MappedPort&1 != 0 {
		t.Fatalf("the 501st of 500 odd ports is %d", se.MappedPort)
	}
	f.check()
}

// RFC 4787 REQ-2: one client keeps to one address; and clients spread.
func TestPairedPooling(t *testing.T) {
	var ranges []Pool4Range
	for a := range uint32(100) {
		ranges = append(ranges, Pool4Range{poolAddr + a*3, 1024, 2047})
	}
	f := newFixture(t, Config{Shards: 2, Pool4: ranges})
	used := map[uint32]int{}
	for c := range 200 {
		var first uint32
		for p := range 5 {
			k := flow(0)
			k.Client.Lo, k.ClientPort = uint64(c), uint16(1000+p)
			se := f.open(k, StateNone, 1)
			if p == 0 {
				first = se.Mapped
				used[first]++
			}
			if se.Mapped != first {
				t.Fatalf("client %d has %s and %s", c, ipv4(first), ipv4(se.Mapped))
			}
		}
	}
	if len(used) < 70 {
		t.Errorf("200 clients use %d of 100 addresses", len(used))
	}
	f.check()
}

// One mapping serves TCP and UDP, whatever the server; ICMP identifiers are a
// space of their own (design.md, invariant 6).
func TestEndpointIndependentMapping(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 4000, 4000}}})
	k := flow(1)
	first := f.open(k, StateNone, 1)
	k.Proto, k.Server, k.ServerPort = TCP, 0x01020304, 80
	if se := f.open(k, StateV6Init, 1); se.MappedPort != first.MappedPort {
		t.Errorf("TCP got %d, UDP %d", se.MappedPort, first.MappedPort)
	}
	k.Proto, k.ServerPort = ICMP, 0
	if se := f.open(k, StateNone, 1); se.MappedPort != 4000 {
		t.Errorf("the identifier is %d, want 4000", se.MappedPort)
	}
	other := flow(100)
	if _, v := f.tryOpen(other, StateNone, 1); v != PortsUsedUp {
		t.Errorf("another client: %v", v)
	}
	f.check()
}

// RFC 6056: successive ports tell nothing about the next. Differences between
// neighbours take many values, every part of the range occurs, and another
// secret gives another sequence; the same one gives the same, for replays.
func TestPortsAreUnpredictable(t *testing.T) {
	sequence := func(secret byte) (ports []int) {
		s := [32]byte{secret}
		f := newFixture(t, Config{Secret: &s})
		for i := range 2000 {
			ports = append(ports, int(f.open(f.client(0, 2*i), StateNone, 1).MappedPort))
		}
		return ports
	}
	a, b, again := sequence(1), sequence(2), sequence(1)
	steps, buckets, same := map[int]int{}, [64]float64{}, 0
	for i, p := range a {
		buckets[(p-1024)*64/(65536-1024)]++
		if i > 0 {
			steps[p-a[i-1]]++
		}
		if p == b[i] {
			same++
		}
	}
	if fmt.Sprint(a) != fmt.Sprint(again) {
		t.Error("the same secret gave two sequences")
	}
	if same > 10 {
		t.Errorf("two secrets agree on %d of 2000 ports", same)
	}
	for d, n := range steps {
		if n > 8 {
			t.Errorf("step %d occurs %d times in 2000", d, n)
		}
	}
	chi := 0.0
	for _, n := range buckets {
		chi += (n - 2000.0/64) * (n - 2000.0/64) / (2000.0 / 64)
	}
	if limit := 63 + 5*math.Sqrt(2*63); chi > limit { // five standard deviations
		t.Errorf("ports are spread unevenly: χ² = %.0f, at most %.0f", chi, limit)
	}
}

func TestPortZeroIsNeverMapped(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 0, 2}}})
	for i := range 2 {
		if se := f.open(f.client(0, i), StateNone, 1); se.MappedPort == 0 {
			t.Error("a UDP flow got port 0")
		}
	}
	k := f.client(0, 5)
	if _, v := f.tryOpen(k, StateNone, 1); v != PortsUsedUp {
		t.Errorf("verdict %v, want the third port not to be used", v)
	}
	f.check()
}

// Workers that fight for three ports leave no port behind that the summaries do
// not show, and never have one port twice.
func TestSummariesUnderContention(t *testing.T) {
	p, err := newPorts([]Pool4Range{{poolAddr, 2000, 2001}, {poolAddr + 1, 2000, 2000}}, nil, &hasher{shards: 2, portShift: blockShift})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	var holders [2][2]sync.Mutex
	var wg sync.WaitGroup
	for id := range 4 {
		wg.Go(func() {
			pk := picker{pool: p, rng: keyStream{rand.NewChaCha8([32]byte{byte(id)})}}
			for i := range 50_000 {
				addr, port, ok := pk.pick(kindPorts, i%len(pk.pool.addrs), i%len(pk.pool.addrs), uint16(i), pk.rng.next())
				if !ok {
					continue
				}
				if !holders[addr][port&1].TryLock() {
					t.Errorf("port %d of address %d is held twice", port, addr)
					return
				}
				runtime.Gosched()
				holders[addr][port&1].Unlock()
				p.release(p.set(kindPorts, addr), port)
			}
		})
	}
	wg.Wait()
	pk := picker{pool: p, rng: keyStream{rand.NewChaCha8([32]byte{9})}}
	for i := range 3 {
		if _, _, ok := pk.pick(kindPorts, 0, 0, 0, pk.rng.next()); !ok {
			t.Errorf("only %d of 3 ports are found afterwards", i)
		}
	}
}

// The dangerous moment: one worker has taken the last free port of a block and is
// about to clear the summaries when another gives a port back to it.
func TestReleaseBesideClaimIsSeen(t *testing.T) {
	p, err := newPorts([]Pool4Range{{poolAddr, 2000, 2000}, {poolAddr, 2002, 2002}}, nil, &hasher{shards: 1, portShift: blockShift})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}()
	const set, block = 0, 2000 >> blockShift
	if !p.claim(set, 2000) {
		t.Fatal("2000 cannot be claimed")
	}
	p.sets[set].free[block].Store(0) // claim(2002), first half
	p.release(set, 2000)
	p.settle(set, block, 0, 0) // and second half, with what it saw
	pk := picker{pool: p, rng: keyStream{rand.NewChaCha8([32]byte{1})}}
	if _, port, ok := pk.pick(kindPorts, 0, 0, 0, pk.rng.next()); !ok || port != 2000 {
		t.Errorf("port %d, %v, want 2000", port, ok)
	}
	if _, port, ok := pk.pick(kindPorts, 0, 0, 0, pk.rng.next()); ok {
		t.Errorf("port %d is handed out twice", port)
	}
	p.sets[set].free[block].Store(1 << (2000 & 63)) // the same at the address's summary
	p.announce(set, block, 1<<(2000&63))
	p.sets[set].free[block].Store(0)
	p.sets[set].sum[0][block>>6].Store(0) // claim(2000) up to there
	p.release(set, 2002)
	p.settle(set, block, 0, 0)
	if _, port, ok := pk.pick(kindPorts, 0, 0, 0, pk.rng.next()); !ok || port != 2002 {
		t.Errorf("port %d, %v, want 2002", port, ok)
	}
}
