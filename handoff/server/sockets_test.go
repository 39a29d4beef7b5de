package server

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of its own, where lo has the
// addresses of a server and of a NAT64.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not run: making a network namespace needs root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	outside, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	inside, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	defer func() {
		if err := netns.Set(outside); err != nil {
			panic("the thread cannot get back into its network namespace: " + err.Error())
		}
	}()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"198.51.100.1/32", "192.0.2.7/32"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	f()
}

// TestKernelSockets: the kernel names the peers of TCP and UDP sockets, those of
// IPv6 sockets with IPv4 connections among them.
//
//	lo: server 198.51.100.1 ←─ TCP from :5001 (to 0.0.0.0), TCP from :5002 (to [::]), UDP :5003 ── NAT64 192.0.2.7
func TestKernelSockets(t *testing.T) {
	inNamespace(t, func() {
		var open []int
		defer func() {
			for _, fd := range open {
				unix.Close(fd)
			}
		}()
		listen4 := socketOf(t, &open, unix.AF_INET, unix.SOCK_STREAM)
		bindTo(t, listen4, &unix.SockaddrInet4{Port: 80, Addr: ownAddr})
		listen6 := socketOf(t, &open, unix.AF_INET6, unix.SOCK_STREAM)
		bindTo(t, listen6, &unix.SockaddrInet6{Port: 8080})
		for _, c := range []struct{ listener, from, to int }{{listen4, 5001, 80}, {listen6, 5002, 8080}} {
			if err := unix.Listen(c.listener, 1); err != nil {
				t.Fatal(err)
			}
			client := socketOf(t, &open, unix.AF_INET, unix.SOCK_STREAM)
			bindTo(t, client, &unix.SockaddrInet4{Port: c.from, Addr: nat64Addr})
			if err := unix.Connect(client, &unix.SockaddrInet4{Port: c.to, Addr: ownAddr}); err != nil {
				t.Fatal(err)
			}
			fd, _, err := unix.Accept(c.listener)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, fd)
		}
		udp := socketOf(t, &open, unix.AF_INET, unix.SOCK_DGRAM)
		if err := unix.Connect(udp, &unix.SockaddrInet4{Port: 5003, Addr: nat64Addr}); err != nil {
			t.Fatal(err)
		}

		k := &kernelSockets{}
		live, number, err := k.view(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []uint16{5001, 5002, 5003} {
			if _, ok := live[peer{nat64Addr, p}]; !ok {
				t.Errorf("the socket with peer port %d is not in %v", p, live)
			}
		}
		if _, ok := live[peer{nat64Addr, 5004}]; ok || len(live) > 10 {
			t.Errorf("too many: %v", live)
		}
		// Closed sockets are gone at the next look, and there is none before its time.
		unix.Close(udp)
		open = open[:len(open)-1]
		if _, n, _ := k.view(1 + viewAge.Microseconds() - 1); n != number {
			t.Error("looked again too early")
		}
		live, n, err := k.view(1 + viewAge.Microseconds())
		if _, ok := live[peer{nat64Addr, 5003}]; ok || n == number || err != nil {
			t.Errorf("look %d: the closed socket is there: %v (%v)", n, live, err)
		}
		evictAround(t, k)
	})
}

// evictAround: with the kernel's list the entries of live sockets stay.
func evictAround(t *testing.T, k *kernelSockets) {
	t.Helper()
	x := newAuthenticated(t, 4, k)
	x.h.now = time.Hour.Microseconds()
	for n := range uint16(4) {
		x.want(notification(5001+n, clientAddr, 1+n), notified)
	}
	for n := range uint16(6) {
		x.want(query(clientAddr, 100+n, 0), answered)
	}
	c := x.channel()
	if c.findMapped(5001) == 0 || c.findMapped(5002) == 0 || c.findMapped(5003) != 0 || c.findMapped(5004) != 0 {
		t.Error("not the entries without a socket were deleted")
	}
}

func socketOf(t *testing.T, open *[]int, family, kind int) int {
	t.Helper()
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		t.Fatal(err)
	}
	*open = append(*open, fd)
	return fd
}

func bindTo(t *testing.T, fd int, a unix.Sockaddr) {
	t.Helper()
	if err := unix.Bind(fd, a); err != nil {
		t.Fatal(err)
	}
}

func TestLiveSetTakesWhatIsLive(t *testing.T) {
	l := liveSet{}
	l.add(netlink.TCP_ESTABLISHED, net.ParseIP("::ffff:192.0.2.7"), 1)
	l.add(netlink.TCP_ESTABLISHED, net.IPv4(192, 0, 2, 7), 2)
	l.add(netlink.TCP_TIME_WAIT, net.IPv4(192, 0, 2, 7), 3)
	l.add(netlink.TCP_CLOSE, net.IPv4(192, 0, 2, 7), 4)
	l.add(netlink.TCP_LISTEN, net.IPv4zero, 0)
	l.add(netlink.TCP_ESTABLISHED, net.ParseIP("2001:db8::1"), 5)
	if _, ok := l[peer{nat64Addr, 0}]; len(l) != 3 || !ok { // port 0 stands for any
		t.Fatalf("%v", l)
	}
}
