package handoff

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

const (
	outboxSize = 64
	// headSize holds a whole multi-entry payload, or what precedes a packet.
	headSize = wire.MaxMultiEntry
)

// letter is what an outbox remembers of one datagram beside its octets.
type letter struct {
	count   *atomic.Uint64 // counter of its kind
	entries uint64         // of a notification
	link    int            // that the frame goes back to, or -1
	frame   uint64
}

// outbox gathers datagrams for one system call. Tunnelled packets are sent from
// the frames where they lie. Owned by the worker's goroutine.
type outbox struct {
	n       int
	ms      []ipv4.Message
	to      [outboxSize]net.UDPAddr
	head    [outboxSize][headSize]byte
	letters [outboxSize]letter
}

func newOutbox(serverPort uint16) *outbox {
	o := &outbox{ms: make([]ipv4.Message, outboxSize)}
	for i := range o.ms {
		o.to[i] = net.UDPAddr{IP: make(net.IP, net.IPv4len), Port: int(serverPort)}
		o.ms[i] = ipv4.Message{Addr: &o.to[i], Buffers: make([][]byte, 0, 2)}
	}
	return o
}

// post puts a datagram into the outbox: head, which begins with the octets of
// the slot's own buffer, then the packet, if there is one. It leaves from the
// channel's own address or not at all: a session from before a restart may be of
// an address that is no longer in pool4.
func (w *Worker) post(k channelKey, head, packet []byte, l letter) {
	o, source := w.out, w.own[k.own]
	if source == nil {
		w.count.sendError.Add(1)
		w.giveBack(&l)
		return
	}
	m := &o.ms[o.n]
	binary.BigEndian.PutUint32(o.to[o.n].IP, k.server)
	m.OOB = source
	m.Buffers = append(m.Buffers[:0], head)
	if packet != nil {
		m.Buffers = append(m.Buffers, packet)
	}
	o.letters[o.n] = l
	if o.n++; o.n == outboxSize {
		w.flush()
	}
}

// sendPayload posts a payload of entries.
func (w *Worker) sendPayload(k channelKey, payload []byte, entries int) {
	head := append(w.out.head[w.out.n][:0], payload...)
	w.post(k, head, nil, letter{&w.count.payloads, uint64(entries), -1, 0})
}

// tunnel posts a packet of a worker's (draft §5), or gives its frame back.
func (w *Worker) tunnel(from int, t *conntrack.ToServer) {
	l := letter{&w.count.tunnelled, 0, from, t.Addr}
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

// flush sends the outbox. What the kernel does not take now is lost and
// counted: the worker waits for nobody.
func (w *Worker) flush() {
	o := w.out
	for at, failures := 0, 0; at < o.n; {
		n, err := w.sock.write(o.ms[at:o.n])
		for i := range max(n, 0) {
			w.sent(&o.letters[at+i])
		}
		at += max(n, 0)
		switch {
		case err == nil:
			failures = 0
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
			w.count.sendFull.Add(uint64(o.n - at))
			at = o.n
		default:
			// The first failure may be about another datagram, that was sent
			// before: the kernel reports such errors at the next call. The second
			// is this one's own.
			if failures++; failures == 2 {
				w.count.sendError.Add(1)
				at, failures = at+1, 0
			}
		}
	}
	for i := range o.n {
		w.giveBack(&o.letters[i])
	}
	o.n = 0
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
