package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// linkTimeout bounds the wait for a new link's carrier to be noticed, which
// the kernel does in the background within milliseconds.
const linkTimeout = 10 * time.Second

// build makes everything that the topology lists.
func (l *Lab) build() error {
	if err := l.writeState(); err != nil {
		return err
	}
	if err := shareNetnsDir(); err != nil {
		return err
	}
	for _, host := range l.topology.hosts {
		if err := makeNamespace(l.Host(host).Namespace()); err != nil {
			return err
		}
		if err := l.settle(l.Host(host)); err != nil {
			return err
		}
	}
	for _, k := range l.topology.links {
		if err := l.connect(k); err != nil {
			return fmt.Errorf("link %s-%s: %w", k.a.host, k.b.host, err)
		}
	}
	for _, r := range l.topology.routes {
		if err := l.Host(r.host).Enter(func() error { return addRoute(r) }); err != nil {
			return fmt.Errorf("host %s: route via %s: %w", r.host, r.via, err)
		}
	}
	return nil
}

// shareNetnsDir makes the folder of named namespaces a shared mount of its own,
// as the first `ip netns add` would. Were that to come after us, it would put
// the folder on top of itself, namespaces included, and the lower ones could
// no longer be unmounted.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("folder of namespaces: %w", err)
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return fmt.Errorf("folder of namespaces: %w", err)
	}
	defer dir.Close()
	// iproute2 takes this lock for the same purpose.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", netnsDir, err)
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount yet
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", netnsDir, err)
	}
	return nil
}

// makeNamespace creates a named namespace and leaves the caller where it was.
func makeNamespace(name string) error {
	made := make(chan error, 1)
	// The thread that creates a namespace ends up inside it. It is not
	// unlocked, so it ends with this goroutine and nothing else runs on it.
	go func() {
		runtime.LockOSThread()
		handle, err := netns.NewNamed(name)
		if err == nil {
			err = handle.Close()
		}
		made <- err
	}()
	if err := <-made; err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	return nil
}

// settings are the sysctls of the hosts. The nat64 host keeps the kernel's
// defaults as far as forwarding goes: nothing but nat64d may carry packets
// through it.
func settings(host string) [][2]string {
	all := [][2]string{
		// Addresses are usable at once; nobody else is on these links.
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/all/accept_ra", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		// A link that goes down and up again keeps its addresses, as those
		// of routers do.
		{"ipv6/conf/all/keep_addr_on_down", "1"},
		{"ipv6/conf/default/keep_addr_on_down", "1"},
		// A new MAC address is announced to the neighbours.
		{"ipv4/conf/all/arp_notify", "1"},
		{"ipv4/conf/default/arp_notify", "1"},
		{"ipv6/conf/all/ndisc_notify", "1"},
		{"ipv6/conf/default/ndisc_notify", "1"},
	}
	if host == "nat64" || host == SecondNat64 {
		return all
	}
	// Tests count the ICMP errors that come back: the kernels that send them
	// must not hold any back.
	all = append(all, [][2]string{
		{"ipv4/icmp_ratelimit", "0"},
		{"ipv6/icmp/ratelimit", "0"},
	}...)
	if host == "r4" || strings.HasPrefix(host, "server") {
		all = append(all, [][2]string{
			{"ipv6/conf/all/disable_ipv6", "1"},
			{"ipv6/conf/default/disable_ipv6", "1"},
		}...)
	}
	switch host {
	case "r6":
		all = append(all, [2]string{"ipv6/conf/all/forwarding", "1"})
	case "r4":
		all = append(all, [2]string{"ipv4/ip_forward", "1"})
	}
	return all
}

// settle applies the sysctls and brings the loopback interface up.
func (l *Lab) settle(h Host) error {
	for _, s := range settings(h.Name) {
		if err := h.SetSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return h.SetLink("lo", true)
}

// connect makes a veth pair, both ends in place from the start.
func (l *Lab) connect(k link) error {
	far, err := l.namespaceOf(k.b.host)
	if err != nil {
		return err
	}
	defer far.Close()
	queues := l.Options.Queues
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: k.a.ifname, MTU: k.mtu, TxQLen: -1, NumTxQueues: queues, NumRxQueues: queues})
	veth.PeerName, veth.PeerNamespace, veth.PeerMTU = k.b.ifname, netlink.NsFd(far), uint32(k.mtu)
	veth.PeerNumTxQueues, veth.PeerNumRxQueues = uint32(queues), uint32(queues)
	if err := l.Host(k.a.host).Enter(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("create veth pair %s/%s: %w", k.a.ifname, k.b.ifname, err)
	}
	for _, e := range []end{k.a, k.b} {
		if err := l.Host(e.host).Enter(func() error { return configure(e) }); err != nil {
			return fmt.Errorf("host %s: %w", e.host, err)
		}
	}
	for _, e := range []end{k.a, k.b} {
		if err := l.Host(e.host).Enter(func() error { return awaitCarrier(e.ifname) }); err != nil {
			return fmt.Errorf("host %s: %w", e.host, err)
		}
	}
	return nil
}

// configure prepares one end in the current namespace.
func configure(e end) error {
	dev, err := netlink.LinkByName(e.ifname)
	if err != nil {
		return fmt.Errorf("interface %s: %w", e.ifname, err)
	}
	if err := setFeatures(e.ifname, false, offloads); err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(e.addr), Flags: unix.IFA_F_NODAD}
	if e.addr.Addr().Is4() {
		addr.Flags = 0
	}
	if err := netlink.AddrAdd(dev, addr); err != nil {
		return fmt.Errorf("interface %s: add address %s: %w", e.ifname, e.addr, err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		return fmt.Errorf("interface %s: set up: %w", e.ifname, err)
	}
	return nil
}

// awaitCarrier waits until the kernel regards the link as usable, which is
// when routes over it come to life.
func awaitCarrier(ifname string) error {
	deadline := time.Now().Add(linkTimeout)
	for {
		dev, err := netlink.LinkByName(ifname)
		if err != nil {
			return fmt.Errorf("interface %s: %w", ifname, err)
		}
		if dev.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s: still %s after %s", ifname, dev.Attrs().OperState, linkTimeout)
		}
		time.Sleep(time.Millisecond)
	}
}

// addRoute adds it in the current namespace.
func addRoute(r route) error {
	family, to := netlink.FAMILY_V6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if r.via.Is4() {
		family, to = netlink.FAMILY_V4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	if r.to.IsValid() {
		to = r.to
	}
	// The kernel finds the interface from the gateway, which is on a link.
	return netlink.RouteAdd(&netlink.Route{Family: family, Dst: ipNet(to), Gw: r.via.AsSlice(), AdvMSS: r.advMSS})
}

// AddDefaultRoute gives the host a default route of the gateway's family.
func (h Host) AddDefaultRoute(via netip.Addr) error {
	if err := h.Enter(func() error { return addRoute(route{via: via}) }); err != nil {
		return fmt.Errorf("host %s: default route via %s: %w", h.Name, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hasHost says whether the topology has that host.
func (l *Lab) hasHost(name string) bool { return slices.Contains(l.topology.hosts, name) }
