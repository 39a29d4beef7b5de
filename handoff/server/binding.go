package server

import (
	"net/netip"
	"sync/atomic"

	"handoff64/handoff/localnat"
	"handoff64/handoff/wire"
)

// binding is what a packet to an address of the pool needs to reach its client.
// Read only once it is published.
type binding struct {
	localnat.Pair
	lease   uint64 // its number: nothing is sent before that is durable
	path    *path
	head    []byte // the authenticator's message, which goes in front of each packet
	inbound int    // octets of messages in front of a packet from the NAT64, at most
}

// bindings finds the binding of an address of the pool. The handler writes,
// anybody reads, and nobody waits: pages and bindings are replaced as a whole.
type bindings struct {
	prefix netip.Prefix
	first  uint32
	pages  []atomic.Pointer[bindingPage]
}

type bindingPage [256]atomic.Pointer[binding]

func newBindings(prefix netip.Prefix) *bindings {
	if !prefix.IsValid() {
		return &bindings{}
	}
	size := uint64(1) << (32 - prefix.Bits())
	return &bindings{
		prefix: prefix, first: word4(prefix.Addr().As4()), pages: make([]atomic.Pointer[bindingPage], (size+255)/256),
	}
}

// find returns the binding of an address, or nil.
func (x *bindings) find(address uint32) *binding {
	i := address - x.first
	if uint64(i>>8) >= uint64(len(x.pages)) {
		return nil
	}
	page := x.pages[i>>8].Load()
	if page == nil {
		return nil
	}
	return page[i&0xff].Load()
}

// set publishes a binding; nil takes one back.
func (x *bindings) set(address uint32, b *binding) {
	i := address - x.first
	if uint64(i>>8) >= uint64(len(x.pages)) {
		return
	}
	page := x.pages[i>>8].Load()
	if page == nil {
		if b == nil {
			return
		}
		page = new(bindingPage)
		x.pages[i>>8].Store(page)
	}
	page[i&0xff].Store(b)
}

// bind makes the binding of a lease known to those who answer.
func (x *bindings) bind(l *lease) {
	c := l.channel
	client := &c.clients[l.client]
	x.set(word4(l.address), &binding{
		Pair: pairOf(l), lease: l.id, path: c.path, head: wire.AppendAuthenticator(nil, client.auth),
		inbound: inbound(len(c.token), len(client.auth)),
	})
}

// pairOf is the two ends of a lease's packets.
func pairOf(l *lease) localnat.Pair {
	c := l.channel
	return localnat.Pair{
		Client: c.clients[l.client].addr, Server: embed(c.prefixes[l.prefix], c.knownAs), Address: l.address, Own: c.key.own,
	}
}

// inbound is how many octets of messages a NAT64 may put in front of an IPv6
// packet: a token, a rotation, an authenticator and a hint (draft §5).
func inbound(token, authenticator int) int { return (2+token)*2 + 2 + authenticator + 4 }
