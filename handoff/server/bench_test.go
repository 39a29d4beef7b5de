package server

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// outstanding is how many queries a benchmark has under way.
const outstanding = 2048

// querier asks a server as fast as it answers. Used by one goroutine.
type querier struct {
	b      *testing.B
	pc     *ipv4.PacketConn
	server netip.AddrPort
	out    []ipv4.Message
	in     []ipv4.Message
}

func newQuerier(b *testing.B, f *fakeNAT64, server netip.AddrPort) *querier {
	q := &querier{b: b, pc: ipv4.NewPacketConn(f.control), server: server}
	if err := f.control.SetReadBuffer(4 << 20); err != nil {
		b.Fatal(err)
	}
	for range burst {
		q.out = append(q.out, ipv4.Message{Addr: net.UDPAddrFromAddrPort(server), Buffers: [][]byte{nil}})
		q.in = append(q.in, ipv4.Message{Buffers: [][]byte{make([]byte, 2048)}})
	}
	return q
}

// send asks for n entries from number first on.
func (q *querier) send(first, n int) {
	for i := range n {
		client := addr6{0: 0x20, 1: 1}
		binary.BigEndian.PutUint32(client[12:], uint32((first+i)/60000))
		pkt := ip6(client, embed(wellKnown, q.server.Addr().As4()), packet.ProtoTCP, tcp(uint16(1+(first+i)%60000), 80))
		q.out[i].Buffers[0] = payload{token: goodToken, auth: goodAuth, packet: pkt}.bytes()
	}
	for at := 0; at < n; {
		k, err := q.pc.WriteBatch(q.out[at:n], 0)
		if err != nil {
			q.b.Fatal(err)
		}
		at += k
	}
}

// receive waits for answers.
func (q *querier) receive() int {
	if err := q.pc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		q.b.Fatal(err)
	}
	n, err := q.pc.ReadBatch(q.in, 0)
	if err != nil {
		q.b.Fatal(err)
	}
	return n
}

// run asks b.N queries. wrap is after how many they repeat: then they find
// their entries.
func (q *querier) run(wrap int) {
	sent, answered := 0, 0
	for answered < q.b.N {
		for sent < q.b.N && sent-answered <= outstanding-burst {
			n := min(burst, q.b.N-sent, wrap-sent%wrap)
			q.send(sent%wrap, n)
			sent += n
		}
		answered += q.receive()
	}
}

func benchmarkQueries(b *testing.B, wrap int) {
	f := newFakeNAT64(b)
	r := start(b, testConfig(b, f))
	server := r.at("127.0.0.1")
	f.authenticate(server)
	q := newQuerier(b, f, server)
	b.ResetTimer()
	q.run(wrap)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
	if n := r.counts.commits.Load(); n > 0 {
		b.ReportMetric(float64(b.N)/float64(n), "queries/transaction")
	}
}

// BenchmarkDurableQueries: every query creates an entry, which is in table and
// log, and on disk, before its answer leaves. After 64000 each also deletes one.
func BenchmarkDurableQueries(b *testing.B) { benchmarkQueries(b, 1<<30) }

// BenchmarkKnownQueries: the entries are there already.
func BenchmarkKnownQueries(b *testing.B) { benchmarkQueries(b, 1000) }

// BenchmarkHandler is the handler alone, without socket and disk.
func BenchmarkHandler(b *testing.B) {
	x := newAuthenticated(b, 64000, noSockets{})
	q := query(clientAddr, 7, 0).bytes()
	b.ReportAllocs()
	for b.Loop() {
		x.out.reset()
		x.h.receive(&datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: q})
	}
}

// TestHandlerAllocatesNothing: queries that find their entry, and echoes.
func TestHandlerAllocatesNothing(t *testing.T) {
	x := newAuthenticated(t, 64000, noSockets{})
	echo := payload{token: goodToken, auth: goodAuth,
		packet: ip6(clientAddr, embed(wellKnown, ownAddr), packet.ProtoICMPv6, icmp(128, 0, 1, []byte("ping")))}
	for name, b := range map[string][]byte{"query": query(clientAddr, 7, 0).bytes(), "echo": echo.bytes()} {
		d := datagram{own: ownAddr, from: nat64Addr, fromPort: nat64Port, data: b}
		x.h.receive(&d)
		if n := testing.AllocsPerRun(100, func() { x.out.reset(); x.h.receive(&d) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if wire.NumStatus+int(firstWire) > 255 {
		t.Error("an outcome does not fit its type")
	}
}

// BenchmarkMemoryPerEntry reports octets of heap for each entry of a full NAT64.
func BenchmarkMemoryPerEntry(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		tb := fullTable(64000)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(tb.count), "octets/entry")
		runtime.KeepAlive(tb)
	}
}

// fullTable is a NAT64 with n entries of 1000 clients.
func fullTable(n int) *table {
	tb := newTable(n, serverPort, noSockets{}, seeded())
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	for i := range n {
		ch.reset()
		k := tuple{prefix: wellKnown, client: addr6{0: 0x20, 14: byte(i % 1000 >> 8), 15: byte(i % 1000)}, port: uint16(1 + i/1000)}
		j, o := tb.create(c, k, 0, nat64Port, 2, &ch)
		if o == accepted {
			tb.setAuthenticator(c, j, goodAuth, &ch)
		}
	}
	return tb
}
