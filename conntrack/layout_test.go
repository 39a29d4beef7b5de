package conntrack

import (
	"fmt"
	"reflect"
	"testing"
	"unsafe"
)

func TestSlotIsACacheLine(t *testing.T) {
	var s slot
	if n := unsafe.Sizeof(s); n != slotSize {
		t.Fatalf("a slot has %d octets, want %d", n, slotSize)
	}
	for name, at := range map[string][2]uintptr{
		"hop": {unsafe.Offsetof(s.hop), 4}, "w": {unsafe.Offsetof(s.w), 8}, "stamp": {unsafe.Offsetof(s.stamp), 48},
		"state": {unsafe.Offsetof(s.state), 52}, "prev": {unsafe.Offsetof(s.prev), 56}, "next": {unsafe.Offsetof(s.next), 60},
	} {
		if at[0] != at[1] {
			t.Errorf("%s lies at %d, want %d", name, at[0], at[1])
		}
	}
	if n := unsafe.Sizeof(bibEntry{}); n != 32 {
		t.Errorf("a BIB entry has %d octets, want 32", n)
	}
	var shard Shard
	if unsafe.Offsetof(shard.stats)-unsafe.Offsetof(shard.mem)-unsafe.Sizeof(shard.mem) < 64 {
		t.Error("the counters share a cache line with what lookups read")
	}
}

// What lies outside the Go heap must not point into it: the collector does not
// look there.
func TestOffHeapTypesHaveNoPointers(t *testing.T) {
	for _, v := range []any{slot{}, bibEntry{}, portSet{}, clientSlot{}, portBlock{}, tagWord{}, awayWord{}, uint32(0), uint64(0)} {
		if p := pointerIn(reflect.TypeOf(v)); p != "" {
			t.Errorf("%T holds a pointer: %s", v, p)
		}
	}
	if pointerIn(reflect.TypeOf(View64{})) == "" {
		t.Error("the check does not see the pointer in View64")
	}
}

func pointerIn(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if p := pointerIn(t.Field(i).Type); p != "" {
				return t.Field(i).Name + "." + p
			}
		}
	case reflect.Array:
		return pointerIn(t.Elem())
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Chan, reflect.Func, reflect.Interface, reflect.String, reflect.UnsafePointer:
		return t.String()
	}
	return ""
}

// TestMemoryPerSession counts what a session takes at capacity: slots, tags, its
// mapping, the mapping's index, timers and filter state.
func TestMemoryPerSession(t *testing.T) {
	for _, shards := range []int{1, 4} {
		const sessions = 1 << 20
		f := newFixture(t, Config{Shards: shards, Sessions: sessions, AddressDependent: true})
		total := sessions * int(unsafe.Sizeof(bibEntry{}))
		for i := range shards {
			s := f.Shard(i)
			total += int(unsafe.Sizeof(*s)) + len(s.forward.mem.mem) + len(s.peers.mem.mem)
			for j := range s.mem {
				total += len(s.mem[j].mem)
			}
		}
		if per := float64(total) / sessions; per > 230 {
			t.Errorf("%d shards: %.1f octets per session, at most 230", shards, per)
		}
	}
}

func TestOverlayStaysInside(t *testing.T) {
	r, err := mapAnonymous(4096)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.unmap(); err != nil {
			t.Error(err)
		}
	}()
	overlay[slot](r, 0, 64)
	for _, bad := range [][2]int{{0, 65}, {64, 64}, {-64, 1}, {8, 1}, {0, 0}, {0, -1}} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			overlay[slot](r, bad[0], bad[1])
		})
	}
}

func TestWordsRoundTrip(t *testing.T) {
	se := Session{
		Key: Key64{Addr6{0x1122334455667788, 0x99aabbccddeeff00}, 0xcb007107, 0xabcd, 0x01bb, TCP, 0xee}, Mapped: 0xc0000207,
		MappedPort: 0xfedc, Delta64: 0x1357, Delta46: 0x2468, Origin: OriginHandoff,
	}
	w := se.words64(0xdeadbeef, se.Origin)
	if got := w.session(); got != se {
		t.Errorf("64: %+v, want %+v", got, se)
	}
	if w.peer() != 0xdeadbeef {
		t.Errorf("peer %#x", w.peer())
	}
}
