package dataplane

import (
	"sync/atomic"

	"handoff64/conntrack"
)

// A stored SYN to a port that is nobody's has no client yet: RFC 6146 §3.5.2.2
// leaves the IPv6 address of its session entry unspecified. Ports are drawn at
// random, so the client that opens the connection from its side would meet the
// SYN by chance only. So a client that has no mapping yet gets the port that
// such a SYN was sent to, if it is from the very address and port that the
// client connects to, and if the client may have that port (conntrack.MapAt).
// Several such SYNs serve as many clients, that which has waited longest first.
//
// Whoever can forge a SYN of a server thereby chooses what port the next new
// client of that server gets, within the six seconds: what RFC 6056 makes hard
// to guess. TCP's sequence numbers stand against that, and tcp_incoming: false.

const (
	senderBuckets = 1024
	// inviteSteps bounds how many stored SYNs of a bucket a client's SYN makes a
	// worker look at: those of other senders, and to ports that were taken.
	inviteSteps = 8
)

// senders finds stored SYNs by their sender. Each bucket is a list, oldest
// first, so SYNs end in the order of the list. Its owner adds to the end, and
// takes away at the front. Others read, and move the front past SYNs that were
// overtaken, so that however many clients a sender finds, the next one need not
// pass those; never past the last, to which the owner may be adding.
type senders struct {
	heads [senderBuckets]atomic.Uint64 // numbers; 0: none
	tails [senderBuckets]uint64
	nodes [synSlots]senderNode // by number
}

// senderNode is what others may know of a stored SYN. They read its number
// last: if it is still the one that they came for, so is the rest.
type senderNode struct {
	number, next, from, to, tag atomic.Uint64
	since                       atomic.Uint32
	bucket                      uint32
}

// endpoint packs an IPv4 transport address.
func endpoint(addr uint32, port uint16) uint64 { return uint64(addr)<<16 | uint64(port) }

func (s *senders) node(number uint64) *senderNode { return &s.nodes[number%synSlots] }

// add is for the owner. number was never used before.
func (s *senders) add(number uint64, k *conntrack.Key46, tag uint64, now conntrack.Tick, bucket uint64) {
	n := s.node(number)
	n.number.Store(0)
	n.next.Store(0)
	n.from.Store(endpoint(k.Server, k.ServerPort))
	n.to.Store(endpoint(k.Mapped, k.MappedPort))
	n.tag.Store(tag)
	n.since.Store(uint32(now))
	n.bucket = uint32(bucket)
	n.number.Store(number)
	if last := s.tails[bucket]; last != 0 {
		s.node(last).next.Store(number)
	} else {
		s.heads[bucket].Store(number)
	}
	s.tails[bucket] = number
}

// drop is for the owner: number is the oldest of all.
func (s *senders) drop(number uint64) {
	n := s.node(number)
	s.heads[n.bucket].CompareAndSwap(number, n.next.Load()) // else it was moved on already
	if s.tails[n.bucket] == number {
		s.tails[n.bucket] = 0
	}
}

// invitation is where a sender waits for its client.
type invitation struct {
	addr  uint32
	port  uint16
	since conntrack.Tick
}

// oldest finds the SYN of a sender that has waited longest for a client, and
// whose port is free. Any goroutine.
func (s *synStore) oldest(from, bucket uint64, t *conntrack.Table) (v invitation, ok bool) {
	head := &s.senders.heads[bucket]
	first := true // no SYN before this one waits
	at := head.Load()
	for range inviteSteps {
		if at == 0 {
			break
		}
		n := s.senders.node(at)
		sender, to, tag, next := n.from.Load(), n.to.Load(), n.tag.Load(), n.next.Load()
		since := conntrack.Tick(n.since.Load())
		if n.number.Load() != at {
			break // ended just now, and its place is another's
		}
		if !s.waits(tag) {
			if first && next != 0 {
				head.CompareAndSwap(at, next)
			}
		} else {
			first = false
			if v = (invitation{uint32(to >> 16), uint16(to), since}); sender == from && t.PortFree(v.addr, v.port) {
				return v, true
			}
		}
		at = next
	}
	return invitation{}, false
}

// senderBucket is where the SYNs of a server's port are among senders. The
// hash is keyed, so nobody can aim at another's bucket.
func (w *Worker) senderBucket(server uint32, port uint16) uint64 {
	k := conntrack.Key46{Server: server, ServerPort: port, Proto: conntrack.TCP}
	return w.table.Hash46(&k) >> 24 % senderBuckets
}

// storesSYNs says whether any worker does at this moment.
func (g *Group) storesSYNs() bool {
	for _, o := range g.workers {
		if o.syns.count.Load() != 0 {
			return true
		}
	}
	return false
}

// invited makes a mapping for a client that connects to where a stored SYN came
// from, at the port that this was sent to. ok is false if there is none.
func (w *Worker) invited(k *conntrack.Key64) (m conntrack.Mapping, ok bool) {
	from, bucket := endpoint(k.Server, k.ServerPort), w.senderBucket(k.Server, k.ServerPort)
	var best invitation
	for _, o := range w.group.workers {
		if o.syns.count.Load() == 0 {
			continue
		}
		if v, found := o.syns.oldest(from, bucket, w.table); found && (!ok || int32(v.since-best.since) < 0) {
			best, ok = v, true
		}
	}
	if !ok {
		return m, false
	}
	return w.shard.MapAt(k.Client, k.ClientPort, k.Proto, best.addr, best.port)
}

// mapClient finds or makes the mapping for a packet that opens a session. syns
// says that there are stored SYNs, one of which may have chosen it.
func (w *Worker) mapClient(k *conntrack.Key64, f *conntrack.Foresight, syns bool) (conntrack.Mapping, conntrack.Verdict) {
	if syns {
		if m, ok := w.invited(k); ok {
			return m, conntrack.OK
		}
	}
	return w.shard.MapForeseen(k, f)
}
