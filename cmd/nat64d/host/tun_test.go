package host

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSetUpTUN(t *testing.T) {
	inNamespace(t)
	newTUN(t)
	if err := SetUpTUN(TUN{Name: "nat64"}); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("nat64")
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_MULTICAST) != unix.IFF_UP {
		t.Errorf("flags %#x: not up, or multicast", link.Attrs().RawFlags)
	}
	if got := read(t, "ipv4/conf/nat64/rp_filter"); got != "2" {
		t.Errorf("rp_filter is %s", got)
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].IP.String() != "192.0.0.8" || all[0].Scope != unix.RT_SCOPE_HOST {
		t.Errorf("addresses %v", all)
	}
	if err := SetUpTUN(TUN{Name: "absent"}); err == nil {
		t.Error("a device that is not there was set up")
	}
}

// A packet from a host behind another interface comes through the device to the
// kernel, also where all reverse paths are checked strictly.
func TestKernelAcceptsOverTUN(t *testing.T) {
	inNamespace(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	tun := newTUN(t)
	if err := SetUpTUN(TUN{Name: "nat64"}); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(peer); err != nil { // or the other end has no route
		t.Fatal(err)
	}
	sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IPv4(192, 0, 2, 10), DstIP: net.IPv4(192, 0, 2, 1)}
	u := &layers.UDP{SrcPort: 4000, DstPort: 53}
	if err := u.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, u, gopacket.Payload("fragmented once")); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	sock.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, 100)
	if n, from, err := sock.ReadFrom(got); err != nil || string(got[:n]) != "fragmented once" {
		t.Errorf("%q from %v: %v", got[:n], from, err)
	}
}

// newTUN makes a TUN device for the length of the test.
func newTUN(t *testing.T) *os.File {
	t.Helper()
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "nat64"}, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Queues: 1}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Fds[0].Close() })
	return tun.Fds[0]
}

// The host's packets for the prefixes take the device, from an address of the
// host's own if it has one and otherwise from the device's.
func TestRouteThroughTUN(t *testing.T) {
	inNamespace(t)
	newTUN(t)
	own := LocalIPv6([6]byte{2, 0, 0, 0, 0, 1})
	if !netip.MustParsePrefix("fd00::/8").Contains(own) || own == LocalIPv6([6]byte{2, 0, 0, 0, 0, 2}) {
		t.Errorf("the device's address would be %s", own)
	}
	pool6 := []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/48")}
	if err := SetUpTUN(TUN{Name: "nat64", MTU: 1520, Pool6: pool6, LocalIPv6: own}); err != nil {
		t.Fatal(err)
	}
	expect := func(source string) {
		t.Helper()
		for _, to := range []string{"64:ff9b::c633:640a", "2001:db8:64:c633:64:a00::"} {
			r, err := netlink.RouteGet(net.ParseIP(to))
			if err != nil {
				t.Fatal(err)
			}
			link, err := netlink.LinkByIndex(r[0].LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			if link.Attrs().Name != "nat64" || r[0].Src.String() != source || link.Attrs().MTU != 1520 {
				t.Errorf("to %s: through %s (MTU %d) from %s, want %s", to, link.Attrs().Name, link.Attrs().MTU, r[0].Src, source)
			}
		}
	}
	expect(own.String())
	four, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	global := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("2001:db8::1"), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrAdd(four, global); err != nil {
		t.Fatal(err)
	}
	expect("2001:db8::1")
	if err := netlink.AddrDel(four, global); err != nil {
		t.Fatal(err)
	}
	expect(own.String())
	if err := SetTUNMTU("nat64", 1400); err != nil {
		t.Fatal(err)
	}
	if link, _ := netlink.LinkByName("nat64"); link.Attrs().MTU != 1400 {
		t.Errorf("MTU %d", link.Attrs().MTU)
	}
}

// A route that somebody else made is not taken from them.
func TestRouteIsTaken(t *testing.T) {
	inNamespace(t)
	newTUN(t)
	four, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: four.Attrs().Index, Dst: &net.IPNet{IP: net.ParseIP("64:ff9b::"), Mask: net.CIDRMask(96, 128)}}); err != nil {
		t.Fatal(err)
	}
	err = SetUpTUN(TUN{Name: "nat64", Pool6: []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96")}, LocalIPv6: LocalIPv6([6]byte{1})})
	if err == nil || !strings.Contains(err.Error(), "another route") {
		t.Errorf("with another route for the prefix: %v", err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
