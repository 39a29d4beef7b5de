package handoff

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/handoff/segment"
	"handoff64/handoff/wire"
)

const (
	outboxSize = 128
	// headSize holds a whole multi-entry payload, or what precedes a packet.
	headSize = wire.MaxMultiEntry
)

// letter is what an outbox remembers of one datagram beside its octets.
type letter struct {
	count   *atomic.Uint64 // counter of its kind
	entries uint64         // of a notification
	link    int            // that the frame goes back to, or -1
	frame   uint64
	key     channelKey
	octets  [2][]byte // messages, and the packet behind them
}

func (l *letter) size() int { return len(l.octets[0]) + len(l.octets[1]) }

// outbox gathers datagrams for one system call. Tunnelled packets are sent from
// the frames where they lie. Datagrams of one size on one channel leave as one
// message, unless the kernel has refused to cut one up. Owned by the worker's
// goroutine.
type outbox struct {
	n       int
	whole   bool // datagrams leave one by one
	ms      []ipv4.Message
	ends    [outboxSize]int // of a message: the letter behind its last one
	oob     [outboxSize][64 + segment.Space]byte
	to      [outboxSize]net.UDPAddr
	head    [outboxSize][headSize]byte
	letters [outboxSize]letter
}

func newOutbox(serverPort uint16) *outbox {
	o := &outbox{ms: make([]ipv4.Message, outboxSize)}
	for i := range o.ms {
		o.to[i] = net.UDPAddr{IP: make(net.IP, net.IPv4len), Port: int(serverPort)}
		o.ms[i] = ipv4.Message{Addr: &o.to[i], Buffers: make([][]byte, 0, 2*segment.Most)}
	}
	return o
}

// post puts a datagram into the outbox: head, which begins with the octets of
// the slot's own buffer, then the packet, if there is one. It leaves from the
// channel's own address or not at all: a session from before a restart may be of
// an address that is no longer in pool4.
func (w *Worker) post(k channelKey, head, packet []byte, l letter) {
	o := w.out
	if w.own[k.own] == nil {
		w.count.sendError.Add(1)
		w.giveBack(&l)
		return
	}
	l.key, l.octets = k, [2][]byte{head, packet}
	o.letters[o.n] = l
	if o.n++; o.n == outboxSize {
		w.flush()
	}
}

// sendPayload posts a payload of entries.
func (w *Worker) sendPayload(k channelKey, payload []byte, entries int) {
	head := append(w.out.head[w.out.n][:0], payload...)
	w.post(k, head, nil, letter{count: &w.count.payloads, entries: uint64(entries), link: -1})
}

// tunnel posts a packet of a worker's (draft §5), or gives its frame back.
func (w *Worker) tunnel(from int, t *conntrack.ToServer) {
	l := letter{count: &w.count.tunnelled, link: from, frame: t.Addr}
	whole := w.umem.Mem[t.Addr : t.Addr+uint64(t.Len)]
	n, version, status := wire.PacketLen(whole)
	if want := uint8(4); status != wire.OK || version != want && t.Kind == conntrack.Tunnel4 || version == want && t.Kind == conntrack.Tunnel6 {
		w.count.sendError.Add(1)
		w.giveBack(&l)
		return
	}
	packet := whole[:n]
	head := w.tunnelHead(w.out.head[w.out.n][:0], t)
	if t.Stranger && !w.vouched(t, packet) && !w.strangers.admit(w.now, len(packet), len(head)) {
		w.count.limited.Add(1)
		w.giveBack(&l)
		return
	}
	if t.Kind == conntrack.Tunnel6 {
		l.count = &w.count.queries
		w.servers.touch(t.Server)
		w.servers.remember(t.Server, t.Client, t.Client)
	}
	w.post(channelKey{t.Own, t.Server}, head, packet, l)
}

// tunnelHead is what precedes a tunnelled packet: a token, and for an IPv6
// packet an authenticator and, maybe, the hint (draft §5).
func (w *Worker) tunnelHead(head []byte, t *conntrack.ToServer) []byte {
	var mac [wire.MACLen]byte
	server := octets4(t.Server)
	w.keys.Token(server, &mac)
	head = wire.AppendToken(head, mac[:])
	if w.keys.RotationToken(server, &mac) {
		head = wire.AppendRotation(head, mac[:])
	}
	if t.Kind != conntrack.Tunnel6 {
		return head
	}
	w.keys.Authenticator(server, octets6(t.Client), &mac)
	head = wire.AppendAuthenticator(head, mac[:])
	if t.MappedPort != 0 {
		head = wire.AppendHint(head, t.MappedPort)
	}
	return head
}

// pack makes messages of the letters from first on, and returns how many.
func (w *Worker) pack(first int) (messages int) {
	o := w.out
	for at := first; at < o.n; messages++ {
		l := &o.letters[at]
		m := &o.ms[messages]
		binary.BigEndian.PutUint32(o.to[messages].IP, l.key.server)
		m.Buffers = m.Buffers[:0]
		n, size, last := 0, l.size(), l.size()
		for ; at < o.n; at++ {
			next := &o.letters[at]
			if n > 0 && (o.whole || next.key != l.key || !segment.Joins(n, size, last, next.size())) {
				break
			}
			m.Buffers = append(m.Buffers, next.octets[0])
			if next.octets[1] != nil {
				m.Buffers = append(m.Buffers, next.octets[1])
			}
			last = next.size()
			n++
		}
		m.OOB = w.own[l.key.own]
		if n > 1 {
			m.OOB = segment.Append(append(o.oob[messages][:0], m.OOB...), size)
		}
		o.ends[messages] = at
	}
	return messages
}

// flush sends the outbox. What the kernel does not take now is lost and
// counted: the worker waits for nobody.
func (w *Worker) flush() {
	o := w.out
	for at := 0; at < o.n; {
		at = w.sendFrom(at)
	}
	for i := range o.n {
		w.giveBack(&o.letters[i])
		o.letters[i].octets = [2][]byte{}
	}
	o.n = 0
}

// sendFrom sends the letters from at on, and returns where to go on.
func (w *Worker) sendFrom(at int) int {
	o := w.out
	messages := w.pack(at)
	for first, failures := 0, 0; first < messages; {
		n, err := w.sock.write(o.ms[first:messages])
		for range max(n, 0) {
			for ; at < o.ends[first]; at++ {
				w.sent(&o.letters[at])
			}
			first++
		}
		switch {
		case err == nil:
			failures = 0
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
			w.count.sendFull.Add(uint64(o.n - at))
			return o.n
		default:
			// The first failure may be about another datagram, that was sent
			// before: the kernel reports such errors at the next call. The second
			// is this one's own.
			if failures++; failures < 2 {
				continue
			}
			if o.ends[first]-at > 1 { // it does not cut messages up here
				o.whole = true
				return at
			}
			w.count.sendError.Add(1)
			at, first, failures = at+1, first+1, 0
		}
	}
	return at
}

func (w *Worker) sent(l *letter) {
	l.count.Add(1)
	w.count.notifications.Add(l.entries)
}

// giveBack returns a letter's frame to the packet worker it came from. There is
// room: no more frames are taken from a link than it has room for.
func (w *Worker) giveBack(l *letter) {
	if l.link < 0 {
		return
	}
	if !w.links[l.link].Back.Push(l.frame) {
		panic("handoff: more frames taken from a packet worker than its Back ring holds")
	}
	w.wakes[l.link] = true
}
