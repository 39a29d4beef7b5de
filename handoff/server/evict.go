package server

// liveness knows which mapped ports local sockets talk to. Used by the handler's
// goroutine alone.
type liveness interface {
	// view returns the sockets as they were a moment ago. number changes with
	// every look at the kernel and is never zero.
	view(now int64) (live liveSet, number uint64, err error)
}

// liveSet holds the peers of local sockets, and for each of their addresses a
// peer with port 0, which no socket has. Read only.
type liveSet map[peer]struct{}

// peer is the far end of a local socket.
type peer struct {
	addr addr4
	port uint16
}

// makeRoom deletes the least recently used entry that no local socket uses
// (protocol page, §8): only called when the ports of a NAT64 have run out.
// An entry with a socket counts as used now, which puts it at the end of the
// queue; so a crowd of long-lived connections is walked past once, not once for
// every entry that is to go. When everything is live there is nothing to do
// until the kernel is asked again.
//
// A connection that was opened after the view was taken, over an entry that
// had rested until then, and without a word from the NAT64 (which still had it
// cached), is not seen: the price of not asking the kernel for each entry.
func (t *table) makeRoom(c *channel, now int64, ch *changes) outcome {
	live, number, err := t.live.view(now)
	if err != nil {
		return refusedLiveness // never guess that a connection is dead
	}
	if c.exhausted == number {
		return refusedPorts
	}
	for range c.count() {
		i := c.oldest()
		if _, busy := live[peer{c.key.nat64, c.entries[i].mapped}]; busy {
			c.touch(i)
			continue
		}
		t.remove(c, i, now, ch)
		return accepted
	}
	c.exhausted = number
	return refusedPorts
}
