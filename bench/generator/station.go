package generator

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"handoff64/dataplane/packet"
	"handoff64/ring/xsk"
)

// Endpoint is an interface that a generator sends and receives on. Zero values
// of the rest are defaults.
type Endpoint struct {
	Interface string
	Namespace string // name below /run/netns, or a path; empty: the caller's own

	Mode           xsk.Mode
	ZeroCopy       xsk.Switch
	BusyPoll       xsk.Switch
	FramesPerQueue int
	RingSize       int
	Match          Match // MatchStamped
}

// maxQueues is how many queues of an interface are used at most: streams are
// numbered with seven bits.
const maxQueues = 64

// within runs f with the calling thread in a network namespace.
func (e *Endpoint) within(f func() error) (err error) {
	if e.Namespace == "" {
		return f()
	}
	path := e.Namespace
	if !strings.Contains(path, "/") {
		path = filepath.Join("/run/netns", path)
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		return fmt.Errorf("generator: our network namespace: %w", err)
	}
	defer home.Close()
	there, err := netns.GetFromPath(path)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("generator: network namespace %q: %w", e.Namespace, err)
	}
	defer there.Close()
	if err := netns.Set(there); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("generator: enter network namespace %q (needs CAP_SYS_ADMIN): %w", e.Namespace, err)
	}
	err = f()
	if back := netns.Set(home); back != nil {
		// The thread stays locked, to end with its goroutine.
		return errors.Join(err, fmt.Errorf("generator: return from network namespace %q: %w", e.Namespace, back))
	}
	runtime.UnlockOSThread()
	return err
}

// station is an open Endpoint.
type station struct {
	endpoint Endpoint
	device   *xsk.Device
	capture  capture
	info     xsk.Interface
	lanes    []*lane
	mtu      int // octets of the largest packet
}

// openStation takes the interface's packets from now on.
func openStation(e Endpoint) (*station, error) {
	if e.Match == "" {
		e.Match = MatchStamped
	}
	s := &station{endpoint: e, capture: capture{match: e.Match}}
	err := e.within(func() (err error) {
		if s.mtu, err = mtuIfUp(e.Interface); err != nil {
			return err
		}
		s.device, err = xsk.Open(xsk.Config{
			IPv6: e.Interface, IPv4: e.Interface, Workers: maxQueues, FramesPerQueue: e.FramesPerQueue, RingSize: e.RingSize,
			Mode: e.Mode, ZeroCopy: e.ZeroCopy, BusyPoll: e.BusyPoll, Program: s.capture.load, Log: slog.New(slog.DiscardHandler),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	s.info, _ = s.device.Info()
	for i, w := range s.device.Workers() {
		s.lanes = append(s.lanes, &lane{umem: s.device.UMEM(), frames: w.Frames, ports: w.IPv6, index: i})
	}
	return s, nil
}

// mtuIfUp is the MTU of an interface that is up: another one sends nothing, and
// AF_XDP does not say so.
func mtuIfUp(name string) (int, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("generator: interface %q: %w", name, err)
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		return 0, fmt.Errorf("generator: interface %q is down: ip link set dev %s up", name, name)
	}
	return l.Attrs().MTU, nil
}

// fits says whether the interface sends frames of so many octets.
func (s *station) fits(octets int) error {
	if most := s.mtu + packet.EthernetLen; octets > most {
		return fmt.Errorf("generator: frames of %d octets are more than the %d that interface %q sends with an MTU of %d", octets, most, s.info.Name, s.mtu)
	}
	return nil
}

// stuck is how many packets were sent and the kernel does not say that they
// left: of an interface that went down, say. No thread is at work.
func (s *station) stuck() (n uint64) {
	for _, sock := range s.device.Sockets() {
		n += uint64(sock.TXIncomplete())
	}
	return n
}

// close gives the interface back.
func (s *station) close() error {
	return errors.Join(s.endpoint.within(s.device.Close), s.capture.close())
}

// LinkCounters are what an interface's driver counted.
type LinkCounters struct {
	TXPackets uint64 `json:"tx_packets"`
	TXDropped uint64 `json:"tx_dropped"` // with errors
	RXPackets uint64 `json:"rx_packets"`
	RXDropped uint64 `json:"rx_dropped"` // with errors
}

func (c LinkCounters) minus(b LinkCounters) LinkCounters {
	return LinkCounters{c.TXPackets - b.TXPackets, c.TXDropped - b.TXDropped, c.RXPackets - b.RXPackets, c.RXDropped - b.RXDropped}
}

// linkCounters asks the kernel.
func (s *station) linkCounters() (c LinkCounters, err error) {
	err = s.endpoint.within(func() error {
		l, err := netlink.LinkByIndex(s.info.Index)
		if err != nil {
			return fmt.Errorf("generator: counters of %q: %w", s.info.Name, err)
		}
		if n := l.Attrs().Statistics; n != nil {
			c = LinkCounters{n.TxPackets, n.TxDropped + n.TxErrors, n.RxPackets, n.RxDropped + n.RxErrors}
		}
		return nil
	})
	return c, err
}

// socketCounters adds up what the sockets counted since they were opened.
func (s *station) socketCounters() (sum SocketCounters, err error) {
	for _, sock := range s.device.Sockets() {
		c, err := sock.Stats()
		if err != nil {
			return sum, err
		}
		sum.RXRingFull += c.RXRingFull
		sum.RXNoFrame += c.RXFillRingEmpty
		sum.RXDropped += c.RXDropped
		sum.TXInvalid += c.TXInvalid
		sum.Wakeups += c.Wakeups
		sum.Errors += c.Errors
	}
	return sum, nil
}

// SocketCounters are what AF_XDP counted.
type SocketCounters struct {
	RXRingFull uint64 `json:"rx_ring_full"`  // lost because we did not receive fast enough
	RXNoFrame  uint64 `json:"rx_no_frame"`   // lost for want of a free frame
	RXDropped  uint64 `json:"rx_dropped"`    // lost otherwise
	TXInvalid  uint64 `json:"tx_invalid"`    // refused by the kernel
	Wakeups    uint64 `json:"tx_wakeups"`    // system calls made to send
	Errors     uint64 `json:"wakeup_errors"` // those that failed unexpectedly
}

func (c SocketCounters) minus(b SocketCounters) SocketCounters {
	return SocketCounters{c.RXRingFull - b.RXRingFull, c.RXNoFrame - b.RXNoFrame, c.RXDropped - b.RXDropped, c.TXInvalid - b.TXInvalid, c.Wakeups - b.Wakeups, c.Errors - b.Errors}
}

// Lost is what did arrive and was lost for want of speed or room here.
// When copying, the kernel counts a missing frame under two names.
func (c SocketCounters) Lost() uint64 { return c.RXRingFull + max(c.RXNoFrame, c.RXDropped) }

// firstAddress is the first address of a family that the interface has beyond
// its link.
func firstAddress(l netlink.Link, ipv6 bool) (netip.Addr, error) {
	family := netlink.FAMILY_V4
	if ipv6 {
		family = netlink.FAMILY_V6
	}
	all, err := netlink.AddrList(l, family)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("generator: addresses of %q: %w", l.Attrs().Name, err)
	}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.IsLinkLocalUnicast() {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("generator: interface %q has no %s address: give a source prefix", l.Attrs().Name, map[bool]string{true: "IPv6", false: "IPv4"}[ipv6])
}
