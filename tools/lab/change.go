package lab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// onLink runs fn on an interface, inside the host.
func (h Host) onLink(ifname string, fn func(netlink.Link) error) error {
	err := h.Enter(func() error {
		dev, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return fn(dev)
	})
	if err != nil {
		return fmt.Errorf("host %s: interface %s: %w", h.Name, ifname, err)
	}
	return nil
}

// SetLink sets an interface up or down.
func (h Host) SetLink(ifname string, up bool) error {
	return h.onLink(ifname, func(dev netlink.Link) error {
		if up {
			return netlink.LinkSetUp(dev)
		}
		return netlink.LinkSetDown(dev)
	})
}

// SetMAC gives an interface another hardware address.
func (h Host) SetMAC(ifname string, mac net.HardwareAddr) error {
	return h.onLink(ifname, func(dev netlink.Link) error { return netlink.LinkSetHardwareAddr(dev, mac) })
}

// SetMTU changes the MTU of an interface.
func (h Host) SetMTU(ifname string, mtu int) error {
	return h.onLink(ifname, func(dev netlink.Link) error { return netlink.LinkSetMTU(dev, mtu) })
}

// AddAddress gives an interface one more address.
func (h Host) AddAddress(ifname string, p netip.Prefix) error {
	return h.onLink(ifname, func(dev netlink.Link) error {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		return netlink.AddrAdd(dev, addr)
	})
}

// AddRoute sends packets for a prefix out of an interface, without a next hop.
func (h Host) AddRoute(to netip.Prefix, ifname string) error {
	return h.onLink(ifname, func(l netlink.Link) error {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to)}); err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
		return nil
	})
}

// FlushNeighbours forgets all that the host has learnt by ARP and neighbour
// discovery on an interface, so that it must ask again.
func (h Host) FlushNeighbours(ifname string) error {
	return h.onLink(ifname, func(dev netlink.Link) error {
		known, err := netlink.NeighList(dev.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for i := range known {
			if known[i].State&(netlink.NUD_NOARP|netlink.NUD_PERMANENT) != 0 {
				continue
			}
			if err := netlink.NeighDel(&known[i]); err != nil {
				return fmt.Errorf("forget neighbour %s: %w", known[i].IP, err)
			}
		}
		return nil
	})
}

// Interface is what can be seen of an interface from outside.
type Interface struct {
	Up        bool
	Running   bool
	MTU       int
	MAC       string
	XDP       uint32 // identifier of the attached program, 0 for none
	Promisc   int
	Addresses []string
}

// Interfaces describes all interfaces of the host, by name.
func (h Host) Interfaces() (map[string]Interface, error) {
	all := make(map[string]Interface)
	err := h.Enter(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, dev := range links {
			attrs := dev.Attrs()
			i := Interface{
				Up: attrs.Flags&net.FlagUp != 0, Running: attrs.OperState == netlink.OperUp,
				MTU: attrs.MTU, MAC: attrs.HardwareAddr.String(), Promisc: attrs.Promisc,
			}
			if attrs.Xdp != nil && attrs.Xdp.Attached {
				i.XDP = attrs.Xdp.ProgId
			}
			addrs, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
			if err != nil {
				return fmt.Errorf("addresses of %s: %w", attrs.Name, err)
			}
			for _, a := range addrs {
				i.Addresses = append(i.Addresses, a.IPNet.String())
			}
			all[attrs.Name] = i
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: list interfaces: %w", h.Name, err)
	}
	return all, nil
}
