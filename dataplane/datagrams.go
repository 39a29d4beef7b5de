package dataplane

import (
	"handoff64/conntrack"
	"handoff64/dataplane/packet"
)

const (
	// maxPieces bounds the fragments of one datagram. 65,535 octets over links
	// of 576 octets come to 119.
	maxPieces = 128
	// maxUpper is the most that the fragments of a datagram carry together: an
	// IPv4 packet of 65,535 octets without its header, on either side, because
	// it has to fit the other (RFC 791 §3.1).
	maxUpper = 65535 - packet.IPv4Len
	// defaultFragmentTicks is FRAGMENT_MIN (RFC 6146 §4).
	defaultFragmentTicks = 2 * conntrack.TicksPerSecond
	// defaultFragments is how many fragments are held by all workers together.
	defaultFragments = 4096
	// leastDatagrams keeps a small limit of held fragments from making the
	// table useless for datagrams of which nothing is held.
	leastDatagrams = 64
)

// datagramKey names a datagram (RFC 791 §3.2, RFC 8200 §4.5). IPv6 fragments
// of one packet may name different protocols, so theirs is not part of it.
type datagramKey struct {
	srcHi, srcLo, dstHi, dstLo uint64
	id                         uint32
	proto                      uint8
	dir                        Direction
}

// datagramState is how far a datagram has come.
type datagramState uint8

const (
	waiting     datagramState = iota // its first fragment has not come
	gathering                        // the first is here; all must be, for a checksum
	deciding                         // the first is on its way through the steps
	asking                           // the first is with a handoff server, which sends it back
	translating                      // the first found its session: so do all
	tunnelling                       // the first went to a handoff server: so do all
	passing                          // the first is the host's own: so are all
	refusing                         // the first was dropped, or the fragments contradict each other
)

// datagramList orders datagrams by who gives way and by when they end. In each
// list the oldest comes first.
type datagramList uint8

const (
	listHolding datagramList = iota // undecided, by arrival of their first piece: these hold frames
	listSettled                     // decided, by their last progress
	listRefused                     // by the time of the refusal
	datagramLists
)

func (s datagramState) list() datagramList {
	switch s {
	case translating, tunnelling, passing:
		return listSettled
	case refusing:
		return listRefused
	}
	return listHolding
}

// decision is what a datagram's first fragment decided for all.
type decision struct {
	state            datagramState // translating or one behind it
	reason           DropReason    // refusing
	proto            uint8
	srcPort, dstPort uint16 // translating
	whole            uint16 // translating, gathered: octets of the upper layer
	peer             uint32 // tunnelling: the pool4 address (from IPv6) or the server (from IPv4)
}

// piece is one fragment's share of the upper layer, in octets.
type piece struct{ at, len uint16 }

// datagram is what is known of one datagram. It holds no pointer.
type datagram struct {
	key        datagramKey
	self       uint32 // its own index
	generation uint32
	bucket     uint32 // where its chain starts
	chain      uint32 // next of its bucket
	prev, next uint32 // neighbours in its list
	since      conntrack.Tick
	decision
	list  datagramList
	n     uint8  // pieces that came
	end   uint16 // octets of the upper layer, 0 until the last piece came
	got   uint32 // octets that came
	held  uint16
	front uint32 // held fragments in the order of their arrival
	back  uint32

	pieces [maxPieces]piece // sorted
}

// datagramRef names a datagram across rounds and workers.
type datagramRef struct{ index, generation uint32 }

// datagrams is one worker's table of datagrams in fragments, and of the
// fragments that it holds. All memory is taken when it is made. Owned by the
// worker. Index 0 of both arrays stands for none.
type datagrams struct {
	timeout conntrack.Tick
	buckets []uint32
	all     []datagram
	free    uint32 // chained by next
	lists   [datagramLists]struct {
		first, last uint32
		n           int
	}
	holds
}

// newDatagrams returns a table that holds at most limit fragments.
func newDatagrams(limit int) *datagrams {
	size := max(limit, leastDatagrams)
	buckets := 1
	for buckets < size {
		buckets *= 2
	}
	t := &datagrams{timeout: defaultFragmentTicks, buckets: make([]uint32, buckets), all: make([]datagram, size+1)}
	for i := size; i > 0; i-- {
		t.all[i].self, t.all[i].next, t.free = uint32(i), t.free, uint32(i)
	}
	t.holds.init(limit)
	return t
}

// find returns the datagram of the key. One whose time is over may be among
// them: the caller looks.
func (t *datagrams) find(k *datagramKey, hash uint64) *datagram {
	for i := t.buckets[hash&uint64(len(t.buckets)-1)]; i != 0; i = t.all[i].chain {
		if t.all[i].key == *k {
			return &t.all[i]
		}
	}
	return nil
}

func (t *datagrams) ref(d *datagram) datagramRef { return datagramRef{d.self, d.generation} }

// deref returns the datagram unless it has ended.
func (t *datagrams) deref(r datagramRef) *datagram {
	if d := &t.all[r.index]; r.index != 0 && d.generation == r.generation {
		return d
	}
	return nil
}

// open makes an entry. There is a free one: the caller saw to it.
func (t *datagrams) open(k *datagramKey, hash uint64, now conntrack.Tick) *datagram {
	i := t.free
	d := &t.all[i]
	t.free = d.next
	bucket := uint32(hash & uint64(len(t.buckets)-1))
	d.key, d.bucket, d.since, d.decision = *k, bucket, now, decision{}
	d.n, d.end, d.got, d.held, d.front, d.back = 0, 0, 0, 0, 0, 0
	d.chain, t.buckets[bucket] = t.buckets[bucket], i
	t.append(i, listHolding)
	return d
}

// close forgets a datagram that holds nothing.
func (t *datagrams) close(d *datagram) {
	i := d.self
	at := &t.buckets[d.bucket]
	for *at != i {
		at = &t.all[*at].chain
	}
	*at = d.chain
	t.unlink(i)
	d.generation++
	d.next, t.free = t.free, i
}

// become puts the datagram into a state, and behind all others of its list if
// that is another one.
func (t *datagrams) become(d *datagram, s datagramState, now conntrack.Tick) {
	d.state = s
	if s.list() != d.list {
		t.refresh(d, now)
	}
}

// refresh starts the datagram's time anew.
func (t *datagrams) refresh(d *datagram, now conntrack.Tick) {
	i := d.self
	t.unlink(i)
	d.since = now
	t.append(i, d.state.list())
}

func (t *datagrams) append(i uint32, list datagramList) {
	l, d := &t.lists[list], &t.all[i]
	d.list, d.prev, d.next = list, l.last, 0
	if l.last != 0 {
		t.all[l.last].next = i
	} else {
		l.first = i
	}
	l.last = i
	l.n++
}

func (t *datagrams) unlink(i uint32) {
	d := &t.all[i]
	l := &t.lists[d.list]
	if d.prev != 0 {
		t.all[d.prev].next = d.next
	} else {
		l.first = d.next
	}
	if d.next != 0 {
		t.all[d.next].prev = d.prev
	} else {
		l.last = d.prev
	}
	l.n--
}

// over says whether the datagram's time is up. Ticks are whole, so one more
// makes sure that the interval is never shorter than configured.
func (t *datagrams) over(d *datagram, now conntrack.Tick) bool { return now-d.since > t.timeout }

// oldest is the datagram that gives way when the table is full: the oldest of
// the longest list. So whoever fills one list with what never ends pushes out
// what is of the same kind and older, and no list gets below a third.
func (t *datagrams) oldest() *datagram {
	longest := &t.lists[0]
	for i := range t.lists {
		if t.lists[i].n > longest.n {
			longest = &t.lists[i]
		}
	}
	return &t.all[longest.first]
}

// fit is how a fragment goes with those that came before it.
type fit uint8

const (
	fits fit = iota
	repeats
	overlaps
	exceeds
)

// add notes n octets at an offset; more says that others follow. It refuses
// what is there already and what contradicts it: a second octet for the same
// place (RFC 5722, RFC 8200 §4.5), or a second end.
func (d *datagram) add(at, n int, more bool) fit {
	i := d.n
	for i > 0 && int(d.pieces[i-1].at) >= at {
		i--
	}
	end := at + n
	if i < d.n && int(d.pieces[i].at) == at {
		ends := d.end != 0 && end == int(d.end)
		if int(d.pieces[i].len) == n && ends == !more {
			return repeats
		}
		return overlaps
	}
	switch {
	case i > 0 && int(d.pieces[i-1].at)+int(d.pieces[i-1].len) > at, i < d.n && int(d.pieces[i].at) < end:
		return overlaps
	case !more && (d.end != 0 || i < d.n), more && d.end != 0 && end >= int(d.end):
		return overlaps // two ends, or something behind the end
	case d.n == maxPieces:
		return exceeds
	}
	copy(d.pieces[i+1:d.n+1], d.pieces[i:d.n])
	d.pieces[i] = piece{uint16(at), uint16(n)}
	d.n++
	d.got += uint32(n)
	if !more {
		d.end = uint16(end)
	}
	return fits
}

// complete says that every octet has come.
func (d *datagram) complete() bool { return d.end != 0 && d.got == uint32(d.end) }
