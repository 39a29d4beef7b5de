package handoff

import (
	"cmp"
	"slices"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// Notifications wait for company: for at most the batch delay, per channel, so
// that one datagram tells a server of many entries (draft §7).
const (
	maxChannels = 1 << 14 // that have notifications waiting
	maxNotes    = 1 << 16
	// ripeNotes sends a channel's notifications at once: two payloads and more.
	ripeNotes = 128
)

// channelKey names a control channel (draft §3).
type channelKey struct{ own, server uint32 }

// note is an entry to tell a server of.
type note struct {
	client     conntrack.Addr6
	clientPort uint16
	mappedPort uint16
	pool6      uint8
	next       int32 // of the same channel, or free
}

// waiting is a channel's notes, oldest first.
type waiting struct {
	first, last int32
	count       int32
	due         int64
}

// batcher holds the notes of all channels. Every array has its final size from
// the start; when one is full, the oldest channel's notes leave early, so
// nothing is lost for lack of room here. Owned by the worker's goroutine.
type batcher struct {
	channels index[channelKey]
	state    []waiting
	places   []place
	order    list // channels by due, which is by age
	notes    []note
	free     int32
	ripe     [ripeNotes]note // scratch of one channel
	payload  wire.MultiEntry
}

func newBatcher() *batcher {
	b := &batcher{
		channels: newIndex[channelKey](maxChannels), state: make([]waiting, maxChannels), places: make([]place, maxChannels),
		order: emptyList(), notes: make([]note, maxNotes), free: none,
	}
	for i := maxNotes - 1; i >= 0; i-- {
		b.notes[i].next, b.free = b.free, int32(i)
	}
	return b
}

// due is when the oldest channel is to be sent; false when nothing waits.
func (b *batcher) due() (int64, bool) {
	if b.order.head == none {
		return 0, false
	}
	return b.state[b.order.head].due, true
}

// tell adds a note to its channel.
func (w *Worker) tell(k channelKey, n note) {
	b := w.batch
	if b.free == none {
		w.sendNotes(b.order.head)
	}
	i := b.channels.find(k)
	if i == none {
		if b.channels.full() {
			w.sendNotes(b.order.head)
		}
		i = b.channels.add(k)
		b.state[i] = waiting{none, none, 0, w.now + w.batchDelay}
		b.order.push(b.places, i)
	}
	at := b.free
	b.free = b.notes[at].next
	n.next = none
	b.notes[at] = n
	c := &b.state[i]
	if c.first == none {
		c.first = at
	} else {
		b.notes[c.last].next = at
	}
	c.last = at
	if c.count++; c.count == ripeNotes {
		w.sendNotes(i)
	}
}

// ripen sends what has waited long enough.
func (w *Worker) ripen() (sent bool) {
	for {
		due, ok := w.batch.due()
		if !ok || due > w.now {
			return sent
		}
		w.sendNotes(w.batch.order.head)
		sent = true
	}
}

// sendNotes empties a channel: its notes, grouped by client, leave in as few
// payloads as hold them.
func (w *Worker) sendNotes(channel int32) {
	b := w.batch
	k, c := b.channels.keys[channel], b.state[channel]
	ripe := b.ripe[:0]
	for i := c.first; i != none; {
		n := &b.notes[i]
		ripe = append(ripe, *n)
		i, n.next, b.free = n.next, b.free, i
	}
	b.order.remove(b.places, channel)
	b.channels.remove(channel)
	slices.SortStableFunc(ripe, byClient)
	for len(ripe) > 0 {
		ripe = ripe[w.sendSome(k, ripe):]
	}
}

func byClient(a, b note) int {
	return cmp.Or(cmp.Compare(a.client.Hi, b.client.Hi), cmp.Compare(a.client.Lo, b.client.Lo))
}

// sendSome sends one payload with as many notes as fit and returns how many.
func (w *Worker) sendSome(k channelKey, notes []note) int {
	server := octets4(k.server)
	p := &w.batch.payload
	w.resetPayload(p, server)
	var auth [wire.MACLen]byte
	n := 0
	for ; n < len(notes); n++ {
		x := &notes[n]
		client := octets6(x.client)
		if n == 0 || x.client != notes[n-1].client {
			w.keys.Authenticator(server, client, &auth)
		}
		e := wire.Entry{MappedPort: x.mappedPort, Prefix: [12]byte(w.pool6[x.pool6].octets[:12]), Client: client, ClientPort: x.clientPort}
		if !p.AddEntry(auth[:], &e) {
			break
		}
	}
	w.servers.remember(k.server, notes[0].client, notes[n-1].client)
	w.sendPayload(k, p.Bytes(), n)
	return n
}

// resetPayload begins a multi-entry payload. Token first, so that a short
// quote still holds it.
func (w *Worker) resetPayload(p *wire.MultiEntry, server [4]byte) {
	var token, rotation [wire.MACLen]byte
	w.keys.Token(server, &token)
	if w.keys.RotationToken(server, &rotation) {
		p.Reset(token[:], rotation[:])
		return
	}
	p.Reset(token[:], nil)
}
