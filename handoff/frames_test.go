package handoff

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
	"handoff64/ring"
)

// A full In ring, a lack of frames and a packet that fits no frame are counted
// losses; no frame goes astray, and the entry counts without its packet.
func TestFullRings(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Owner = func(conntrack.Addr6, uint16) int { return 0 }
		c.Links[0] = NewLink(4)
	})
	s := serverAddr(1)
	payload := r.formC(s, entry(client1, 40000, 3719), udp4(s, ownAddr, 53, 3719, nil))
	big := r.formC(s, entry(client1, 40000, 3719), udp4(s, ownAddr, 53, 3719, make([]byte, 2048-ring.Headroom-ethernetHeader-28+1)))
	fits := r.formC(s, entry(client1, 40000, 3719), udp4(s, ownAddr, 53, 3719, make([]byte, 2048-ring.Headroom-ethernetHeader-28)))

	r.w.accept(s, ownAddr, payload)
	if st := r.w.Stats(); st.NoFrame != 1 || st.Entries != 1 || st.Packets != 0 {
		t.Errorf("no frame lent: %+v", st)
	}
	r.lend(4)
	r.w.accept(s, ownAddr, big)
	if st := r.w.Stats(); st.TooBig != 1 || st.Entries != 2 || st.Packets != 0 {
		t.Errorf("too big: %+v", st)
	}
	r.w.accept(s, ownAddr, fits)
	if st := r.w.Stats(); st.Packets != 1 || st.Entries != 3 {
		t.Errorf("as big as a frame: %+v", st)
	}
	r.w.accept(s, ownAddr, payload)
	if st := r.w.Stats(); st.RingFull != 2 || st.Entries != 3 || st.Packets != 1 {
		t.Errorf("ring full: %+v", st)
	}
	if n := r.cfg.Links[0].Lend.Len(); n != 3 {
		t.Errorf("%d frames lent, want 3", n)
	}
	r.takeBack()
	r.census()
}

// No more is taken from a packet worker than can be given back to it.
func TestBackRingFull(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Links[0].Back = ring.NewSPSC[uint64](4) })
	s := r.server(1)
	for range 10 {
		r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr}, udp4(serverAddr(1), ownAddr, 1, 2, nil))
	}
	r.pass(0)
	r.pass(0)
	if st := r.w.Stats(); st.Tunnelled != 4 || r.cfg.Links[0].Out.Len() != 6 {
		t.Errorf("%+v", st)
	}
	if at := r.w.deadline(); at > r.w.now+soon {
		t.Error("the worker would sleep although records wait for room")
	}
	r.census()
	r.until("the rest is sent", func() bool { return r.w.Stats().Tunnelled == 10 })
	for range 10 {
		s.recv()
	}
	r.census()
}

// Whatever workers and servers do, every frame is in one place afterwards.
func TestFramesAreConserved(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	forms := slices.Concat(r.spoofed(), r.genuine())
	for range 20_000 {
		link := rand.IntN(rigLinks)
		switch rand.IntN(6) {
		case 0:
			r.w.accept(s.addr, ownAddr, forms[rand.IntN(len(forms))].payload)
		case 1:
			if r.stack.Len() > 2*rigLinks && r.cfg.Links[link].Lend.Len() < 60 {
				f, _ := r.stack.Pop()
				r.cfg.Links[link].Lend.Push(f)
			}
		case 2:
			if r.stack.Len() > 0 && room(r.cfg.Links[link].Out) > 0 {
				kind := conntrack.Tunnel4 + conntrack.ToServerKind(rand.IntN(2)) - 1 // Tunnel6 or Tunnel4, some of them wrong
				r.tunnel(link, conntrack.ToServer{Kind: kind, Server: serverAddr(9), Own: ownAddr, Client: client1, Stranger: rand.IntN(2) == 0},
					udp4(s.addr, ownAddr, 1, 2, make([]byte, rand.IntN(1400))))
			}
		case 3:
			r.w.round()
		case 4:
			r.census()
		case 5:
			r.time = r.time.Add(time.Millisecond)
		}
	}
	r.until("all is taken", func() bool { return r.cfg.Links[0].Out.Len()+r.cfg.Links[1].Out.Len() == 0 })
	r.takeBack()
	r.census()
	if st := r.w.Stats(); st.Packets == 0 || st.Limited == 0 || st.SendError == 0 || st.Tunnelled == 0 {
		t.Errorf("some way was never taken: %+v", st)
	}
}

// echo is a server that answers whatever it gets: entries with the first of
// them in format (c), queries with entry and packet, IPv4 packets as they came.
func echo(c *net.UDPConn) {
	buf, answer := make([]byte, 65536), make([]byte, 0, 65536)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		var p wire.Payload
		if wire.Decode(buf[:n], &p) != wire.OK {
			continue
		}
		switch {
		case p.PacketVersion == 4:
			answer = append(wire.AppendToken(answer[:0], p.Token), p.Packet...)
		case p.PacketVersion == 6:
			e := wire.Entry{MappedPort: max(p.Hint, 1024), Prefix: [12]byte(p.Packet[24:36]), Client: [16]byte(p.Packet[8:24]),
				ClientPort: uint16(p.Packet[40])<<8 | uint16(p.Packet[41])}
			answer = append(wire.AppendEntry(wire.AppendAuthenticator(answer[:0], p.Authenticator), &e), p.Packet...)
		case p.Has(wire.TypeEntry):
			answer = wire.AppendEntry(wire.AppendAuthenticator(answer[:0], p.Authenticator), &p.Entry)
		}
		if _, err := c.WriteToUDPAddrPort(answer, from); err != nil {
			return
		}
	}
}

// The whole worker with goroutines on all its sides: packet workers that query,
// servers that answer. What comes back is what was sent, nobody is left asleep,
// and every frame is somewhere.
func TestRun(t *testing.T) {
	r := newRig(t)
	r.close()
	for i := range rigLinks {
		r.cfg.Links[i], r.cfg.WorkerWake[i] = NewLink(64), func() {}
	}
	w, err := Open(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for x := range byte(3) {
		go echo(r.server(x + 1).conn)
	}
	var workers sync.WaitGroup
	frames := make([][]uint64, rigLinks)
	var returned atomic.Int64
	for i := range rigLinks {
		for range rigFrames / rigLinks {
			f, _ := r.stack.Pop()
			frames[i] = append(frames[i], f)
		}
		workers.Go(func() { frames[i] = fakeWorker(t, w, &r.cfg, i, frames[i], &returned) })
	}
	workers.Wait()
	seen := 0
	w.ServersInfo(func(i ServerInfo) bool { seen++; return i.State == conntrack.ServerHandoff })
	if seen != 3 {
		t.Errorf("%d servers", seen)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.Wake() // by a packet worker that has not heard of it
	for _, f := range frames {
		for _, addr := range f {
			r.stack.Push(addr)
		}
	}
	r.takeBack() // what was in the rings when the worker ended
	r.census()
	st := w.Stats()
	if st.Queries == 0 || st.Invalid != 0 || int64(st.Packets) < returned.Load() || st.Servers[conntrack.ServerHandoff] != 3 {
		t.Errorf("%d came back; %+v", returned.Load(), st)
	}
	if known, err := readState(w.stateFile); err != nil || len(known) != 3 {
		t.Errorf("state file: %v %v", known, err)
	}
}

// fakeWorker does what a packet worker does with its link until 2,000 of its
// queries have come back. It returns the frames that it has then; others are
// still in the rings.
func fakeWorker(t *testing.T, w *Worker, cfg *Config, id int, frames []uint64, returned *atomic.Int64) []uint64 {
	l := cfg.Links[id]
	came, port := 0, uint16(0)
	limit := time.Now().Add(60 * time.Second)
	collect := func() {
		for f, ok := l.Back.Pop(); ok; f, ok = l.Back.Pop() {
			frames = append(frames, f)
		}
		for f, ok := l.In.Pop(); ok; f, ok = l.In.Pop() {
			if f.Kind == conntrack.GotPacket {
				frames = append(frames, f.Addr)
				came++
				returned.Add(1)
			}
		}
	}
	for came < 2000 {
		if time.Now().After(limit) {
			t.Errorf("worker %d: only %d came back: %+v", id, came, w.Stats())
			break
		}
		collect()
		for l.Lend.Len() < 32 && len(frames) > 64 {
			l.Lend.Push(frames[len(frames)-1])
			frames = frames[:len(frames)-1]
		}
		for range 8 {
			if len(frames) == 0 || room(l.Out) < 2 {
				break
			}
			f := frames[len(frames)-1]
			frames = frames[:len(frames)-1]
			port++
			client := conntrack.Addr6{Hi: client1.Hi, Lo: uint64(id)}
			server := serverAddr(byte(port%3) + 1)
			packet := udp6(octets6(client), within(server), port, 53, nil)
			at := f&^2047 + ring.Headroom
			copy(cfg.UMEM.Mem[at:], packet)
			l.Out.Push(conntrack.ToServer{Kind: conntrack.Tunnel6, Server: server, Own: ownAddr, Client: client, ClientPort: port, Addr: at, Len: uint16(len(packet))})
			l.Out.Push(conntrack.ToServer{Kind: conntrack.Notify, Server: server, Own: ownAddr, Client: client, ClientPort: port, MappedPort: 1024 + port%2000})
		}
		w.Wake()
	}
	for l.Out.Len() > 0 && time.Now().Before(limit) {
		collect()
		w.Wake()
	}
	return frames
}
