package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dummyAddress is the IPv4 address of the TUN device (RFC 7600 §4.8, 192.0.0.8). The
// kernel's loose reverse path check refuses everything from a device that has
// none; with scope host nothing is ever sent from it.
var dummyAddress = &netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8).To4(), Mask: net.CIDRMask(32, 32)},
	Scope: unix.RT_SCOPE_HOST,
}

// tunSettings are the kernel settings of a TUN device whose packets come from
// hosts behind other interfaces. It is no link on which anybody could be
// discovered: no addresses of its own making, no solicitations.
var tunSettings = []struct{ file, value string }{
	{"/proc/sys/net/ipv4/conf/%s/rp_filter", "2"},
	{"/proc/sys/net/ipv6/conf/%s/addr_gen_mode", "1"},
	{"/proc/sys/net/ipv6/conf/%s/accept_ra", "0"},
	{"/proc/sys/net/ipv6/conf/%s/router_solicitations", "0"},
}

// SetUpTUN makes a TUN device ready to bring packets to the kernel. None of it
// has to be given back: it ends with the device.
func SetUpTUN(name string) error {
	for _, s := range tunSettings {
		file := fmt.Sprintf(s.file, name)
		err := os.WriteFile(file, []byte(s.value), 0o644)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.file, "/proc/sys/net/ipv6/") {
			continue // a kernel without IPv6, or with it switched off
		}
		if err != nil {
			return fmt.Errorf("kernel setting of the TUN device: %w", err)
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("TUN device %s: %w", name, err)
	}
	if err := netlink.AddrAdd(link, dummyAddress); err != nil {
		return fmt.Errorf("give TUN device %s its address: %w", name, err)
	}
	if err := netlink.LinkSetMulticastOff(link); err != nil {
		return fmt.Errorf("TUN device %s: multicast off: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set TUN device %s up: %w", name, err)
	}
	return nil
}
