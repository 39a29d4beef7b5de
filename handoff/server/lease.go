package server

import (
	"bytes"
	"cmp"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// leaseKey names a lease within its channel.
type leaseKey struct {
	client   uint32 // index in channel.clients
	prefix   uint16 // index in channel.prefixes
	protocol uint8  // 0: all protocols
}

// lease gives a client an IPv4 address: one of the pool with every protocol and
// port, or, in mixed mode, one protocol without ports on the NAT64's own
// address. Owned by the table. Neighbours are in the order of use.
type lease struct {
	leaseKey
	id           uint64 // its key in the store
	created      int64  // microseconds since 1970
	used         int64  // when the client last sent something, the same
	channel      *channel
	address      addr4
	newer, older *lease
}

// whole says whether the lease is of an address of the pool.
func (l *lease) whole() bool { return l.protocol == 0 }

// leases are those of a channel. Part of it, and guarded as it is.
type leases struct {
	byKey map[leaseKey]*lease
	// byProtocol are the leases on the NAT64's own address.
	byProtocol map[uint8]*lease
	// use is the head of the list in order of use, as channel.entries[0] is.
	use *lease
	// exhausted is the view of the local sockets in which none could go.
	exhausted uint64
}

func newLeases() leases {
	use := &lease{}
	use.newer, use.older = use, use
	return leases{byKey: map[leaseKey]*lease{}, byProtocol: map[uint8]*lease{}, use: use}
}

// wholes are the leases of addresses of the pool.
func (x *leases) wholes() iter.Seq[*lease] {
	return func(yield func(*lease) bool) {
		for l := x.use.newer; l != x.use; l = l.newer {
			if l.whole() && !yield(l) {
				return
			}
		}
	}
}

func (x *leases) link(l *lease) {
	l.older, l.newer = x.use.older, x.use
	l.older.newer, x.use.older = l, l
}

func (l *lease) unlink() { l.older.newer, l.newer.older = l.newer, l.older }

// touch makes a lease the most recently used one.
func (l *lease) touch(now int64) {
	l.used = now
	if x := &l.channel.leases; x.use.older != l {
		l.unlink()
		x.link(l)
	}
}

// findLease returns the lease of a client, or nil.
func (c *channel) findLease(p prefix96, a addr6, protocol uint8) *lease {
	client, ok := c.clientIndex[a]
	if !ok {
		return nil
	}
	prefix := c.prefixIndex(p)
	if prefix < 0 {
		return nil
	}
	return c.leases.byKey[leaseKey{client, uint16(prefix), protocol}]
}

// placeLease puts a lease in as the most recently used one. It says false when
// its key or its address is taken. Its client is in its channel already.
func (t *table) placeLease(l *lease) bool {
	x := &l.channel.leases
	if x.byKey[l.leaseKey] != nil {
		return false
	}
	if l.whole() {
		if t.pool.byAddress[l.address] != nil {
			return false
		}
		t.pool.put(l)
	} else {
		if l.address != l.channel.key.nat64 || x.byProtocol[l.protocol] != nil {
			return false
		}
		x.byProtocol[l.protocol] = l
	}
	x.byKey[l.leaseKey] = l
	x.link(l)
	l.channel.clients[l.client].entries++
	t.count++
	return true
}

// insertLease makes a lease of an address that is free, for a client that has
// none.
func (t *table) insertLease(c *channel, p prefix96, a addr6, protocol uint8, address addr4, now int64, ch *changes) (*lease, outcome) {
	prefix, err := c.addPrefix(p)
	if err != nil {
		return nil, refusedPrefixes
	}
	client, isNew := c.addClient(a)
	if isNew {
		c.clients[client].id = t.newID()
		ch.putClient(c, client)
	}
	l := &lease{
		leaseKey: leaseKey{client, prefix, protocol}, id: t.newID(), created: now, used: now, channel: c, address: address,
	}
	if !t.placeLease(l) {
		panic("server: a lease of what is taken")
	}
	ch.putLease(l)
	ch.leaseEvent(Created, now, l)
	return l, accepted
}

// release ends a lease, and its client's record if it has nothing else.
func (t *table) release(l *lease, now int64, ch *changes) {
	c := l.channel
	ch.leaseEvent(Deleted, now, l)
	ch.deleteLease(l.id)
	l.unlink()
	delete(c.leases.byKey, l.leaseKey)
	if l.whole() {
		t.pool.drop(l)
	} else {
		delete(c.leases.byProtocol, l.protocol)
	}
	id := c.clients[l.client].id
	if c.leave(l.client) {
		ch.deleteClient(id)
	}
	t.count--
}

// leaseRows appends the leases that a filter selects, in the order of their
// addresses.
func (c *channel) leaseRows(f Filter, dst []Row) []Row {
	var found []*lease
	for _, l := range c.leases.byKey {
		if f.Address.IsValid() && netip4(l.address) != f.Address {
			continue
		}
		if f.MappedPort != 0 && !l.whole() && f.MappedPort != uint16(l.protocol) {
			continue
		}
		found = append(found, l)
	}
	slices.SortFunc(found, func(a, b *lease) int {
		return cmp.Or(bytes.Compare(a.address[:], b.address[:]), cmp.Compare(a.protocol, b.protocol))
	})
	for _, l := range found {
		dst = append(dst, Row{
			NAT64: netip4(c.key.nat64), Address: netip4(l.address), MappedPort: uint16(l.protocol),
			Client: netip6(c.clients[l.client].addr), ClientPort: uint16(l.protocol), Server: netip4(c.key.own),
			Prefix: netip.PrefixFrom(netip6(embed(c.prefixes[l.prefix], addr4{})), 96), Created: time.UnixMicro(l.created).UTC(),
		})
	}
	return dst
}
