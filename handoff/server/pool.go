package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
)

// DefaultPool lies in the space that RFC 6598 sets aside for networks between
// hosts and their providers, where no public service is.
var DefaultPool = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 16)

// private lists where a pool may lie (draft §11). Read only.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918 §3
	netip.MustParsePrefix("100.64.0.0/10"), // RFC 6598 §7
}

var errPool = errors.New("it must lie in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918) or 100.64.0.0/10 (RFC 6598)")

// CheckPool says whether addresses of a prefix may be given to clients.
func CheckPool(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return fmt.Errorf("pool %v is no IPv4 prefix: %w", p, errPool)
	case p != p.Masked():
		return fmt.Errorf("pool %v has bits behind its length, did you mean %v? %w", p, p.Masked(), errConfig)
	case p.Bits() > 30:
		return fmt.Errorf("pool %v has no address for a client beside its first, second and last: %w", p, errConfig)
	}
	for _, q := range private {
		if q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("pool %v: %w", p, errPool)
}

// pool is the addresses that clients can have to themselves, and who has them.
// Leases from a pool of before may lie outside the prefix. Part of the table,
// and guarded as it is. Made by newPool.
type pool struct {
	prefix    netip.Prefix // not valid: there is none
	byAddress map[addr4]*lease
	taken     []uint64 // a bit for each address of the prefix; those beyond it are taken
	free      int
}

func newPool() pool { return pool{byAddress: map[addr4]*lease{}} }

// use makes a prefix the pool's. Nobody gets its first and last address, which
// people and programs take for the network and its broadcast, nor the second,
// which is the device's.
func (p *pool) use(prefix netip.Prefix) {
	size := 1 << (32 - prefix.Bits())
	p.prefix, p.taken, p.free = prefix, make([]uint64, (size+63)/64), size
	for i := size; i < len(p.taken)*64; i++ {
		p.taken[i/64] |= 1 << (i % 64)
	}
	p.mark(0, true)
	p.mark(1, true) // the device's own
	p.mark(size-1, true)
	for a := range p.byAddress {
		if i := p.index(a); i >= 0 {
			p.mark(i, true)
		}
	}
}

// index is an address's place in the prefix, or -1.
func (p *pool) index(a addr4) int {
	if !p.prefix.IsValid() || !p.prefix.Contains(netip4(a)) {
		return -1
	}
	return int(word4(a) - word4(p.prefix.Addr().As4()))
}

func (p *pool) mark(i int, taken bool) {
	bit := uint64(1) << (i % 64)
	if was := p.taken[i/64]&bit != 0; was == taken {
		return
	}
	p.taken[i/64] ^= bit
	if taken {
		p.free--
	} else {
		p.free++
	}
}

// choose picks a free address. It begins to look at one that follows from the
// client's own, so that a client that comes back most often finds the same.
func (p *pool) choose(client addr6) (addr4, bool) {
	if p.free == 0 {
		return addr4{}, false
	}
	h := fnv.New64a()
	h.Write(client[:])
	start := int(h.Sum64() % uint64(len(p.taken)*64))
	word := start / 64
	free := ^p.taken[word] &^ (1<<(start%64) - 1)
	for free == 0 {
		word = (word + 1) % len(p.taken)
		free = ^p.taken[word]
	}
	i := word*64 + bits.TrailingZeros64(free)
	var a addr4
	binary.BigEndian.PutUint32(a[:], word4(p.prefix.Addr().As4())+uint32(i))
	return a, true
}

// lessee is the lease of an address of the pool, or nil.
func (p *pool) lessee(a netip.Addr) *lease {
	if !a.Is4() {
		return nil
	}
	return p.byAddress[a.As4()]
}

// put and drop note who has an address.
func (p *pool) put(l *lease) {
	p.byAddress[l.address] = l
	if i := p.index(l.address); i >= 0 {
		p.mark(i, true)
	}
}

func (p *pool) drop(l *lease) {
	delete(p.byAddress, l.address)
	if i := p.index(l.address); i >= 0 {
		p.mark(i, false)
	}
}

// minIdle is how long a client must have been silent before its address goes to
// another one, whatever sockets there are: most protocols have none that the
// kernel would tell of.
const minIdle = 60 * 1000 * 1000 // microseconds

// leaseAddress gives a client an address of the pool. When there is none left,
// or when the NAT64 has as many as it may, the client that has been silent for
// longest and that no local socket speaks to loses its own: one of the NAT64
// that has the most, so that no NAT64 can take them all. gone is told of it.
func (t *table) leaseAddress(c *channel, k tuple, now int64, ch *changes, gone func(*lease)) (*lease, outcome) {
	if _, err := c.addPrefix(k.prefix); err != nil {
		return nil, refusedPrefixes
	}
	if len(c.leases.byKey) >= t.maxEntries {
		if o := t.recycle(c, now, ch, gone); o != accepted {
			return nil, o
		}
	}
	a, ok := t.pool.choose(k.client)
	if !ok {
		o := t.recycle(t.greediest(), now, ch, gone)
		if o == noAddress {
			o = t.recycle(c, now, ch, gone)
		}
		if o != accepted {
			return nil, o
		}
		if a, ok = t.pool.choose(k.client); !ok {
			return nil, noAddress
		}
	}
	return t.insertLease(c, k.prefix, k.client, 0, a, now, ch)
}

// greediest is the channel with the most leases.
func (t *table) greediest() (most *channel) {
	for _, c := range t.channels {
		if most == nil || len(c.leases.byKey) > len(most.leases.byKey) {
			most = c
		}
	}
	return most
}

// recycle ends the lease of the pool that has been unused for longest, as
// makeRoom does with entries.
func (t *table) recycle(c *channel, now int64, ch *changes, gone func(*lease)) outcome {
	x := &c.leases
	live, number, err := t.live.view(now)
	if err != nil {
		return refusedLiveness // never guess that a client is gone
	}
	if x.exhausted == number {
		return noAddress
	}
	for range len(x.byKey) {
		l := x.use.newer
		switch _, busy := live[peer{l.address, 0}]; {
		case busy || !l.whole():
			l.unlink()
			x.link(l)
		case now-l.used < minIdle:
			x.exhausted = number // those behind it are as new, or in use
			return noAddress
		default:
			gone(l)
			t.release(l, now, ch)
			return accepted
		}
	}
	x.exhausted = number
	return noAddress
}
