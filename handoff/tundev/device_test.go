package tundev

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs a test in a network of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not run: a network namespace needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
}

func setting(t *testing.T, name, key string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/sys/net/ipv4/conf/%s/%s", name, key))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// TestOpen: what the device is given, and that all of it goes with it.
func TestOpen(t *testing.T) {
	inNamespace(t)
	pool := netip.MustParsePrefix("100.64.0.0/16")
	c := Config{Name: "handoff0", MTU: 1424, Address: pool.Addr().Next(), Pool: pool}
	d, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("handoff0")
	if err != nil || link.Attrs().MTU != 1424 || d.Name() != "handoff0" {
		t.Fatalf("%+v (%v)", link, err)
	}
	if s := setting(t, "handoff0", "rp_filter"); s != "2" {
		t.Errorf("rp_filter is %s", s)
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "100.64.0.1/32" || addrs[0].Scope != unix.RT_SCOPE_HOST {
		t.Errorf("addresses %v (%v)", addrs, err)
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil || len(routes) != 1 || routes[0].Dst.String() != "100.64.0.0/16" {
		t.Errorf("routes %v (%v)", routes, err)
	}
	if _, err := attach("handoff0"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second device of the name: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := netlink.LinkByName("handoff0"); err == nil {
		t.Error("the device is still there")
	}
	if d, err = Open(c); err != nil { // as after kill -9
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOpenRefuses: what is somebody else's stays that.
func TestOpenRefuses(t *testing.T) {
	inNamespace(t)
	lan, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("10.1.2.3/8")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(lan, addr), netlink.LinkSetUp(lan)); err != nil {
		t.Fatal(err)
	}
	for pool, want := range map[string]error{"10.9.0.0/16": errTaken, "172.16.0.0/12": nil} {
		p := netip.MustParsePrefix(pool)
		d, err := Open(Config{Name: "handoff0", MTU: 1424, Address: p.Addr().Next(), Pool: p})
		if !errors.Is(err, want) {
			t.Errorf("pool %s: %v, want %v", pool, err, want)
		}
		if err == nil {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := netlink.LinkByName("handoff0"); err == nil {
		t.Error("a device that was refused is there")
	}
	if n := UpstreamMTU(1234); n != 1234 {
		t.Errorf("without a default route the MTU is %d", n)
	}
}
