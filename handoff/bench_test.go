package handoff

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/ring"
)

// sink is a socket that swallows: the kernel drops what exceeds its buffer.
func (r *rig) sink(x byte) { r.server(x).conn.SetReadBuffer(1) }

// BenchmarkNotifications: entries told, one per operation, 30 of a client in a
// payload, through a real socket on loopback.
func BenchmarkNotifications(b *testing.B) {
	for name, servers := range map[string]int{"servers=1": 1, "servers=32": 32} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b)
			for x := range servers {
				r.sink(byte(x + 1))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r.notify(serverAddr(byte(i/30%servers+1)), conntrack.Addr6{Hi: client1.Hi, Lo: uint64(i / 30)}, uint16(i), 2000)
				if i%60 == 59 {
					r.pass(time.Millisecond)
				}
			}
			perSecond(b, "notifications/s")
		})
	}
}

// BenchmarkQueries: IPv6 packets of 128 octets to the socket, frames back.
func BenchmarkQueries(b *testing.B) {
	r := newRig(b)
	r.sink(1)
	packet := udp6(octets6(client1), within(serverAddr(1)), 1, 2, make([]byte, 80))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: serverAddr(1), Own: ownAddr, Client: client1, MappedPort: 2000}, packet)
		if i%60 == 59 {
			r.pass(time.Millisecond)
			r.drain()
		}
	}
	perSecond(b, "queries/s")
}

// BenchmarkAccept: entry and packet checked and handed to a worker.
func BenchmarkAccept(b *testing.B) {
	r := newRig(b)
	payload := r.formC(serverAddr(1), entry(client1, 40000, 3719), udp4(serverAddr(1), ownAddr, 1, 2, make([]byte, 80)))
	b.ReportAllocs()
	for b.Loop() {
		r.lend(1)
		r.w.accept(serverAddr(1), ownAddr, payload)
		r.got = r.got[:0]
		r.takeBack()
	}
	perSecond(b, "answers/s")
}

func perSecond(b *testing.B, unit string) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), unit)
}

// BenchmarkQueryLoop: one query at a time from a packet worker through the
// handoff worker to an answering server and back, everybody asleep in between
// but the packet worker.
func BenchmarkQueryLoop(b *testing.B) {
	// A spinning goroutine must not keep the others from a processor.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(8))
	r := newRig(b)
	r.close()
	w, err := Open(r.cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ipv4Address(serverAddr(1)), r.cfg.ServerPort)))
	if err != nil {
		b.Fatal(err)
	}
	go echo(c)
	packet := udp6(octets6(client1), within(serverAddr(1)), 40000, 53, make([]byte, 80))
	var times []time.Duration
	l := r.cfg.Links[r.cfg.Owner(client1, 40000)]
	for b.Loop() {
		lent, _ := r.stack.Pop()
		l.Lend.Push(lent)
		f, ok := r.stack.Pop()
		if !ok {
			b.Fatal("no frame")
		}
		at := f + ring.Headroom
		copy(r.umem.Mem[at:], packet)
		start := time.Now()
		l.Out.Push(conntrack.ToServer{Kind: conntrack.Tunnel6, Server: serverAddr(1), Own: ownAddr, Client: client1, MappedPort: 2000, Addr: at, Len: uint16(len(packet))})
		w.Wake()
		for came := false; !came; runtime.Gosched() {
			for g, ok := l.In.Pop(); ok; g, ok = l.In.Pop() {
				if g.Kind == conntrack.GotPacket {
					came = true
					r.stack.Push(g.Addr)
				}
			}
		}
		times = append(times, time.Since(start))
		for f, ok := l.Back.Pop(); ok; f, ok = l.Back.Pop() {
			r.stack.Push(f)
		}
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2]), "p50-ns")
	b.ReportMetric(float64(times[len(times)*99/100]), "p99-ns")
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	c.Close()
	if err := w.Close(); err != nil {
		b.Error(err)
	}
}
