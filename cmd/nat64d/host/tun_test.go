package host

import (
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSetUpTUN(t *testing.T) {
	inNamespace(t)
	tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "nat64"}, Mode: netlink.TUNTAP_MODE_TUN, NonPersist: true, Queues: 1}
	if err := netlink.LinkAdd(tun); err != nil {
		t.Fatal(err)
	}
	defer tun.Fds[0].Close()
	if err := SetUpTUN("nat64"); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("nat64")
	if err != nil {
		t.Fatal(err)
	}
	if link.Attrs().RawFlags&(unix.IFF_UP|unix.IFF_MULTICAST) != unix.IFF_UP {
		t.Errorf("flags %#x: not up, or multicast", link.Attrs().RawFlags)
	}
	if got := setting(t, "ipv4/conf/nat64/rp_filter"); got != "2" {
		t.Errorf("rp_filter is %s", got)
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].IP.String() != "192.0.0.8" || all[0].Scope != unix.RT_SCOPE_HOST {
		t.Errorf("addresses %v", all)
	}
	if err := SetUpTUN("absent"); err == nil {
		t.Error("a device that is not there was set up")
	}
}

func setting(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
