package handoff

import (
	"encoding/binary"
	"hash/maphash"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"handoff64/conntrack"
	"handoff64/handoff/segment"
	"handoff64/handoff/wire"
	"handoff64/ring"
)

// receive works on one batch of datagrams.
func (w *Worker) receive() (worked bool) {
	ms := w.sock.read()
	for i := range ms {
		w.take(&ms[i])
	}
	return len(ms) > 0
}

// take works on the datagrams of a message.
func (w *Worker) take(m *ipv4.Message) {
	server, own, refused := w.channelOf(m)
	size := segment.Size(m.OOB[:m.NN])
	for datagram, rest := segment.Next(m.Buffers[0][:m.N], size); ; datagram, rest = segment.Next(rest, size) {
		r := refused
		if r == Accepted {
			r = w.accept(server, own, datagram)
		}
		if r != Accepted {
			w.count.refused[r].Add(1)
		}
		if rest == nil {
			return
		}
	}
}

// channelOf finds out which channel a message belongs to.
func (w *Worker) channelOf(m *ipv4.Message) (server, own uint32, r Refusal) {
	own, ok := destination(m)
	if !ok || w.own[own] == nil {
		return 0, 0, NotPool4
	}
	server, port, ok := peer(m)
	if !ok || port != w.serverPort {
		return 0, 0, NotServerPort
	}
	if w.own[server] != nil {
		return 0, 0, OwnAddress
	}
	return server, own, Accepted
}

// accept decodes and checks a payload, and acts on it.
func (w *Worker) accept(server, own uint32, payload []byte) Refusal {
	var p wire.Payload
	if s := wire.Decode(payload, &p); s != wire.OK {
		return Refusal(s)
	}
	var f finding
	if r := w.check(server, own, &p, &f); r != Accepted {
		return r
	}
	w.count.replies.Add(1)
	w.heardFrom(server)
	to := -1
	if f.entry {
		to = w.deliverEntry(server, own, &p.Entry, f.pool6)
	}
	if f.packet {
		if to < 0 {
			to = w.spread(p.Packet)
		}
		w.deliverPacket(to, server, own, p.Packet, f.kind)
		if f.entry {
			w.servers.answered(server, false)
		} else if f.kind == conntrack.GotTranslated && translatedItself(p.Packet) {
			w.servers.answered(server, true)
		}
	}
	return Accepted
}

// heardFrom notes a valid control packet: its sender is handoff-capable (draft
// §8). A server that is new to this, or back, is told of what lives.
func (w *Worker) heardFrom(addr uint32) {
	i := w.servers.touch(addr)
	w.servers.slots[i].heard.Store(w.wall.UnixNano())
	was := w.servers.stateAt(i)
	if was == conntrack.ServerHandoff || !w.servers.set(i, conntrack.ServerHandoff) {
		return
	}
	w.log.Info("handoff server found", "server", ipv4Address(addr), "was", was.String())
	w.tellAll(addr, was == conntrack.ServerDown)
}

// deliverEntry hands an entry to the worker that owns the client and returns
// which one that is. The echo of what we told ends the repetitions, also when
// the server has given another port: that is its answer.
func (w *Worker) deliverEntry(server, own uint32, e *wire.Entry, pool6 uint8) int {
	client := address6(e.Client[:])
	if w.retries.acknowledge(retryKey{channelKey{own, server}, client, e.ClientPort, pool6}) {
		w.count.acknowledged.Add(1)
	}
	to := w.owner(client, e.ClientPort)
	if !w.links[to].In.Push(conntrack.FromServer{
		Kind: conntrack.GotEntry, Pool6: pool6, MappedPort: e.MappedPort, ClientPort: e.ClientPort,
		Server: server, Own: own, Client: client,
	}) {
		w.count.ringFull.Add(1)
		return to
	}
	w.count.entries.Add(1)
	w.wakes[to] = true
	return to
}

// translatedItself says whether only a server that translates for itself sends
// such a packet. ICMPv6 comes from others, too: answers to pings, and errors.
func translatedItself(packet []byte) bool {
	return packet[0]>>4 == 6 && packet[6] != unix.IPPROTO_ICMPV6
}

const ethernetHeader = 14

// deliverPacket copies a packet into a lent frame, behind room for an Ethernet
// header of which only the type is written, and hands it to a worker.
func (w *Worker) deliverPacket(to int, server, own uint32, packet []byte, kind conntrack.FromServerKind) {
	l := w.links[to]
	n := ethernetHeader + len(packet)
	if n > w.umem.FrameSize-ring.Headroom {
		w.count.tooBig.Add(1)
		return
	}
	if room(l.In) == 0 { // looked at first, so that no frame needs to go back
		w.count.ringFull.Add(1)
		return
	}
	lent, ok := l.Lend.Pop()
	if !ok {
		w.count.noFrame.Add(1)
		return
	}
	frame := w.umem.Frame(lent)[ring.Headroom:]
	etherType := uint16(0x0800)
	if packet[0]>>4 == 6 {
		etherType = 0x86dd
	}
	binary.BigEndian.PutUint16(frame[12:], etherType)
	copy(frame[ethernetHeader:], packet)
	base := lent &^ uint64(w.umem.FrameSize-1)
	l.In.Push(conntrack.FromServer{Kind: kind, Server: server, Own: own, Addr: base + ring.Headroom, Len: uint16(n)})
	w.count.packets.Add(1)
	w.wakes[to] = true
}

// spread picks a worker for a packet without an entry: the same one for all
// packets of a flow. What is no plain TCP or UDP packet, such as a fragment, goes
// by its addresses. The packet's lengths have been checked.
func (w *Worker) spread(packet []byte) int {
	first, end, proto := 8, 40, packet[6]
	whole := true
	if packet[0]>>4 == 4 {
		first, end, proto = 12, 20, packet[9]
		whole = packet[0]&0xf == 5 && binary.BigEndian.Uint16(packet[6:])&0x3fff == 0
	}
	if whole && (proto == 6 || proto == 17) && len(packet) >= end+4 {
		end += 4
	}
	key := packet[first:end]
	return int(maphash.Bytes(w.seed, key) % uint64(len(w.links)))
}

// readErrors works on one batch of ICMP errors about datagrams of ours. A server
// is down only if it said itself that its port is closed, and quoted a token
// that is valid for it (draft §8).
func (w *Worker) readErrors() (worked bool) {
	ms := w.sock.readErrors()
	for i := range ms {
		w.takeError(&ms[i])
	}
	return len(ms) > 0
}

func (w *Worker) takeError(m *ipv4.Message) {
	addr, port, ok := peer(m)
	if !ok || port != w.serverPort || !portUnreachable(m, addr) {
		w.count.otherErrors.Add(1)
		return
	}
	token, ok := wire.QuotedToken(m.Buffers[0][:m.N])
	if !ok || !w.keys.CheckToken(octets4(addr), token) {
		w.count.otherErrors.Add(1)
		return
	}
	i := w.servers.index.find(addr)
	if i == none || w.servers.stateAt(i) != conntrack.ServerHandoff {
		w.count.otherErrors.Add(1)
		return
	}
	w.servers.set(i, conntrack.ServerDown)
	w.count.wentDown.Add(1)
	w.log.Info("handoff server down: its port is closed", "server", ipv4Address(addr))
}
