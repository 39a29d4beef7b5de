package conntrack

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

// at is the pool4 address that a session's mapping lies at, as an index.
func (f *fixture) at(se Session) int {
	i, _ := f.ports.indexOf(se.Mapped)
	return i
}

// keyOf is a port of a client's.
func keyOf(client Addr6, port uint16, p Proto) Key64 {
	k := Key64{Client: client, ClientPort: port, Server: 0xcb007101, ServerPort: 53, Proto: p}
	if p == ICMP {
		k.ServerPort = 0
	}
	return k
}

// livingAt finds a client whose home the address is.
func (f *fixture) livingAt(addr, n int) (client Addr6) {
	for client = (Addr6{0x20010db8_00000000, uint64(n) << 32}); ; client.Lo++ {
		if int(scale(pairing(client), uint64(len(f.ports.addrs)))) == addr {
			return client
		}
	}
}

// RFC 6146 §3.5.1.1, §3.5.2.3, §3.5.3: a client that has a mapping at an address
// gets the next there, too, whatever the protocol and the shard, also when it
// came there only because its own was exhausted, and stays until its last one
// goes.
func TestClientStaysWhereItsMappingsAre(t *testing.T) {
	for shards := 1; shards <= 4; shards++ {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			var pool []Pool4Range
			for a := range uint32(4) {
				pool = append(pool, Pool4Range{poolAddr + 5*a, 2000, 2063})
			}
			f := newFixture(t, Config{Shards: shards, Pool4: pool})
			const home = 2
			var others []Session
			for i := range 64 {
				others = append(others, f.open(keyOf(f.livingAt(home, i), 40000, UDP), StateNone, 1))
			}
			client := f.livingAt(home, 1000)
			first := f.open(keyOf(client, 1024, TCP), StateV6Init, 1)
			if f.at(first) == home {
				t.Fatal("64 of 64 ports are taken, and there is another")
			}
			for _, se := range others {
				v, _ := f.get64(se.Key)
				f.ownerOf(&se.Key).Remove(&v)
			}
			f.check()
			mine := []Session{first}
			for i := range 20 { // ports of all shards
				mine = append(mine, f.open(keyOf(client, uint16(3000+i), []Proto{TCP, UDP, ICMP}[i%3]), StateNone, 1))
			}
			for _, se := range mine {
				if f.at(se) != f.at(first) {
					t.Fatalf("%v port %d lies at %s, the first at %s", se.Key.Proto, se.Key.ClientPort, ipv4(se.Mapped), ipv4(first.Mapped))
				}
			}
			f.check()
			for _, se := range mine {
				v, _ := f.get64(se.Key)
				f.ownerOf(&se.Key).Remove(&v)
			}
			f.check()
			if se := f.open(keyOf(client, 5000, UDP), StateNone, 1); f.at(se) != home {
				t.Errorf("with nothing left elsewhere it is at %s", ipv4(se.Mapped))
			}
			f.check()
		})
	}
}

// A static mapping is a BIB entry, too: dynamic ones of its client go there.
func TestDynamicMappingsFollowStaticOnes(t *testing.T) {
	pool := []Pool4Range{{poolAddr, 1024, 2047}, {poolAddr + 1, 1024, 2047}, {poolAddr + 2, 1024, 2047}}
	f := newFixture(t, Config{Shards: 2, Pool4: pool})
	client := f.livingAt(0, 1)
	st := Static{Proto: TCP, Client: client, ClientPort: 80, Mapped: poolAddr + 2, MappedPort: 80}
	if err := f.AddStatic(st); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if se := f.open(keyOf(client, uint16(5000+i), UDP), StateNone, 1); f.at(se) != 2 {
			t.Fatalf("mapping %d lies at %s", i, ipv4(se.Mapped))
		}
	}
	if err := f.RemoveStatic(TCP, st.Mapped, st.MappedPort); err != nil {
		t.Fatal(err)
	}
	if se := f.open(keyOf(client, 6000, UDP), StateNone, 1); f.at(se) != 2 {
		t.Errorf("left the address of its dynamic mappings for %s", ipv4(se.Mapped))
	}
	f.Flush()
	f.expireAll(2)
	f.check()
	if se := f.open(keyOf(client, 6000, UDP), StateNone, 3); f.at(se) != 0 {
		t.Errorf("with nothing left it is at %s", ipv4(se.Mapped))
	}
	// A static mapping whose address is none of the ranges' says nothing.
	if err := f.AddStatic(Static{Proto: TCP, Client: f.livingAt(1, 2), ClientPort: 80, Mapped: poolAddr + 77, MappedPort: 80}); err != nil {
		t.Fatal(err)
	}
	if se := f.open(keyOf(f.livingAt(1, 2), 7000, UDP), StateNone, 3); f.at(se) != 1 {
		t.Errorf("it lies at %s", ipv4(se.Mapped))
	}
	f.check()
}

// The shared table from several goroutines: every count is found again, whoever
// made it, and nothing is left.
func TestAwayUnderContention(t *testing.T) {
	var a away
	if err := a.allocate(2); err != nil {
		t.Fatal(err)
	}
	defer a.mem.unmap()
	type one struct {
		h    uint64
		addr int
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			var held []one
			for range 50_000 {
				if len(held) > 0 && r.IntN(2) == 0 {
					i := r.IntN(len(held))
					a.drop(held[i].h, held[i].addr)
					held[i] = held[len(held)-1]
					held = held[:len(held)-1]
					continue
				}
				// Few clients, all of them in two buckets.
				o := one{uint64(r.IntN(6))<<40 | uint64(r.IntN(2)), r.IntN(3)}
				if a.add(o.h, o.addr) {
					held = append(held, o)
					if _, ok := a.find(o.h); !ok {
						t.Error("what was just counted is not found")
					}
				}
			}
			for _, o := range held {
				a.drop(o.h, o.addr)
			}
		})
	}
	wg.Wait()
	for i := range a.words {
		if w := a.words[i].Load(); w != 0 {
			t.Fatalf("word %d is left: %#x", i, w)
		}
	}
	if n := a.known.Load(); n != 0 {
		t.Errorf("%d known in the end", n)
	}
}
