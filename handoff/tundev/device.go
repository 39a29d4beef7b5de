// Package tundev makes the TUN device over which a handoff server hands
// translated packets to this host's programs and takes their answers.
//
//	Open (CAP_NET_ADMIN) ─► device, MTU, reverse path filter, up, address, route to the pool
//	Read ◄── the kernel's packets for the pool: several segments a call (TSO, USO)
//	Write ──► packets for this host, as if they came from a network: coalesced (GRO)
//
// Nothing about the device outlives the process, however that ends: it is not
// persistent, and its routes and settings go with it. After Open no privilege
// is needed any more.
package tundev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// devicePath is where the kernel gives out TUN devices.
const devicePath = "/dev/net/tun"

// Offset is what must be free in front of each packet in a buffer: the kernel's
// description of its checksum and segments goes there (struct virtio_net_hdr).
const Offset = 10

// Config says what Open makes. A plain value.
type Config struct {
	Name string
	MTU  int
	// Address is the device's own. Its scope is the host: answers of programs that
	// did not choose their address never leave from there. The kernel's loose
	// reverse path filter accepts nothing on a device without any.
	Address netip.Addr
	// Pool is routed to the device, unless it is not valid.
	Pool netip.Prefix
}

// Device is the open device. One goroutine may read while others write.
type Device struct {
	tun.Device
	name string
}

// errTaken: a device or a route that is somebody else's.
var errTaken = errors.New("it is somebody else's")

// Open makes the device. One of that name that is there already is an error, but
// for that of a process which is just ending.
func Open(c Config) (*Device, error) {
	fd, err := attach(c.Name)
	for range 20 {
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
		fd, err = attach(c.Name)
	}
	if err != nil {
		return nil, err
	}
	t, name, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TUN device %s: %w", c.Name, err), unix.Close(fd))
	}
	d := &Device{t, name}
	if err := d.configure(c); err != nil {
		return nil, errors.Join(fmt.Errorf("TUN device %s: %w", name, err), d.Close())
	}
	return d, nil
}

// attach makes the device and returns its descriptor.
func attach(name string) (int, error) {
	fd, err := unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s (the kernel's tun module, and access to the file): %w", devicePath, err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("TUN device %q: a name has 1 to 15 octets: %w", name, err), unix.Close(fd))
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("a device of that name is there: %w", err)
		} else if errors.Is(err, unix.EPERM) {
			err = fmt.Errorf("needs CAP_NET_ADMIN: %w", err)
		}
		return -1, errors.Join(fmt.Errorf("make the TUN device %s: %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// configure gives the device all it needs but packets.
func (d *Device) configure(c Config) error {
	link, err := netlink.LinkByName(d.name)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
		return fmt.Errorf("set the MTU to %d: %w", c.MTU, err)
	}
	// No link-local address: the kernel would ask for IPv6 routers here. A kernel
	// without IPv6 has nothing to switch off.
	if err := netlink.LinkSetIP6AddrGenMode(link, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("keep IPv6 off: %w", err)
	}
	if err := looseReversePath(link.Attrs().Index); err != nil {
		return fmt.Errorf("set its reverse path filter: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	if c.Pool.IsValid() {
		if err := free(c.Pool); err != nil {
			return err
		}
	}
	own := netip.PrefixFrom(c.Address, c.Address.BitLen())
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(own), Scope: unix.RT_SCOPE_HOST}); err != nil {
		return fmt.Errorf("give it the address %v: %w", c.Address, err)
	}
	if !c.Pool.IsValid() {
		return nil
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: ipNet(c.Pool)}
	if err := netlink.RouteAdd(route); err != nil {
		return fmt.Errorf("route %v to it: %w", c.Pool, err)
	}
	return nil
}

// looseReversePath accepts sources that any interface leads to (rp_filter 2): in
// mixed mode packets come in here from an address whose route leads elsewhere.
// The stricter of this and of net.ipv4.conf.all.rp_filter would count, but loose
// is the larger number, and the larger one counts. Set over netlink, because
// /proc/sys is read-only for a service that systemd protects.
func looseReversePath(index int) error {
	const (
		inetConf = 1 // IFLA_INET_CONF
		rpFilter = 8 // IPV4_DEVCONF_RP_FILTER
		loose    = 2
	)
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil)
	conf.AddRtAttr(rpFilter, nl.Uint32Attr(loose))
	req.AddData(spec)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("ask the kernel: %w", err)
	}
	return nil
}

// free says whether nothing that this host has a route or an address for lies in
// the pool, but for default routes.
func free(pool netip.Prefix) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	for i := range routes {
		p, ok := prefixOf(routes[i].Dst)
		if ok && p.Bits() > 1 && p.Overlaps(pool) {
			return fmt.Errorf("pool %v overlaps the route to %v of this host, choose another one with --pool: %w", pool, p, errTaken)
		}
	}
	return nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok && a.Unmap().Is4()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Closed says whether an error of Read or Write means that the device is gone.
func Closed(err error) bool { return errors.Is(err, os.ErrClosed) }

// Name of the interface.
func (d *Device) Name() string { return d.name }

// UpstreamMTU is the MTU of the interface that the default route leads to, or
// otherwise when there is none.
func UpstreamMTU(otherwise int) int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return otherwise
	}
	for i := range routes {
		if p, ok := prefixOf(routes[i].Dst); ok && p.Bits() != 0 || routes[i].LinkIndex == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(routes[i].LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return otherwise
}
