package handoff

import "hash/maphash"

// none is the number of no slot.
const none int32 = -1

// index finds numbered slots by key: hash chains through arrays that are made
// once, so that a table neither grows nor leaves garbage. What a slot holds
// lies in arrays of the table's own. Keys are hashed with a seed of this
// process, so nobody can aim at one chain. Owned by one goroutine; made by
// newIndex.
type index[K comparable] struct {
	seed  maphash.Seed
	heads []int32 // first slot of a chain
	next  []int32 // the slot behind, or the next free slot
	keys  []K
	free  int32 // first free slot
	used  int
}

func newIndex[K comparable](n int) index[K] {
	x := index[K]{seed: maphash.MakeSeed(), heads: make([]int32, n), next: make([]int32, n), keys: make([]K, n), free: none}
	for i := range x.heads {
		x.heads[i] = none
	}
	for i := n - 1; i >= 0; i-- {
		x.next[i], x.free = x.free, int32(i)
	}
	return x
}

func (x *index[K]) chain(k K) *int32 {
	return &x.heads[maphash.Comparable(x.seed, k)%uint64(len(x.heads))]
}

// find is the slot of a key, or none.
func (x *index[K]) find(k K) int32 {
	i := *x.chain(k)
	for i != none && x.keys[i] != k {
		i = x.next[i]
	}
	return i
}

// full says whether add would fail.
func (x *index[K]) full() bool { return x.free == none }

// add gives a free slot to a key that has none.
func (x *index[K]) add(k K) int32 {
	i := x.free
	if i == none {
		panic("handoff: adding to a full table")
	}
	head := x.chain(k)
	x.free = x.next[i]
	x.keys[i], x.next[i], *head = k, *head, i
	x.used++
	return i
}

// remove frees a slot.
func (x *index[K]) remove(i int32) {
	at := x.chain(x.keys[i])
	for *at != i {
		at = &x.next[*at]
	}
	*at = x.next[i]
	x.next[i], x.free = x.free, i
	x.used--
}

// place is one slot's place in a list.
type place struct{ prev, next int32 }

// list is a queue of slots, of which any can be taken out. The places lie in an
// array beside the slots; a slot is in at most one list that shares it. Owned
// by one goroutine; made by emptyList.
type list struct{ head, tail int32 }

func emptyList() list { return list{none, none} }

// push appends a slot.
func (l *list) push(places []place, i int32) {
	places[i] = place{l.tail, none}
	if l.tail == none {
		l.head = i
	} else {
		places[l.tail].next = i
	}
	l.tail = i
}

// remove takes a slot of this list out.
func (l *list) remove(places []place, i int32) {
	k := places[i]
	if k.prev == none {
		l.head = k.next
	} else {
		places[k.prev].next = k.next
	}
	if k.next == none {
		l.tail = k.prev
	} else {
		places[k.next].prev = k.prev
	}
}
