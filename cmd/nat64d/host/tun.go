package host

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TUN says what a TUN device is to be for the host. Nothing of it has to be
// given back: it ends with the device.
type TUN struct {
	Name string
	MTU  int // 0: as it is

	// Pool6 are the prefixes that the host itself reaches through the device,
	// LocalIPv6 its address there; none if it only brings packets to the kernel.
	Pool6     []netip.Prefix
	LocalIPv6 netip.Addr
}

// dummyAddress is the IPv4 address of the TUN device (RFC 7600 §4.8, 192.0.0.8). The
// kernel's loose reverse path check refuses everything from a device that has
// none; with scope host nothing is ever sent from it.
var dummyAddress = &netlink.Addr{
	IPNet: &net.IPNet{IP: net.IPv4(192, 0, 0, 8).To4(), Mask: net.CIDRMask(32, 32)},
	Scope: unix.RT_SCOPE_HOST,
}

// setting is a kernel setting of an interface, whose name takes the place of %s.
type setting struct{ file, value string }

// tunSettings are for a device whose packets come from hosts behind other
// interfaces. It is no link on which anybody could be discovered: no addresses
// of its own making, no solicitations.
var tunSettings = []setting{
	{"/proc/sys/net/ipv4/conf/%s/rp_filter", "2"},
	{"/proc/sys/net/ipv6/conf/%s/addr_gen_mode", "1"},
	{"/proc/sys/net/ipv6/conf/%s/accept_ra", "0"},
	{"/proc/sys/net/ipv6/conf/%s/router_solicitations", "0"},
}

// localSettings come on top where the host itself uses the device.
var localSettings = []setting{{"/proc/sys/net/ipv6/conf/%s/disable_ipv6", "0"}}

// SetUpTUN makes a TUN device ready to bring packets to the kernel and, with
// Pool6, to take the host's own.
func SetUpTUN(t TUN) error {
	settings := tunSettings
	if len(t.Pool6) > 0 {
		settings = append(settings[:len(settings):len(settings)], localSettings...)
	}
	if err := set(settings, t.Name, len(t.Pool6) > 0); err != nil {
		return err
	}
	link, err := netlink.LinkByName(t.Name)
	if err != nil {
		return fmt.Errorf("TUN device %s: %w", t.Name, err)
	}
	if err := netlink.AddrAdd(link, dummyAddress); err != nil {
		return fmt.Errorf("give TUN device %s its address: %w", t.Name, err)
	}
	if err := netlink.LinkSetMulticastOff(link); err != nil {
		return fmt.Errorf("TUN device %s: multicast off: %w", t.Name, err)
	}
	if err := SetTUNMTU(t.Name, t.MTU); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set TUN device %s up: %w", t.Name, err)
	}
	if len(t.Pool6) > 0 {
		return route(link, t)
	}
	return nil
}

// SetTUNMTU changes the device's MTU; 0 leaves it.
func SetTUNMTU(name string, mtu int) error {
	if mtu == 0 {
		return nil
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("TUN device %s: MTU %d: %w", name, mtu, err)
	}
	return nil
}

// set writes the settings; those of IPv6 may be missing where the host does not need it.
func set(settings []setting, name string, ipv6 bool) error {
	for _, s := range settings {
		file := fmt.Sprintf(s.file, name)
		err := os.WriteFile(file, []byte(s.value), 0o644)
		if errors.Is(err, fs.ErrNotExist) && !ipv6 && strings.HasPrefix(s.file, "/proc/sys/net/ipv6/") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("kernel setting of the TUN device: %w", err)
		}
	}
	return nil
}

// route leads the host's packets for the prefixes into the device. The device's
// own address is deprecated from the start (RFC 6724, rule 3): the kernel takes
// it as a source only on a host that has no other global IPv6 address.
func route(link netlink.Link, t TUN) error {
	addr := &netlink.Addr{
		IPNet: &net.IPNet{IP: t.LocalIPv6.AsSlice(), Mask: net.CIDRMask(128, 128)},
		Flags: unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE, PreferedLft: 0, ValidLft: math.MaxUint32,
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give TUN device %s the address %s: %w", t.Name, t.LocalIPv6, err)
	}
	for _, p := range t.Pool6 {
		p = p.Masked()
		to := &netlink.Route{
			Family: netlink.FAMILY_V6, LinkIndex: link.Attrs().Index,
			Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)},
		}
		if err := netlink.RouteAdd(to); err != nil {
			return fmt.Errorf("route %s through %s (is there another route for the prefix? ip -6 route show %s): %w", p, t.Name, p, err)
		}
	}
	return nil
}

// LocalIPv6 is a unique local address (RFC 4193) that stays the same over
// restarts, as sessions do: its 40 bits of global ID come from the hardware
// address.
func LocalIPv6(mac [6]byte) netip.Addr {
	sum := sha256.Sum256(append([]byte("nat64d local_traffic "), mac[:]...))
	a := [16]byte{0: 0xfd, 15: 1}
	copy(a[1:6], sum[:5])
	return netip.AddrFrom16(a)
}
