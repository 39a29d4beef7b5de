package conntrack

import (
	"fmt"
	"testing"
)

// mappedFor opens one session of a client's port and returns the mapped one.
func (f *fixture) mappedFor(shard, n int, port uint16, p Proto) uint16 {
	f.tb.Helper()
	k := Key64{Client: Addr6{0x20010db8_00000000, uint64(n)}, ClientPort: port, Server: 0xcb007101, ServerPort: 53, Proto: p}
	for f.Owner(k.Client, k.ClientPort) != shard {
		k.Client.Hi++
	}
	if p == ICMP {
		k.ServerPort = 0
	}
	return f.open(k, StateNone, 1).MappedPort
}

// RFC 6146 §3.5.1.1, §3.5.2.3: well-known ports map to such, others to others,
// until there are none; the other class then. Within a class the parity, as
// long as there is one of it. Port 0 and reserved ones are never given.
func TestPortClasses(t *testing.T) {
	for shards := 1; shards <= 3; shards++ {
		for user := range shards {
			t.Run(fmt.Sprintf("shard %d of %d", user, shards), func(t *testing.T) {
				f := newFixture(t, Config{Shards: shards, Reserved: []uint16{1009, 1030}, Pool4: []Pool4Range{{poolAddr, 0, 9}, {poolAddr, 1000, 1049}}})
				low, high := 9+24-1, 26-1 // 1–9, 1000–1023 without 1009; 1024–1049 without 1030
				seen := map[uint16]bool{}
				take := func(n int, client uint16, wantLow, wantParity bool) {
					t.Helper()
					got := f.mappedFor(user, n, client, []Proto{TCP, UDP}[n&1])
					if seen[got] || got == 0 || got == 1009 || got == 1030 {
						t.Fatalf("port %d handed out wrongly", got)
					}
					if seen[got] = true; (got < 1024) != wantLow {
						t.Fatalf("client port %d got %d", client, got)
					}
					if wantParity && got&1 != client&1 {
						t.Fatalf("client port %d got %d: the other parity", client, got)
					}
				}
				odd := 5 + 12 - 1 // of the low ones
				for i := range low {
					take(i, 53, true, i < odd)
				}
				for i := range high - 10 {
					take(100+i, 40000, false, i < 12)
				}
				for i := range 10 { // no well-known port is left
					take(200+i, 80, false, false)
				}
				if _, v := f.tryOpen(f.client(user, 999), StateNone, 1); v != PortsUsedUp {
					t.Errorf("after the last port: %v", v)
				}
				f.check()
			})
		}
	}
}

// Other ports get a well-known one when there are no others.
func TestOtherClassAtLast(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 500, 520}}})
	for i := range 21 {
		if got := f.mappedFor(0, i, uint16(50000+i), UDP); got < 500 || got > 520 {
			t.Fatalf("got %d", got)
		}
	}
}

// Identifiers have no classes: any value will do (RFC 6146 §3.5.3).
func TestIdentifiersHaveNoClass(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 0, 65535}}})
	low := 0
	for i := range 2000 {
		if f.mappedFor(0, i, 7, ICMP) < 1024 {
			low++
		}
	}
	if low == 0 || low > 200 {
		t.Errorf("%d of 2000 identifiers lie below 1024, want about 31", low)
	}
}

// Well-known ports cannot be guessed either: all of them occur, none often.
func TestWellKnownPortsAreSpread(t *testing.T) {
	f := newFixture(t, Config{Pool4: []Pool4Range{{poolAddr, 1, 65535}}})
	first := map[uint16]int{}
	for i := range 400 {
		got := f.mappedFor(0, i, uint16(i&1023), UDP)
		if got > 1023 {
			t.Fatalf("client port %d got %d", i, got)
		}
		first[got>>blockShift]++
	}
	for b := range uint16(wellKnownBlocks) {
		if n := first[b]; n < 8 || n > 60 {
			t.Errorf("%d of 400 ports lie in block %d of 16", n, b)
		}
	}
}

// The parity counts for more than whose block it is: a shard whose own even
// ports are used up takes others' before its own odd ones.
func TestParityBeforeOwnBlocks(t *testing.T) {
	f := newFixture(t, Config{Shards: 2, Pool4: []Pool4Range{{poolAddr, 2048, 2048 + 127}}}) // a block each
	for i := range 64 {
		if got := f.mappedFor(0, i, 40000, UDP); got&1 != 0 {
			t.Fatalf("mapping %d got odd port %d while even ones were free", i, got)
		}
	}
	if got := f.mappedFor(0, 64, 40000, UDP); got&1 != 1 {
		t.Errorf("the 65th of 64 even ports is %d", got)
	}
	f.check()
}
