package conntrack

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"testing"
)

// blockLog follows the events of all shards as whoever reads the log does.
type blockLog struct {
	t     testing.TB
	whose map[Mapping]Event // by address and first port
}

func (l *blockLog) read(f *fixture) {
	l.t.Helper()
	for i := range f.Shards() {
		for _, e := range f.Shard(i).Events() {
			at := Mapping{Addr: e.Mapped, Port: e.MappedPort}
			was, known := l.whose[at]
			switch {
			case e.Kind == BlockAssigned && !known:
				l.whose[at] = e
			case e.Kind == BlockReturned && known && was.Client == e.Client && was.MappedLast == e.MappedLast:
				delete(l.whose, at)
			case e.Kind == BlockAssigned || e.Kind == BlockReturned:
				l.t.Fatalf("event %+v, while the block is %+v", e, was)
			}
		}
	}
}

// agree compares the log with the table: the same blocks, and every mapping in
// a block of its client.
func (l *blockLog) agree(f *fixture) {
	l.t.Helper()
	n := 0
	f.Blocks(func(b BlockInfo) bool {
		n++
		if e, ok := l.whose[Mapping{Addr: b.Addr, Port: b.First}]; !ok || e.Client != b.Client || e.MappedLast != b.Last {
			l.t.Fatalf("block %+v, the log says %+v", b, e)
		}
		return true
	})
	if n != len(l.whose) || int(f.Stats().Blocks) != n {
		l.t.Fatalf("%d blocks, %d in the log, stats %d", n, len(l.whose), f.Stats().Blocks)
	}
	free := 0
	for i := range f.blocks.free {
		free += bits.OnesCount64(f.blocks.free[i].Load())
	}
	if left := f.blocks.left.Load(); int(left) != free {
		l.t.Fatalf("%d blocks are free, %d are said to be", free, left)
	}
	f.BIB(func(b BIBInfo) bool {
		for at, e := range l.whose {
			if at.Addr == b.Mapped && e.MappedPort <= b.MappedPort && b.MappedPort <= e.MappedLast {
				if e.Client != b.Client && !b.IsStatic {
					l.t.Fatalf("mapping %+v lies in a block of %v", b, e.Client)
				}
				return true
			}
		}
		if !b.IsStatic {
			l.t.Fatalf("mapping %+v lies in no block", b)
		}
		return true
	})
}

// Random churn: what the log says is what the table has, at every moment, and
// every block comes back.
func TestPortBlocksLogAndTableAgree(t *testing.T) {
	for _, c := range []struct{ shards, size int }{{1, 64}, {3, 64}, {2, 256}, {4, 4096}} {
		t.Run(fmt.Sprintf("%d shards, %d ports", c.shards, c.size), func(t *testing.T) {
			f := newFixture(t, Config{
				Shards: c.shards, Sessions: 7_000, Pool4: []Pool4Range{{poolAddr, 1000, 7000}, {poolAddr + 1, 1024, 2047}, {poolAddr + 1, 40000, 65535}},
				PortBlocks: PortBlocks{Size: c.size, Grace: 50}, PerClient: ClientLimits{Ports: 80},
			})
			f.addStatic(Static{TCP, Addr6{7, 7}, 80, poolAddr, 1100})
			l := &blockLog{t, map[Mapping]Event{}}
			r := rand.New(rand.NewPCG(uint64(c.size), 3))
			now, refused := Tick(1), 0
			for step := range 6_000 {
				k := oneClient(r.IntN(20), r.IntN(1200))
				if r.IntN(4) == 0 {
					k.Proto, k.ServerPort = ICMP, 0
				}
				if v, ok := f.get64(k); ok && r.IntN(2) == 0 {
					f.ownerOf(&k).Remove(&v)
				} else if _, v := f.tryOpen(k, StateNone, now); v == PortsUsedUp || v == ClientPorts {
					refused++
				} else if v != OK {
					t.Fatalf("open: %v", v)
				}
				if step%50 == 0 {
					now += Tick(r.IntN(30))
					f.expireAll(now)
				}
				l.read(f)
				if step%500 == 0 {
					l.agree(f)
					f.check()
				}
			}
			if refused == 0 {
				t.Error("nobody was ever refused: the test tests too little")
			}
			f.Flush()
			f.expireAll(now + 1)
			for range 200 { // each call gives back a few
				f.expireAll(now + 52)
			}
			l.read(f)
			if len(l.whose) != 0 || f.Stats().Blocks != 0 {
				t.Errorf("%d blocks were not given back, stats %+v", len(l.whose), f.Stats())
			}
			f.check()
		})
	}
}

// Every port of a range can be used, also where the range ends within a block;
// clients who find no block are refused until one comes back.
func TestPortBlocksAreUsedUp(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 1000, 1999}}, PortBlocks: PortBlocks{Size: 256, Grace: 20}})
	got := map[uint16]bool{}
	for n := range 1000 {
		k := Key64{Client: Addr6{1, 1}, ClientPort: uint16(n + 1), Server: 1, ServerPort: 1, Proto: UDP}
		got[f.open(k, StateNone, 1).MappedPort] = true
	}
	if len(got) != 1000 {
		t.Errorf("%d of 1000 ports were used", len(got))
	}
	other := Key64{Client: Addr6{1, 2}, ClientPort: 1, Server: 1, ServerPort: 1, Proto: UDP}
	if _, v := f.tryOpen(other, StateNone, 1); v != PortsUsedUp {
		t.Fatalf("all blocks are assigned: %v", v)
	}
	f.expireAll(1 + f.lifetime(UDP, StateNone))
	if _, v := f.tryOpen(other, StateNone, 3001); v != PortsUsedUp {
		t.Fatalf("within the grace period: %v", v)
	}
	f.expireAll(3001 + 21)
	f.open(other, StateNone, 3022)
	f.check()
	f.Blocks(func(b BlockInfo) bool {
		if b.Client != other.Client || b.Since != 3022 || b.Mappings != 1 {
			t.Errorf("block %+v", b)
		}
		return true
	})
}

// A block that is used again within the grace period stays, and is said to be
// assigned once.
func TestPortBlockGrace(t *testing.T) {
	f := newFixture(t, Config{PortBlocks: PortBlocks{Size: 64, Grace: 100}})
	k, events := oneClient(1, 1), 0
	now := Tick(1)
	for range 20 {
		f.open(k, StateNone, now)
		v, _ := f.get64(k)
		f.ownerOf(&k).Remove(&v)
		now += 60
		f.expireAll(now)
		events += len(f.Shard(0).Events())
	}
	if events != 1 {
		t.Errorf("%d events, want one assignment", events)
	}
	f.expireAll(now + 41)
	f.expireAll(now + 101)
	if e := f.Shard(0).Events(); len(e) != 1 || e[0].Kind != BlockReturned || e[0].Lasted < 20*60 {
		t.Errorf("at the end: %+v", e)
	}
	f.check()
}

// All of a client's mappings, of both number spaces, are at one shard and, while
// it has room, at one address, in as few blocks as hold them, with the parity
// kept.
func TestPortBlocksOfOneClient(t *testing.T) {
	f := newFixture(t, Config{Shards: 4, Pool4: []Pool4Range{{poolAddr, 1024, 65535}, {poolAddr + 1, 1024, 65535}}, PortBlocks: PortBlocks{Size: 128, Grace: 1}})
	owner, addr, parity := -1, uint32(0), 0
	seen := map[uint16]bool{}
	for n := range 300 {
		k := Key64{Client: Addr6{3, 3}, ClientPort: uint16(5000 + n), Server: 1, ServerPort: 1, Proto: UDP}
		se := f.open(k, StateNone, 1)
		if o := f.Owner(k.Client, k.ClientPort); owner >= 0 && (o != owner || se.Mapped != addr) {
			t.Fatalf("flow %d at shard %d and %s, others at %d and %s", n, o, ipv4(se.Mapped), owner, ipv4(addr))
		} else {
			owner, addr = o, se.Mapped
		}
		if se.MappedPort&1 == k.ClientPort&1 {
			parity++
		}
		seen[se.MappedPort>>7] = true
		k46 := se.key46()
		if f.Hash46(&k46)>>56 != uint64(owner) {
			t.Fatalf("port %d does not hint at shard %d", se.MappedPort, owner)
		}
	}
	if len(seen) != 3 || parity < 299 {
		t.Errorf("%d blocks for 300 ports, %d of them of the right parity", len(seen), parity)
	}
	echo := f.open(Key64{Client: Addr6{3, 3}, ClientPort: 9, Server: 1, Proto: ICMP}, StateNone, 1)
	if !seen[echo.MappedPort>>7] || f.Stats().Blocks != 3 {
		t.Errorf("the identifier %d lies outside the client's blocks", echo.MappedPort)
	}
	f.check()
}

// Neither the block nor the port in it can be told from those seen before
// (RFC 6056, RFC 6888 REQ-15).
func TestPortBlocksAreUnpredictable(t *testing.T) {
	starts, offsets := map[uint16]int{}, map[uint16]int{}
	for n := range 400 {
		secret := [32]byte{byte(n), byte(n >> 8)}
		f := newFixture(t, Config{Secret: &secret, PortBlocks: PortBlocks{Size: 256, Grace: 1}})
		se := f.open(oneClient(1, 1), StateNone, 1)
		starts[se.MappedPort>>8]++
		offsets[se.MappedPort&0xff]++
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(starts) < 150 || len(offsets) < 80 {
		t.Errorf("400 first ports lie in %d of 252 blocks, at %d of 128 offsets of one parity", len(starts), len(offsets))
	}
}

// A restart takes up the blocks of the sessions that it takes up. Mappings of two
// clients in one block, from before there were blocks, cannot both stay.
func TestPortBlocksAfterRestart(t *testing.T) {
	dir := t.TempDir()
	c := Config{Dir: dir, Shards: 2, Now: 10, PortBlocks: PortBlocks{Size: 64, Grace: 100}}
	f, _ := reopen(t, nil, c)
	for client := range 5 {
		for n := range 300 {
			f.open(oneClient(client, n), StateNone, 10)
		}
	}
	before := map[Mapping]Addr6{}
	f.Blocks(func(b BlockInfo) bool { before[Mapping{Addr: b.Addr, Port: b.First}] = b.Client; return true })
	c.Shards, c.Now = 3, 20
	f, r := reopen(t, f, c)
	if r.Restored != 1500 || r.Dropped != 0 {
		t.Fatalf("recovery %+v", r)
	}
	after := 0
	f.Blocks(func(b BlockInfo) bool {
		after++
		if before[Mapping{Addr: b.Addr, Port: b.First}] != b.Client || b.Since != 20 {
			t.Errorf("block %+v was of %v", b, before[Mapping{Addr: b.Addr, Port: b.First}])
		}
		return true
	})
	if after != len(before) || after == 0 {
		t.Errorf("%d blocks after the restart, %d before", after, len(before))
	}
	f.check()

	c.PortBlocks = PortBlocks{}
	f, _ = reopen(t, f, c)
	f.Flush()
	f.expireAll(21)
	for client := range 200 {
		f.open(oneClient(client, 1), StateNone, 21)
	}
	c.PortBlocks, c.Now = PortBlocks{Size: 4096, Grace: 100}, 22
	f, r = reopen(t, f, c)
	if r.Restored == 0 || r.Dropped == 0 || r.Restored+r.Dropped != 200 || r.Restored > 16 {
		t.Errorf("recovery %+v, want at most one client for each of 16 blocks", r)
	}
	f.check()
}

// Shards take blocks from the same pool at the same time.
func TestPortBlocksAcrossShards(t *testing.T) {
	const shards = 4
	rounds := 20_000
	if testing.Short() {
		rounds = 4_000
	}
	f := newFixture(t, Config{Shards: shards, Sessions: 60_000, Pool4: []Pool4Range{{poolAddr, 1024, 5119}}, PortBlocks: PortBlocks{Size: 64, Grace: 2}})
	var wg sync.WaitGroup
	logs := make([][]Event, shards)
	for shard := range shards {
		wg.Go(func() {
			r, s := rand.New(rand.NewPCG(uint64(shard), 4)), f.Shard(shard)
			for step := range rounds {
				k := oneClient(r.IntN(100), r.IntN(400))
				if f.Owner(k.Client, k.ClientPort) != shard {
					continue
				}
				var v View64
				if f.Lookup64(&k, f.Hash64(&k), &v) {
					s.Remove(&v)
				} else if _, v := f.tryOpen(k, StateNone, Tick(step/16)); v != OK && v != PortsUsedUp {
					t.Errorf("open: %v", v)
				}
				s.Expire(Tick(step/16), 8)
				logs[shard] = append(logs[shard], s.Events()...)
			}
		})
	}
	wg.Wait()
	f.check()
	held := map[Mapping]int{}
	for _, log := range logs {
		for _, e := range log {
			held[Mapping{Addr: e.Mapped, Port: e.MappedPort}] += map[EventKind]int{BlockAssigned: 1, BlockReturned: -1}[e.Kind]
		}
	}
	f.Blocks(func(b BlockInfo) bool { held[Mapping{Addr: b.Addr, Port: b.First}]--; return true })
	for at, n := range held {
		if n != 0 {
			t.Errorf("block %+v: the log and the table differ by %d", at, n)
		}
	}
}

// Sessions are noted, with how long they lived; those of before nobody noted are
// not said to have a beginning.
func TestSessionsAreNoted(t *testing.T) {
	f := newFixture(t, Config{LogSessions: true, Entries: 8})
	se := f.open(oneClient(1, 1), StateNone, 5)
	f.cacheEntry(Addr6{1, 1}, 4000, 5000, 5)
	f.over(Addr6{1, 1}, 4000, UDP, 100, 5)
	e := append([]Event(nil), f.Shard(0).Events()...)
	if len(e) != 2 || e[0].Kind != SessionCreated || e[0].Client != se.Key.Client || e[0].MappedPort != se.MappedPort ||
		e[0].ServerPort != se.Key.ServerPort || e[0].Proto != UDP || e[1].Origin != OriginHandoff {
		t.Fatalf("events %+v", e)
	}
	f.expireAll(5 + f.lifetime(UDP, StateNone) + 1)
	e = f.Shard(0).Events()
	if len(e) != 2 || e[0].Kind != SessionEnded || e[0].Lasted != f.lifetime(UDP, StateNone)+1 {
		t.Fatalf("events %+v", e)
	}
	f.LogSessions(false)
	f.open(oneClient(1, 2), StateNone, 9000)
	f.LogSessions(true)
	v, _ := f.get64(oneClient(1, 2))
	f.Shard(0).Remove(&v)
	if e = f.Shard(0).Events(); len(e) != 1 || e[0].Lasted != 0 {
		t.Fatalf("events %+v", e)
	}
	for n := range journalSize + 10 {
		k := oneClient(2, 1)
		k.Server = uint32(n)
		if _, v := f.tryOpen(k, StateNone, 9000); v != OK {
			break
		}
	}
	if n := len(f.Shard(0).Events()); n+int(f.Stats().EventsLost) != int(f.Stats().Created)-2-1 {
		t.Errorf("%d events, %d lost, %d sessions", n, f.Stats().EventsLost, f.Stats().Created)
	}
}
