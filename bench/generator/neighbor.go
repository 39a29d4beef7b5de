package generator

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
)

// neighborPatience bounds how long a neighbour's address is waited for.
const neighborPatience = 3 * time.Second

// Source is the first address of a family on the interface that is not
// link-local: what packets come from if nobody says otherwise.
func (e *Endpoint) Source(ipv6 bool) (addr netip.Addr, err error) {
	err = e.within(func() error {
		l, err := netlink.LinkByName(e.Interface)
		if err != nil {
			return fmt.Errorf("generator: interface %q: %w", e.Interface, err)
		}
		addr, err = firstAddress(l, ipv6)
		return err
	})
	return addr, err
}

// mac is the interface's own Ethernet address.
func (e *Endpoint) mac() (mac [6]byte, err error) {
	err = e.within(func() error {
		l, err := netlink.LinkByName(e.Interface)
		if err != nil {
			return fmt.Errorf("generator: interface %q: %w", e.Interface, err)
		}
		copy(mac[:], l.Attrs().HardwareAddr)
		return nil
	})
	return mac, err
}

// Link finds the Ethernet addresses that packets from the interface to dst
// need: the kernel's route says whether dst itself or a gateway is next, and
// its neighbour table, or neighbour discovery, where that is.
func (e *Endpoint) Link(dst netip.Addr) (link traffic.Link, err error) {
	err = e.within(func() error {
		l, err := netlink.LinkByName(e.Interface)
		if err != nil {
			return fmt.Errorf("generator: interface %q: %w", e.Interface, err)
		}
		copy(link.Src[:], l.Attrs().HardwareAddr)
		hop, err := nextHop(l, dst)
		if err != nil {
			return err
		}
		mac, err := resolve(l, hop)
		copy(link.Dst[:], mac)
		return err
	})
	return link, err
}

// nextHop is the gateway to dst, or dst itself.
func nextHop(l netlink.Link, dst netip.Addr) (net.IP, error) {
	name, remedy := l.Attrs().Name, "add a route or give the destination's Ethernet address"
	routes, err := netlink.RouteGet(dst.AsSlice())
	if err != nil {
		return nil, fmt.Errorf("generator: route to %v from %q: %w; %s", dst, name, err, remedy)
	}
	for _, r := range routes {
		if r.LinkIndex != l.Attrs().Index {
			continue
		}
		if r.Gw != nil {
			return r.Gw, nil
		}
		if via, ok := r.Via.(*netlink.Via); ok {
			return via.Addr, nil
		}
		return dst.AsSlice(), nil
	}
	return nil, fmt.Errorf("generator: the route to %v does not lead through %q; %s", dst, name, remedy)
}

// resolve asks the neighbour table, and makes the kernel ask the link.
func resolve(l netlink.Link, hop net.IP) (net.HardwareAddr, error) {
	family := netlink.FAMILY_V6
	if hop.To4() != nil {
		family = netlink.FAMILY_V4
	}
	for deadline := time.Now().Add(neighborPatience); ; time.Sleep(20 * time.Millisecond) {
		all, err := netlink.NeighList(l.Attrs().Index, family)
		if err != nil {
			return nil, fmt.Errorf("generator: neighbours of %q: %w", l.Attrs().Name, err)
		}
		for _, n := range all {
			const known = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT | unix.NUD_NOARP
			if n.IP.Equal(hop) && n.State&known != 0 && len(n.HardwareAddr) == 6 {
				return n.HardwareAddr, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("generator: no answer from the neighbour %v on %q: is it up? Its Ethernet address can be given", hop, l.Attrs().Name)
		}
		if err := provoke(l, hop); err != nil {
			return nil, err
		}
	}
}

// provoke sends a datagram, for which the kernel needs the neighbour's address.
func provoke(l netlink.Link, hop net.IP) error {
	to := net.UDPAddr{IP: hop, Port: 9} // discard
	if hop.To4() == nil && hop.IsLinkLocalUnicast() {
		to.Zone = l.Attrs().Name
	}
	c, err := net.DialUDP("udp", nil, &to)
	if err != nil {
		return fmt.Errorf("generator: ask for the neighbour %v on %q: %w", hop, l.Attrs().Name, err)
	}
	_, err = c.Write([]byte{0})
	if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ECONNREFUSED) {
		err = nil // the answer to an earlier one
	}
	return errors.Join(err, c.Close())
}
