package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// errPrefixes: a NAT64 that names more prefixes than this has gone wrong.
var errPrefixes = errors.New("more prefixes than a NAT64 has")

const (
	maxPrefixes = 256
	maxChannels = 16384
)

// channelKey names a control channel: our own address that was asked, and the
// NAT64's (draft §3).
type channelKey struct{ own, nat64 addr4 }

func (k channelKey) String() string {
	return fmt.Sprintf("NAT64 %v towards server %v", netip4(k.nat64), netip4(k.own))
}

// table is the authoritative connection table: all channels with their entries,
// in memory; the store has the same on disk. One goroutine at a time: Server.mu
// guards it. The zero value does not work.
//
// Every change is written down in a changes, for the store and for the log. It
// counts as made only once the committer has them on disk.
type table struct {
	channels   map[channelKey]*channel
	nextID     uint64
	maxEntries int    // of a channel
	serverPort uint16 // never a mapped port (draft §10)
	live       liveness
	random     *rand.Rand
	count      int
	pool       pool // of the addresses that clients may have for themselves
}

func newTable(maxEntries int, serverPort uint16, live liveness, random *rand.Rand) *table {
	return &table{
		channels: map[channelKey]*channel{}, nextID: 1,
		maxEntries: maxEntries, serverPort: serverPort, live: live, random: random, pool: newPool(),
	}
}

// tuple is what an entry is found by within its channel.
type tuple struct {
	prefix prefix96
	client addr6
	port   uint16
}

// find returns the entry of a client's port, or 0.
func (c *channel) find(k tuple) uint32 {
	client, ok := c.clientIndex[k.client]
	if !ok {
		return 0
	}
	prefix := c.prefixIndex(k.prefix)
	if prefix < 0 {
		return 0
	}
	return c.byTuple[tupleIndex{client, uint16(prefix), k.port}]
}

// findMapped returns the entry of a mapped port, or 0.
func (c *channel) findMapped(port uint16) uint32 { return c.ports.owner(port) }

// usable says whether port may be a mapped port at all (draft §10). avoid is the
// source port of the control packet at hand.
func (t *table) usable(port, avoid uint16) bool {
	return port >= firstPort && port != teredoPort && port != t.serverPort && port != avoid
}

// choose picks a free mapped port: the hint if it can be had, else any
// (RFC 6056: nobody should guess which). It is 0 when there is none.
func (t *table) choose(c *channel, hint, avoid uint16) uint16 {
	free := func(p uint16) bool { return t.usable(p, avoid) && c.ports.owner(p) == 0 }
	if free(hint) {
		return hint
	}
	const tries = 8 // enough for a table that is not nearly full
	start := 0
	for range tries {
		start = t.random.IntN(numPorts)
		if p := uint16(firstPort + start); free(p) {
			return p
		}
	}
	for i := range numPorts {
		if p := uint16(firstPort + (start+i)%numPorts); free(p) {
			return p
		}
	}
	return 0
}

// create makes the entry of k with a port of our choice.
func (t *table) create(c *channel, k tuple, hint, avoid uint16, now int64, ch *changes) (uint32, outcome) {
	if _, err := c.addPrefix(k.prefix); err != nil {
		return 0, refusedPrefixes
	}
	for {
		if p := t.choose(c, hint, avoid); p != 0 && c.count() < t.maxEntries {
			return t.insert(c, k, p, now, ch), accepted
		}
		if o := t.makeRoom(c, now, ch); o != accepted {
			return 0, o
		}
	}
}

// learn takes over the entry that a NAT64 made itself (draft §10, conflict
// rules of the protocol page, §8): what stands in its way is deleted, then it
// is created.
func (t *table) learn(c *channel, k tuple, mapped uint16, now int64, ch *changes) (uint32, outcome) {
	// Nothing may be deleted for an entry that cannot be kept.
	if _, err := c.addPrefix(k.prefix); err != nil {
		return 0, refusedPrefixes
	}
	i := c.find(k)
	if i != 0 && c.entries[i].mapped == mapped {
		c.touch(i)
		return i, accepted
	}
	if i != 0 {
		t.remove(c, i, now, ch)
	}
	if other := c.findMapped(mapped); other != 0 {
		t.remove(c, other, now, ch)
	}
	if c.count() >= t.maxEntries {
		if o := t.makeRoom(c, now, ch); o != accepted {
			return 0, o
		}
	}
	return t.insert(c, k, mapped, now, ch), accepted
}

// insert makes an entry whose tuple and port are both free and whose prefix the
// channel knows.
func (t *table) insert(c *channel, k tuple, mapped uint16, now int64, ch *changes) uint32 {
	client, isNew := c.addClient(k.client)
	if isNew {
		c.clients[client].id = t.newID()
	}
	i := c.place(entry{
		id: t.newID(), created: now, client: client, prefix: uint16(c.prefixIndex(k.prefix)), clientPort: k.port, mapped: mapped,
	})
	t.count++
	if isNew {
		ch.putClient(c, client)
	}
	ch.putEntry(c, i)
	ch.event(Created, now, c, i)
	return i
}

// remove deletes an entry, and its client with its last one.
func (t *table) remove(c *channel, i uint32, now int64, ch *changes) {
	ch.event(Deleted, now, c, i)
	ch.deleteEntry(c.entries[i].id)
	client := c.entries[i].client
	id := c.clients[client].id
	if c.displace(i) {
		ch.deleteClient(id)
	}
	t.count--
}

func (t *table) newID() uint64 {
	id := t.nextID
	t.nextID++
	return id
}

// authenticate stores who a NAT64 is (draft §9). It says false when there are
// too many NAT64s.
func (t *table) authenticate(k channelKey, port uint16, token []byte, knownAs addr4, now int64, ch *changes) bool {
	c := t.channels[k]
	if c == nil {
		if len(t.channels) >= maxChannels {
			return false
		}
		c = newChannel(k)
		t.channels[k] = c
	}
	c.moved(port, knownAs)
	c.token = append(c.token[:0], token...)
	ch.putChannel(c)
	ch.initialized(now, c)
	return true
}

// rotate moves an authenticated NAT64 to its new token.
func (t *table) rotate(c *channel, token []byte, ch *changes) {
	c.token = append(c.token[:0], token...)
	ch.putChannel(c)
}

// setAuthenticator remembers the newest authenticator of the client that the
// entry belongs to: a server may need one after months of silence. It says
// whether it is another one than before.
func (t *table) setAuthenticator(c *channel, i uint32, auth []byte, ch *changes) bool {
	client := c.entries[i].client
	if string(c.clients[client].auth) == string(auth) {
		return false
	}
	t.setClientAuthenticator(c, client, auth, ch)
	return true
}

func (t *table) setClientAuthenticator(c *channel, client uint32, auth []byte, ch *changes) {
	c.clients[client].auth = append(c.clients[client].auth[:0], auth...)
	ch.putClient(c, client)
}
