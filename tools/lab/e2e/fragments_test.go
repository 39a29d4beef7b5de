package e2e

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// largeDatagrams are sizes around every border: one link, two, the fragments'
// own sizes, and the largest datagram there is.
var largeDatagrams = []int{1, 1232, 1233, 1452, 1453, 1472, 1473, 2000, 2904, 4096, 8192, 20000, 40000, 65000, 65507}

// TestUDPInFragments sends datagrams of up to 65,507 octets both ways between
// two Linux stacks, which fragment them and put them together again.
func TestUDPInFragments(t *testing.T) {
	t.Parallel()
	w := plain(t, static("udp", 7000, 7000))
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	w.echoUDP(w.client, "udp6", "[::]:7000")
	six := w.dial(w.client, "udp", 0, w.embedded(7))
	four := w.dial(w.server, "udp", 0, netip.AddrPortFrom(lab.Pool4, 7000).String())
	for _, n := range largeDatagrams {
		w.must(traffic.Exchange(six, noise(n)))
		w.must(traffic.Exchange(four, noise(n)))
	}
}

// TestPingInFragments has ping(8) send echoes of up to 65,000 octets both ways.
func TestPingInFragments(t *testing.T) {
	t.Parallel()
	w := plain(t, static("icmp", 77, 88))
	for _, size := range []int{1452, 1453, 3000, 10000, 30000, 65000} {
		out := w.output(w.client, "ping", "-6", "-n", "-c", "2", "-i", "0.2", "-W", "3", "-s", strconv.Itoa(size), lab.Embed(w.Server()).String())
		if !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping -s %d from the client:\n%s", size, out)
		}
		out = w.output(w.server, "ping", "-4", "-n", "-c", "2", "-i", "0.2", "-W", "3", "-M", "dont", "-e", "88", "-s", strconv.Itoa(size), lab.Pool4.String())
		if !strings.Contains(out, " 0% packet loss") {
			t.Errorf("ping -s %d from the server:\n%s", size, out)
		}
	}
	if s := w.stats(); s.Translated.V6ToV4 < 100 || s.Translated.V4ToV6 < 100 {
		t.Errorf("translated %+v: the pings did not come through here", s.Translated)
	}
}

// rawSocket sends IP packets of the family with the headers that they have.
func (w *world) rawSocket(h lab.Host, family int) (fd int) {
	w.t.Helper()
	w.must(h.Enter(func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// shuffled cuts a UDP datagram into fragments, one of them twice, and returns
// them in any order.
func shuffled(src, dst netip.Addr, id uint16, datagram []byte) (packets [][]byte) {
	const size = 1000
	for at := 0; at < len(datagram); at += size {
		part := datagram[at:min(at+size, len(datagram))]
		more := at+size < len(datagram)
		if src.Is4() {
			b := []byte{0x45, 0, 0, 0, byte(id >> 8), byte(id), byte(at / 8 >> 8), byte(at / 8), 64, 17, 0, 0}
			if more {
				b[6] |= 0x20
			}
			b = slices.Concat(b, src.AsSlice(), dst.AsSlice(), part)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			packets = append(packets, b)
			continue
		}
		b := []byte{0x60, 0, 0, 0, 0, 0, 44, 64}
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(part)))
		header := []byte{17, 0, byte(at >> 8), byte(at), 0, 0, byte(id >> 8), byte(id)}
		if more {
			header[3] |= 1
		}
		packets = append(packets, slices.Concat(b, src.AsSlice(), dst.AsSlice(), header, part))
	}
	packets = append(packets, packets[len(packets)/2])
	rand.Shuffle(len(packets), func(i, j int) { packets[i], packets[j] = packets[j], packets[i] })
	return packets
}

// TestFragmentsOutOfOrder sends fragments in any order, some twice, to the
// Linux stack on the other side, in both directions.
func TestFragmentsOutOfOrder(t *testing.T) {
	t.Parallel()
	w := plain(t, static("udp", 7000, 7000))
	atServer, err := w.server.ListenPacket("udp4", netip.AddrPortFrom(w.Server(), 5000).String())
	w.must(err)
	defer atServer.Close()
	atClient, err := w.client.ListenPacket("udp6", "[::]:7000")
	w.must(err)
	defer atClient.Close()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	w.must(traffic.Exchange(w.dial(w.client, "udp", 0, w.embedded(7)), noise(1))) // neighbours are known
	six, four := w.rawSocket(w.client, unix.AF_INET6), w.rawSocket(w.server, unix.AF_INET)
	client, server6 := netip.MustParseAddr(clientAddr), lab.Embed(w.Server())
	for i := range 40 {
		data := noise(1001 + rand.IntN(60000))
		src, dst := netip.AddrPortFrom(w.Server(), 5001), netip.AddrPortFrom(lab.Pool4, 7000)
		for _, p := range shuffled(src.Addr(), dst.Addr(), uint16(i+1), udp4(src, dst, data)) {
			w.must(unix.Sendto(four, p, 0, &unix.SockaddrInet4{Addr: dst.Addr().As4()}))
		}
		w.receives(atClient, data)

		src, dst = netip.AddrPortFrom(client, 5002), netip.AddrPortFrom(server6, 5000)
		b := binary.BigEndian.AppendUint16([]byte{5002 >> 8, 5002 & 0xff, 5000 >> 8, 5000 & 0xff}, uint16(8+len(data)))
		b = append(append(b, 0, 0), data...)
		seal(b, 6, slices.Concat(src.Addr().AsSlice(), dst.Addr().AsSlice(), []byte{0, 0}, b[4:6], []byte{0, 0, 0, 17}))
		for _, p := range shuffled(src.Addr(), dst.Addr(), uint16(i+1), b) {
			w.must(unix.Sendto(six, p, 0, &unix.SockaddrInet6{Addr: dst.Addr().As16()}))
		}
		w.receives(atServer, data)
	}
	if s := w.stats(); s.Drops["fragment_duplicate"]+s.Drops["fragment_no_first"] == 0 {
		t.Errorf("no duplicate was seen: %v", s.Drops)
	}
}

// receives waits for one datagram.
func (w *world) receives(c net.PacketConn, data []byte) {
	w.t.Helper()
	w.must(c.SetReadDeadline(time.Now().Add(5 * time.Second)))
	buf := make([]byte, 1<<16)
	n, _, err := c.ReadFrom(buf)
	w.must(err)
	if !bytes.Equal(buf[:n], data) {
		w.t.Fatalf("%d octets arrived that differ from the %d that were sent", n, len(data))
	}
}

// TestFragmentsOfTheHostItself: datagrams for a port of the host's, and pings
// of its address, reach its kernel whatever their size.
func TestFragmentsOfTheHostItself(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.echoUDP(w.nat64, "udp4", netip.AddrPortFrom(lab.Pool4, 500).String())
	c := w.dial(w.server, "udp", 0, netip.AddrPortFrom(lab.Pool4, 500).String())
	for _, n := range largeDatagrams {
		w.must(traffic.Exchange(c, noise(n)))
	}
	p := w.pinger(w.server, "ip4", 0)
	for _, size := range []int{56, 1472, 1473, 9000, 65000} {
		a, err := p.Ping(w.ctx, lab.Pool4, size, 0)
		w.must(err)
		if !a.Reply() {
			t.Errorf("ping with %d octets: %+v", size, a)
		}
	}
	if s := w.stats(); s.Passed.IPv4 < 100 {
		t.Errorf("%d packets were passed to the kernel", s.Passed.IPv4)
	}
}

// TestHandoffFragments: datagrams in fragments over new mappings, each of which
// a handoff server has to be asked for. Its answers, with the first fragment in
// them, are larger than the link and come in fragments themselves.
func TestHandoffFragments(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.adopted()
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	before := w.stats()
	for i := range 20 {
		c := w.dial(w.client, "udp", 30000+i, w.embedded(7))
		for _, n := range []int{1453, 3000, 20000} {
			w.must(traffic.Exchange(c, noise(n)))
		}
	}
	s := w.stats()
	if n := s.Handoff.Queries - before.Handoff.Queries; n < 20 {
		t.Errorf("%d queries, want one for each of 20 mappings", n)
	}
	if n := s.Passed.IPv4 - before.Passed.IPv4; n < 40 {
		t.Errorf("%d fragments of control datagrams were passed to the kernel, want two for each answer", n)
	}
}
