package server

// entry is one row of the authoritative table. 40 octets and no pointer.
// Owned by its channel.
type entry struct {
	id      uint64 // its key in the store: it grows, so it is the order of creation too
	created int64  // microseconds since 1970

	client       uint32 // index in channel.clients
	newer, older uint32 // neighbours in the order of use

	prefix     uint16 // index in channel.prefixes
	clientPort uint16
	mapped     uint16
}

// client is an IPv6 host with at least one entry or lease. Owned by its channel.
type client struct {
	id      uint64 // its key in the store
	addr    addr6
	auth    []byte // the newest authenticator (type 6)
	entries uint32 // and leases
}

// tupleIndex is a tuple with the indices of its client and prefix.
type tupleIndex struct {
	client       uint32
	prefix, port uint16
}

// channel is what is known of one NAT64 towards one of our own addresses. Part
// of table, and guarded as it is. Make it with newChannel.
//
// Entries lie in a slice and are named by their index; entries[0] is no entry
// but the head of the list in order of use: newer leads to the least recently
// used, older to the most recently used.
type channel struct {
	key     channelKey
	port    uint16 // the NAT64's port of the control channel
	token   []byte
	knownAs addr4 // our address as the NAT64 sees it: another one behind a 1:1 NAT

	entries     []entry
	freeEntries []uint32
	clients     []client
	freeClients []uint32
	clientIndex map[addr6]uint32
	byTuple     map[tupleIndex]uint32
	prefixes    []prefix96
	ports       portIndex
	leases      leases
	path        *path

	// exhausted is the view of the local sockets in which every entry was live.
	exhausted uint64
}

func newChannel(k channelKey) *channel {
	return &channel{
		key: k, entries: make([]entry, 1), clientIndex: map[addr6]uint32{}, byTuple: map[tupleIndex]uint32{},
		leases: newLeases(), path: &path{own: k.own, nat64: k.nat64},
	}
}

// moved notes where the NAT64 is, and as what it knows us.
func (c *channel) moved(port uint16, knownAs addr4) {
	c.port, c.knownAs = port, knownAs
	c.path.port.Store(uint32(port))
}

func (c *channel) count() int { return len(c.byTuple) }

// clientOf is the client of an entry.
func (c *channel) clientOf(i uint32) *client { return &c.clients[c.entries[i].client] }

func (c *channel) prefixIndex(p prefix96) int {
	for i := range c.prefixes {
		if c.prefixes[i] == p {
			return i
		}
	}
	return -1
}

func (c *channel) addPrefix(p prefix96) (uint16, error) {
	if i := c.prefixIndex(p); i >= 0 {
		return uint16(i), nil
	}
	if len(c.prefixes) >= maxPrefixes {
		return 0, errPrefixes
	}
	c.prefixes = append(c.prefixes, p)
	return uint16(len(c.prefixes) - 1), nil
}

// addClient finds or makes a client.
func (c *channel) addClient(a addr6) (i uint32, isNew bool) {
	if i, ok := c.clientIndex[a]; ok {
		return i, false
	}
	if n := len(c.freeClients); n > 0 {
		i, c.freeClients = c.freeClients[n-1], c.freeClients[:n-1]
	} else {
		i = uint32(len(c.clients))
		c.clients = append(c.clients, client{})
	}
	c.clients[i] = client{addr: a}
	c.clientIndex[a] = i
	return i, true
}

// place puts an entry in as the most recently used one. Its tuple and its
// mapped port must be free.
func (c *channel) place(e entry) (i uint32) {
	if n := len(c.freeEntries); n > 0 {
		i, c.freeEntries = c.freeEntries[n-1], c.freeEntries[:n-1]
	} else {
		i = uint32(len(c.entries))
		c.entries = append(c.entries, entry{})
	}
	c.entries[i] = e
	c.link(i)
	c.byTuple[tupleIndex{e.client, e.prefix, e.clientPort}] = i
	c.ports.set(e.mapped, i)
	c.clients[e.client].entries++
	return i
}

// displace takes an entry out and says whether its client left with it.
func (c *channel) displace(i uint32) (clientGone bool) {
	e := c.entries[i]
	c.unlink(i)
	delete(c.byTuple, tupleIndex{e.client, e.prefix, e.clientPort})
	c.ports.set(e.mapped, 0)
	c.entries[i] = entry{}
	c.freeEntries = append(c.freeEntries, i)

	return c.leave(e.client)
}

// leave takes one entry or lease from a client and says whether it was the last.
func (c *channel) leave(i uint32) (clientGone bool) {
	gone := &c.clients[i]
	gone.entries--
	if gone.entries > 0 {
		return false
	}
	delete(c.clientIndex, gone.addr)
	c.clients[i] = client{}
	c.freeClients = append(c.freeClients, i)
	return true
}

// oldest is the least recently used entry, 0 when there is none.
func (c *channel) oldest() uint32 { return c.entries[0].newer }

// touch makes an entry the most recently used one.
func (c *channel) touch(i uint32) {
	if c.entries[0].older != i {
		c.unlink(i)
		c.link(i)
	}
}

func (c *channel) link(i uint32) {
	newest := c.entries[0].older
	c.entries[i].older, c.entries[i].newer = newest, 0
	c.entries[newest].newer = i
	c.entries[0].older = i
}

func (c *channel) unlink(i uint32) {
	e := c.entries[i]
	c.entries[e.older].newer = e.newer
	c.entries[e.newer].older = e.older
}
