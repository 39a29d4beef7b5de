package generator

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
)

func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and AF_XDP")
	}
}

// Ethernet addresses of the two ends of a wire.
var (
	nearMAC = [6]byte{2, 0, 0, 0, 0, 0xa}
	farMAC  = [6]byte{2, 0, 0, 0, 0, 0xb}
)

// newWire keeps the test in a network namespace of its own with a veth pair,
// near and far.
func newWire(t testing.TB, queues int) {
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
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "near", NumTxQueues: queues, NumRxQueues: queues, HardwareAddr: nearMAC[:]},
		PeerName:  "far", PeerHardwareAddr: farMAC[:], PeerNumTxQueues: uint32(queues), PeerNumRxQueues: uint32(queues),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"near", "far"} {
		if err := netlink.LinkSetUp(linkNamed(t, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func linkNamed(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// wireConfig is a tester at both ends of the wire.
func wireConfig(p traffic.Protocol, ipv6 bool) Config {
	c := Config{
		Initiator: Endpoint{Interface: "near"}, Responder: Endpoint{Interface: "far"},
		InitiatorLink: traffic.Link{Dst: farMAC, Src: nearMAC}, ResponderLink: traffic.Link{Dst: nearMAC, Src: farMAC},
		Flows: traffic.Flows{
			Protocol: p, Src: netip.MustParsePrefix("198.18.0.0/28"), Dst: netip.MustParsePrefix("198.19.0.1/32"),
			SrcPorts: traffic.Ports{First: 1024, Last: 2047}, DstPorts: traffic.Ports{First: 53, Last: 54}, Count: 10_000,
		},
		Seed: 1, Verify: true,
	}
	if ipv6 {
		c.Flows.Src, c.Flows.Dst = netip.MustParsePrefix("2001:db8::/124"), netip.MustParsePrefix("64:ff9b::c612:1/128")
	}
	return c
}

func openTester(t testing.TB, c Config) *Tester {
	t.Helper()
	tester, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tester.Close(); err != nil {
			t.Error(err)
		}
	})
	return tester
}

// ownNamespace is a path to the test's network namespace, for other threads.
func ownNamespace(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
}
