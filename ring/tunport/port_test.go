package tunport_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"handoff64/ring"
	"handoff64/ring/memport"
	"handoff64/ring/tunport"
)

const (
	ours   = "192.0.2.1"
	theirs = "198.51.100.1"
	// patience is how long the kernel may take; no test passes faster or slower for it.
	patience = 10 * time.Second
)

// rig is a TUN device with as many queues as it has stacks, in a network
// namespace of its own, up and with the address ours.
type rig struct {
	t      *testing.T
	umem   *ring.UMEM
	stacks []*ring.FrameStack
	dev    *tunport.Device
}

func newRig(t *testing.T, queues int) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // not unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	// No solicitations among the packets of the tests.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	umem, all, err := memport.NewUMEM(8*queues, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, umem: umem}
	for range queues {
		s := ring.NewFrameStack(8*queues, 2048)
		for range 8 {
			f, _ := all.Pop()
			s.Push(f)
		}
		r.stacks = append(r.stacks, s)
	}
	if r.dev, err = tunport.Open(tunport.Config{Name: "nat64test", UMEM: umem, Workers: r.stacks}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("nat64test")
	if err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(ours).To4(), Mask: net.CIDRMask(32, 32)}}
	to := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP(theirs).To4(), Mask: net.CIDRMask(32, 32)}}
	for _, err := range []error{
		netlink.LinkSetMulticastOff(link), netlink.AddrAdd(link, addr), netlink.LinkSetUp(link), netlink.RouteAdd(to),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		r.census()
		if err := r.dev.Close(); err != nil {
			t.Error(err)
		}
		umem.Close()
	})
	return r
}

// census asserts that every frame is in a stack, or in the hands given.
func (r *rig) census(hands ...ring.Desc) {
	r.t.Helper()
	var places []ring.Place
	for i, s := range r.stacks {
		places = append(places, ring.Place{Name: "stack", Frames: s.Frames()})
		places = append(places, r.dev.Ports()[i].Places()...)
	}
	var held []uint64
	for _, d := range hands {
		held = append(held, d.Addr)
	}
	if err := ring.Census(r.umem, append(places, ring.Place{Name: "hands", Frames: held})...); err != nil {
		r.t.Error(err)
	}
}

// frame puts a packet into a free frame of the queue.
func (r *rig) frame(queue int, packet []byte) ring.Desc {
	addr, ok := r.stacks[queue].Pop()
	if !ok {
		r.t.Fatal("no free frame")
	}
	d := ring.Desc{Addr: addr + ring.Headroom, Len: uint32(len(packet))}
	copy(r.umem.Packet(d), packet)
	return d
}

// recv waits for one packet on any queue.
func (r *rig) recv() (queue int, d ring.Desc) {
	r.t.Helper()
	descs := make([]ring.Desc, 1)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var fds []unix.PollFd
		for q, p := range r.dev.Ports() {
			if p.Recv(descs) == 1 {
				return q, descs[0]
			}
			fds = append(fds, unix.PollFd{Fd: int32(p.PollFD()), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(fds, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			r.t.Fatal(err)
		}
	}
	r.t.Fatal("nothing came")
	return 0, ring.Desc{}
}

func udp(t *testing.T, payload string) []byte {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(theirs), DstIP: net.ParseIP(ours)}
	u := &layers.UDP{SrcPort: 4000, DstPort: 4001}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, u, gopacket.Payload(payload))
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A datagram that a worker sends reaches a socket of the host, and the answer
// comes back as an Ethernet frame with headroom in front.
func TestThereAndBack(t *testing.T) {
	for _, queues := range []int{1, 3} {
		r := newRig(t, queues)
		sock, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(ours+":4001")))
		if err != nil {
			t.Fatal(err)
		}
		defer sock.Close()
		sock.SetDeadline(time.Now().Add(patience))
		for q := range queues {
			d := r.frame(q, udp(t, "to the host"))
			if n := r.dev.Ports()[q].Send([]ring.Desc{d}); n != 1 {
				t.Fatalf("queue %d took %d packets: %v", q, n, r.failed())
			}
			r.census()
			buf := make([]byte, 100)
			n, from, err := sock.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != "to the host" {
				t.Fatalf("queue %d: received %q, %v", q, buf[:n], err)
			}
			if _, err := sock.WriteToUDPAddrPort([]byte("from the host"), from); err != nil {
				t.Fatal(err)
			}
			got, back := r.recv()
			r.checkAnswer(back)
			r.census(back)
			r.stacks[got].Push(back.Addr)
		}
	}
}

func (r *rig) checkAnswer(d ring.Desc) {
	r.t.Helper()
	if at := d.Addr % 2048; at != ring.Headroom {
		r.t.Errorf("the frame begins at %d, want %d", at, ring.Headroom)
	}
	b := r.umem.Packet(d)
	if !bytes.Equal(b[:12], make([]byte, 12)) || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
		r.t.Errorf("Ethernet header % x", b[:14])
	}
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if app := p.ApplicationLayer(); app == nil || string(app.Payload()) != "from the host" {
		r.t.Errorf("the host answered %v", p)
	}
	if u, ok := p.TransportLayer().(*layers.UDP); !ok || u.SetNetworkLayerForChecksum(p.NetworkLayer()) != nil {
		r.t.Fatalf("not UDP: %v", p)
	}
	if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
		r.t.Errorf("checksums: %v %v", err, bad)
	}
}

func (r *rig) failed() (all []error) {
	for _, p := range r.dev.Ports() {
		_, err := p.Errors()
		all = append(all, err)
	}
	return all
}

// A packet that the kernel refuses keeps its frame and ends the burst; those
// behind it can be offered again. The refusal is counted.
func TestRefusedPacket(t *testing.T) {
	r := newRig(t, 1)
	p := r.dev.Ports()[0]
	good := r.frame(0, udp(t, "x"))
	short := r.frame(0, make([]byte, 14))
	neither := r.frame(0, make([]byte, 60)) // IP version 0
	for _, bad := range []ring.Desc{short, neither} {
		before, _ := p.Errors()
		if n := p.Send([]ring.Desc{bad, good}); n != 0 {
			t.Fatalf("took %d packets", n)
		}
		if after, last := p.Errors(); after != before+1 || last == nil {
			t.Errorf("%d errors after %d, the last %v", after, before, last)
		}
		r.census(good, short, neither)
	}
	if n := p.Send([]ring.Desc{good, neither}); n != 1 {
		t.Fatalf("took %d packets, want the first", n)
	}
	r.stacks[0].Push(short.Addr)
	r.stacks[0].Push(neither.Addr)
}

func TestDeviceThatIsDown(t *testing.T) {
	r := newRig(t, 1)
	link, err := netlink.LinkByIndex(r.dev.Index())
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	d := r.frame(0, udp(t, "x"))
	if n := r.dev.Ports()[0].Send([]ring.Desc{d}); n != 0 {
		t.Error("a device that is down took a packet")
	}
	if _, last := r.dev.Ports()[0].Errors(); !errors.Is(last, unix.EIO) {
		t.Errorf("the error is %v", last)
	}
	r.stacks[0].Push(d.Addr)
}

// Without free frames packets stay in the queue; what the queue has no room for
// the device counts.
func TestNoFreeFrames(t *testing.T) {
	r := newRig(t, 1)
	sock, err := net.Dial("udp4", theirs+":9")
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	const sent = 2000 // more than a queue holds (txqueuelen 500, or 1000)
	for range sent {
		if _, err := sock.Write([]byte("x")); err != nil && !errors.Is(err, unix.ENOBUFS) {
			t.Fatal(err)
		}
	}
	descs := make([]ring.Desc, 20)
	n := r.dev.Ports()[0].Recv(descs)
	if n != 8 || r.stacks[0].Len() != 0 {
		t.Fatalf("%d packets with 8 frames, %d left", n, r.stacks[0].Len())
	}
	r.census(descs[:n]...)
	if m := r.dev.Ports()[0].Recv(descs[n:]); m != 0 {
		t.Fatalf("%d packets without frames", m)
	}
	total := n
	for n > 0 {
		for _, d := range descs[:n] {
			r.stacks[0].Push(d.Addr)
		}
		n = r.dev.Ports()[0].Recv(descs)
		total += n
	}
	lost, err := r.dev.Lost()
	if err != nil || lost == 0 || total+int(lost) != sent {
		t.Errorf("%d received and %d lost of %d, %v", total, lost, sent, err)
	}
}

func TestNameIsTaken(t *testing.T) {
	r := newRig(t, 1)
	c := tunport.Config{Name: r.dev.Name(), UMEM: r.umem, Workers: r.stacks}
	if d, err := tunport.Open(c); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second device of the name: %v, %v", d, err)
	}
	c.Name = "a name that is too long"
	if d, err := tunport.Open(c); err == nil {
		t.Errorf("%q was accepted: %v", c.Name, d)
	}
}

func TestPollDoesNotAllocate(t *testing.T) {
	r := newRig(t, 1)
	p := r.dev.Ports()[0]
	packet := udp(t, "x")
	descs := make([]ring.Desc, 4)
	send := make([]ring.Desc, 1)
	if n := testing.AllocsPerRun(100, func() {
		send[0] = r.frame(0, packet)
		p.Send(send)
		for _, d := range descs[:p.Recv(descs)] { // port unreachable
			r.stacks[0].Push(d.Addr)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a packet", n)
	}
}

func TestDeviceGoesWithClose(t *testing.T) {
	r := newRig(t, 2)
	name := r.dev.Name()
	if err := r.dev.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName(name); err == nil {
		t.Error("the device is still there")
	}
	var err error
	if r.dev, err = tunport.Open(tunport.Config{Name: name, UMEM: r.umem, Workers: r.stacks}); err != nil {
		t.Fatal(err)
	}
}
