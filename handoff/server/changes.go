package server

import "encoding/binary"

// bucket is one of the store's tables of keys and values.
type bucket uint8

const (
	bucketMeta bucket = iota
	bucketChannels
	bucketClients
	bucketEntries
	bucketLeases
	numBuckets
)

// bucketNames is read only.
var bucketNames = [numBuckets][]byte{[]byte("meta"), []byte("channels"), []byte("clients"), []byte("entries"), []byte("leases")}

// record is one change of the store; key and value lie in changes.data.
type record struct {
	bucket          bucket
	remove          bool
	key, value, end int
}

// changes collects what is to become durable together: records for the store
// and events for the log. Owned by whoever owns the batch that it is in.
type changes struct {
	data    []byte
	records []record
	events  []Event
}

func (ch *changes) reset() {
	ch.data, ch.records, ch.events = ch.data[:0], ch.records[:0], ch.events[:0]
}

func (ch *changes) empty() bool { return len(ch.records) == 0 && len(ch.events) == 0 }

// The layout on disk, big endian throughout:
//
//	channels  own 4, NAT64 4      → port 2, known as 4, token
//	clients   id 8                → own 4, NAT64 4, address 16, authenticator
//	entries   id 8                → client's id 8, created 8, prefix 12, mapped port 2, client port 2
//	leases    id 8                → client's id 8, created 8, prefix 12, address 4, protocol 1
//
// Clients, entries and leases have ever growing numbers as keys, so that what is new is
// written at the end of the tree: a burst of a thousand new entries dirties a
// few pages, where keys made of addresses and ports would dirty a thousand.
// Nothing is ever looked up on disk.
const (
	channelKeyLen   = 8
	channelValueLen = 6 // and the token
	clientValueLen  = 24
	entryValueLen   = 32
	leaseValueLen   = 33
)

func (ch *changes) begin(b bucket) {
	n := len(ch.data)
	ch.records = append(ch.records, record{bucket: b, key: n, value: n, end: n})
}

// last is the record that is being written.
func (ch *changes) last() *record { return &ch.records[len(ch.records)-1] }

func (ch *changes) endKey() { ch.last().value = len(ch.data) }
func (ch *changes) end()    { ch.last().end = len(ch.data) }

func (ch *changes) putChannel(c *channel) {
	ch.begin(bucketChannels)
	ch.data = append(append(ch.data, c.key.own[:]...), c.key.nat64[:]...)
	ch.endKey()
	ch.data = binary.BigEndian.AppendUint16(ch.data, c.port)
	ch.data = append(append(ch.data, c.knownAs[:]...), c.token...)
	ch.end()
}

func (ch *changes) putClient(c *channel, i uint32) {
	client := &c.clients[i]
	ch.begin(bucketClients)
	ch.data = binary.BigEndian.AppendUint64(ch.data, client.id)
	ch.endKey()
	ch.data = append(append(ch.data, c.key.own[:]...), c.key.nat64[:]...)
	ch.data = append(append(ch.data, client.addr[:]...), client.auth...)
	ch.end()
}

func (ch *changes) putEntry(c *channel, i uint32) {
	e := &c.entries[i]
	ch.begin(bucketEntries)
	ch.data = binary.BigEndian.AppendUint64(ch.data, e.id)
	ch.endKey()
	ch.data = binary.BigEndian.AppendUint64(ch.data, c.clients[e.client].id)
	ch.data = binary.BigEndian.AppendUint64(ch.data, uint64(e.created))
	ch.data = append(ch.data, c.prefixes[e.prefix][:]...)
	ch.data = binary.BigEndian.AppendUint16(ch.data, e.mapped)
	ch.data = binary.BigEndian.AppendUint16(ch.data, e.clientPort)
	ch.end()
}

func (ch *changes) putLease(l *lease) {
	ch.begin(bucketLeases)
	ch.data = binary.BigEndian.AppendUint64(ch.data, l.id)
	ch.endKey()
	ch.data = binary.BigEndian.AppendUint64(ch.data, l.channel.clients[l.client].id)
	ch.data = binary.BigEndian.AppendUint64(ch.data, uint64(l.created))
	ch.data = append(ch.data, l.channel.prefixes[l.prefix][:]...)
	ch.data = append(append(ch.data, l.address[:]...), l.protocol)
	ch.end()
}

func (ch *changes) deleteClient(id uint64) { ch.delete(bucketClients, id) }
func (ch *changes) deleteEntry(id uint64)  { ch.delete(bucketEntries, id) }
func (ch *changes) deleteLease(id uint64)  { ch.delete(bucketLeases, id) }

func (ch *changes) delete(b bucket, id uint64) {
	ch.begin(b)
	ch.data = binary.BigEndian.AppendUint64(ch.data, id)
	ch.endKey()
	ch.end()
	ch.last().remove = true
}

func (ch *changes) initialized(now int64, c *channel) {
	ch.events = append(ch.events, Event{Time: now, Kind: Initialized, NAT64: c.key.nat64, Server: c.key.own})
}

// event writes down what happens to an entry. The log's times never run
// backwards within it: now is the handler's.
func (ch *changes) event(kind EventKind, now int64, c *channel, i uint32) {
	e := &c.entries[i]
	ch.events = append(ch.events, Event{
		Time: now, Kind: kind, NAT64: c.key.nat64, Address: c.key.nat64, Server: c.key.own,
		MappedPort: e.mapped, Client: c.clients[e.client].addr, ClientPort: e.clientPort,
	})
}

// leaseEvent is event for a lease.
func (ch *changes) leaseEvent(kind EventKind, now int64, l *lease) {
	ch.events = append(ch.events, Event{
		Time: now, Kind: kind, NAT64: l.channel.key.nat64, Address: l.address, Server: l.channel.key.own,
		MappedPort: uint16(l.protocol), Client: l.channel.clients[l.client].addr, ClientPort: uint16(l.protocol),
	})
}
