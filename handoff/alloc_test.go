package handoff

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"handoff64/conntrack"
)

// Nothing is allocated for a record from a packet worker, be it told, queried or
// tunnelled, nor for a payload from a server; receiving through the batch
// interface of x/net costs two small objects a datagram, its address.
func TestNoAllocation(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.got = slices.Grow(r.got, 1<<16)
	packet := udp6(octets6(client1), within(s.addr), 1, 2, make([]byte, 100))
	before4 := udp4(s.addr, ownAddr, 1, 2, make([]byte, 100))
	n := uint16(0)
	answer := r.formC(s.addr, entry(client1, 1, 2000), before4)
	for name, f := range map[string]func(){
		"notify": func() {
			for range 20 {
				n++
				r.notify(s.addr, conntrack.Addr6{Hi: client1.Hi, Lo: uint64(n % 5)}, n, n)
			}
			r.pass(10 * time.Millisecond)
			r.pass(10 * time.Millisecond)
		},
		"query": func() {
			r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1, MappedPort: 2000}, packet)
			r.pass(0)
		},
		"stranger": func() {
			r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr, Stranger: true}, before4)
			r.pass(time.Millisecond)
		},
		"accept": func() {
			r.lend(1)
			r.w.accept(s.addr, ownAddr, answer)
			r.takeBack()
		},
		"refuse": func() { r.w.accept(serverAddr(3), ownAddr, answer) },
		"host":   func() { n++; r.w.servers.touch(uint32(n) * 7919) },
		"retry":  func() { r.pass(time.Second) },
	} {
		f()
		run := func() { f(); r.got = r.got[:0]; r.drain() }
		if got := testing.AllocsPerRun(200, run); got > poolAllocs {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

// What tables hold has no pointers, so the collector does not look at them.
func TestTablesWithoutPointers(t *testing.T) {
	for _, v := range []any{note{}, waiting{}, retry{}, retryKey{}, place{}, channelKey{}, server{}.recent} {
		if hasPointers(reflect.TypeOf(v)) {
			t.Errorf("%T holds pointers", v)
		}
	}
}

func hasPointers(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if hasPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	case reflect.Array:
		return hasPointers(t.Elem())
	}
	return t.Kind() > reflect.Complex128
}
