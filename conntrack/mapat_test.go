package conntrack

import (
	"sync"
	"testing"
)

// mapAt asks the shard of the client.
func (f *fixture) mapAt(client Addr6, port uint16, addr uint32, mapped uint16) (Mapping, bool) {
	return f.Shard(f.Owner(client, port)).MapAt(client, port, TCP, addr, mapped)
}

// openAt is mapAt with a session, without which a mapping does not last.
func (f *fixture) openAt(client Addr6, port uint16, addr uint32, mapped uint16) (Mapping, bool) {
	f.tb.Helper()
	m, ok := f.mapAt(client, port, addr, mapped)
	if ok {
		k := Key64{Client: client, ClientPort: port, Server: 1, ServerPort: 1, Proto: TCP}
		if v := f.ownerOf(&k).Insert(&Session{Key: k, Mapped: m.Addr, MappedPort: m.Port}, 1); v != OK {
			f.tb.Fatal(v)
		}
	}
	return m, ok
}

// MapAt gives a certain port or nothing, and leaves nothing behind.
func TestMapAt(t *testing.T) {
	one, other := Addr6{0x20010db8_00000000, 1}, Addr6{0x20010db8_00000000, 2}
	use := func(f *fixture, client Addr6, port uint16, p Proto) Session {
		f.tb.Helper()
		return f.open(Key64{Client: client, ClientPort: port, Server: 1, ServerPort: 1, Proto: p}, StateNone, 1)
	}
	for _, c := range []struct {
		name   string
		change func(*Config)
		before func(*fixture)
		port   uint16
		want   bool
	}{
		{"free", nil, nil, 5000, true},
		{"the client's identifier", nil, func(f *fixture) { use(f, one, 40000, ICMP) }, 5000, true},
		{"another port of the client", nil, func(f *fixture) { use(f, one, 40001, TCP) }, 5000, true},
		{"below the range", nil, nil, 1023, false},
		{"port 0", func(c *Config) { c.Pool4[0].First = 0 }, nil, 0, false},
		{"reserved", func(c *Config) { c.Reserved = []uint16{5000} }, nil, 5000, false},
		{"well known", func(c *Config) { c.Pool4[0].First = 0 }, nil, 80, true},
		{"taken", nil, func(f *fixture) { f.openAt(other, 40000, poolAddr, 5000) }, 5000, false},
		{"a static mapping's", nil, func(f *fixture) {
			f.AddStatic(Static{Proto: UDP, Client: other, ClientPort: 1, Mapped: poolAddr, MappedPort: 5000})
		}, 5000, false},
		{"mapped already", nil, func(f *fixture) { use(f, one, 40000, UDP) }, 5000, false},
		{"mapped statically", nil, func(f *fixture) {
			f.AddStatic(Static{Proto: TCP, Client: one, ClientPort: 40000, Mapped: poolAddr, MappedPort: 4999})
		}, 5000, false},
		{"below the limit", func(c *Config) { c.PerClient.Ports = 2 }, func(f *fixture) { use(f, one, 1, UDP) }, 5000, true},
		{"at the limit", func(c *Config) { c.PerClient.Ports = 1 }, func(f *fixture) { use(f, one, 1, UDP) }, 5000, false},
		{"taken, with a limit", func(c *Config) { c.PerClient.Ports = 2 }, func(f *fixture) { f.openAt(other, 40000, poolAddr, 5000) }, 5000, false},
		{"first block", func(c *Config) { c.PortBlocks.Size = 64 }, nil, 5000, true},
		{"own block", func(c *Config) { c.PortBlocks.Size = 64 }, func(f *fixture) { f.openAt(one, 1, poolAddr, 5001) }, 5000, true},
		{"block elsewhere", func(c *Config) { c.PortBlocks.Size = 64 }, func(f *fixture) { use(f, one, 1, UDP) }, 1100, false},
		{"another's block", func(c *Config) { c.PortBlocks.Size = 64 }, func(f *fixture) { f.openAt(other, 1, poolAddr, 5001) }, 5000, false},
		{"reserved, in a free block", func(c *Config) { c.PortBlocks.Size, c.Reserved = 64, []uint16{5000} }, nil, 5000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := Config{Pool4: []Pool4Range{{poolAddr, 1024, 65535}}}
			if c.name == "block elsewhere" {
				cfg.Pool4 = []Pool4Range{{poolAddr, 1088, 1151}, {poolAddr, 2048, 2048 + 63}}
			}
			if c.change != nil {
				c.change(&cfg)
			}
			f := newFixture(t, cfg)
			if c.before != nil {
				c.before(f)
			}
			if c.name == "block elsewhere" { // whichever of the two is not the client's
				f.Blocks(func(b BlockInfo) bool {
					if b.First == 1088 {
						c.port = 2050
					}
					return true
				})
			}
			before := f.Stats()
			freed := f.PortFree(poolAddr, c.port)
			m, ok := f.mapAt(one, 40000, poolAddr, c.port)
			if ok != c.want || ok && m != (Mapping{poolAddr, c.port, false}) {
				t.Fatalf("%+v, %v", m, ok)
			}
			if after := f.Stats(); !ok && after != before {
				t.Errorf("was %+v, is %+v", before, after)
			}
			if ok {
				if f.PortFree(poolAddr, c.port) {
					t.Error("the port is still free")
				}
				if again, v := f.Shard(0).Map(one, 40000, UDP); v != OK || again != m {
					t.Errorf("Map gives %+v, %v", again, v)
				}
				f.Shard(0).Unmap(one, 40000, TCP)
			}
			if f.PortFree(poolAddr, c.port) != freed {
				t.Error("the port's state is another")
			}
			f.expireAll(1 << 20)
			f.check()
		})
	}
}

// The client's block that MapAt assigns is logged, holds its next ports, and
// goes back.
func TestMapAtAssignsABlock(t *testing.T) {
	f := newFixture(t, Config{PortBlocks: PortBlocks{Size: 128, Grace: 10}})
	log := &blockLog{t: t, whose: map[Mapping]Event{}}
	client := Addr6{0x20010db8_00000000, 7}
	if _, ok := f.mapAt(client, 40000, poolAddr, 5000); !ok {
		t.Fatal("refused")
	}
	log.read(f)
	log.agree(f)
	for port := range uint16(100) {
		if m, v := f.Shard(0).Map(client, port, UDP); v != OK || m.Port/128 != 5000/128 {
			t.Fatalf("%+v, %v", m, v)
		}
		f.Shard(0).Unmap(client, port, UDP)
	}
	f.Shard(0).Unmap(client, 40000, TCP)
	f.expireAll(100)
	log.read(f)
	if len(log.whose) != 0 || f.Stats().Blocks != 0 {
		t.Errorf("the block is still assigned: %+v", log.whose)
	}
	f.check()
}

// A block in which the port cannot be had stays free.
func TestMapAtLeavesTheBlock(t *testing.T) {
	f := newFixture(t, Config{PortBlocks: PortBlocks{Size: 64}, Reserved: []uint16{5000}})
	if _, ok := f.mapAt(Addr6{1, 1}, 40000, poolAddr, 5000); ok {
		t.Error("got a reserved port")
	}
	if _, ok := f.openAt(Addr6{1, 2}, 40000, poolAddr, 5001); !ok {
		t.Error("the block is lost")
	}
	f.check()
}

// Only at the address where the client's other mappings lie, or will.
func TestMapAtPairedAddress(t *testing.T) {
	const second = poolAddr + 1
	for _, blocks := range []int{0, 64} {
		f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 1024, 65535}, {second, 1024, 65535}}, PortBlocks: PortBlocks{Size: blocks}})
		for n := range uint64(20) {
			client := Addr6{0x20010db8_00000000, n}
			home := f.PairedAddress(client)
			if _, ok := f.openAt(client, 40000, home^poolAddr^second, uint16(5000+64*n)); ok {
				t.Errorf("client %d got a port elsewhere", n)
			}
			if _, ok := f.openAt(client, 40000, poolAddr+2, uint16(5000+64*n)); ok {
				t.Errorf("client %d got a port of no address of ours", n)
			}
			if m, ok := f.openAt(client, 40000, home, uint16(5000+64*n)); !ok || m.Addr != home {
				t.Errorf("client %d got %+v, %v", n, m, ok)
			}
		}
		static := Addr6{0x20010db8_00000000, 1000}
		elsewhere := f.PairedAddress(static) ^ poolAddr ^ second
		if err := f.AddStatic(Static{Proto: TCP, Client: static, ClientPort: 22, Mapped: elsewhere, MappedPort: 22}); err != nil {
			t.Fatal(err)
		}
		if _, ok := f.openAt(static, 40000, f.PairedAddress(static), 9000); ok {
			t.Error("a client with a static mapping elsewhere got a port at home")
		}
		if m, ok := f.openAt(static, 40000, elsewhere, 9000); !ok || m.Addr != elsewhere {
			t.Errorf("where its static mapping is: %+v, %v", m, ok)
		}
		f.check()
	}
}

// Of many clients, at different shards, one gets the port.
func TestMapAtOnce(t *testing.T) {
	for _, blocks := range []int{0, 64} {
		f := newFixture(t, Config{Shards: 4, PortBlocks: PortBlocks{Size: blocks}})
		for round := range uint16(300) {
			var got [4]bool
			var clients [4]Addr6
			var wg sync.WaitGroup
			for shard := range got {
				c := Addr6{0x20010db8_00000000 + uint64(round), 1}
				for f.Owner(c, 40000) != shard {
					c.Lo++
				}
				clients[shard] = c
				wg.Go(func() { _, got[shard] = f.Shard(shard).MapAt(c, 40000, TCP, poolAddr, 2048+64*round) })
			}
			wg.Wait()
			n := 0
			for shard, ok := range got {
				if ok {
					n++
					f.Shard(shard).Unmap(clients[shard], 40000, TCP)
				}
			}
			if n != 1 {
				t.Fatalf("round %d: %d clients got one port", round, n)
			}
		}
		f.expireAll(1 << 20)
		f.check()
	}
}
