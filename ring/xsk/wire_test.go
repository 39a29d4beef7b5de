package xsk

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// wires is a network namespace of the test's own with two veth pairs:
//
//	six0 ═══ six1      device under test on the left, raw sockets on the right
//	four0 ══ four1
type wires struct {
	t         *testing.T
	six, four *tap
}

// newWires makes the namespace and keeps the test in it until its end.
func newWires(t *testing.T, queues int) *wires {
	t.Helper()
	needsRoot(t)
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netns.Set(home), home.Close(), own.Close()); err != nil {
			t.Error(err) // and the thread stays locked, to end with its goroutine
			return
		}
		runtime.UnlockOSThread()
	})
	w := &wires{t: t}
	w.six = w.pair("six0", "six1", queues)
	w.four = w.pair("four0", "four1", queues)
	return w
}

func (w *wires) pair(name, peer string, queues int) *tap {
	w.t.Helper()
	veth := &netlink.Veth{
		LinkAttrs:       netlink.LinkAttrs{Name: name, NumTxQueues: queues, NumRxQueues: queues, HardwareAddr: testMAC[:]},
		PeerName:        peer,
		PeerNumTxQueues: uint32(queues),
		PeerNumRxQueues: uint32(queues),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		w.t.Fatal(err)
	}
	for _, n := range []string{name, peer} {
		l, err := netlink.LinkByName(n)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			w.t.Fatal(err)
		}
	}
	return openTap(w.t, peer)
}

// programOn returns the number of the XDP program on an interface, 0 for none.
func (w *wires) programOn(name string) uint32 {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := findAttached(&link{name: name, index: l.Attrs().Index})
	if err != nil {
		w.t.Fatal(err)
	}
	if a == nil {
		return 0
	}
	return a.id
}

func (w *wires) config(mode Mode) Config {
	return Config{IPv6: "six0", IPv4: "four0", Mode: mode, Filter: testConfig(), RingSize: 512, FramesPerQueue: 2048, Log: slog.New(slog.DiscardHandler)}
}

// tap is a raw socket on one end of a wire.
type tap struct {
	t  *testing.T
	fd int
}

func openTap(t *testing.T, name string) *tap {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	all := binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)
	proto := binary.NativeEndian.Uint16(all)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: l.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
	return &tap{t: t, fd: fd}
}

func (p *tap) send(frame []byte) {
	p.t.Helper()
	for {
		err := unix.Send(p.fd, frame, 0)
		if errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		return
	}
}

// patience bounds every wait of these tests; only a failure takes that long.
const patience = 20 * time.Second

// await reads frames until match accepts one, and returns it. What the
// kernel itself sends (neighbour discovery) is skipped, and so is what this
// socket's own interface sends.
func (p *tap) await(match func(frame []byte) bool) []byte {
	p.t.Helper()
	buf := make([]byte, 4096)
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 100); err != nil && !errors.Is(err, unix.EINTR) {
			p.t.Fatal(err)
		}
		n, from, err := unix.Recvfrom(p.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && match(buf[:n]) {
			return append([]byte(nil), buf[:n]...)
		}
	}
	p.t.Fatal("the frame did not come")
	return nil
}
