package xsk

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// link is what must be known of an interface before a socket is bound to it.
type link struct {
	name     string
	index    int
	mac      [6]byte
	rxQueues int
	txQueues int
}

// findLink looks the interface up in the calling thread's network namespace.
func findLink(name string) (*link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("xsk: interface %q: %w", name, err)
	}
	a := l.Attrs()
	if len(a.HardwareAddr) != 6 {
		return nil, fmt.Errorf("xsk: interface %q is %s without an Ethernet address; the translator needs Ethernet", name, a.EncapType)
	}
	out := &link{name: name, index: a.Index, rxQueues: a.NumRxQueues, txQueues: a.NumTxQueues}
	copy(out.mac[:], a.HardwareAddr)
	if err := out.countQueues(); err != nil {
		return nil, err
	}
	return out, nil
}

// countQueues asks the driver how many of the interface's queues are in use:
// rtnetlink knows only how many there could be. Drivers that cannot tell have
// as many as rtnetlink says.
func (l *link) countQueues() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("xsk: socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	ch, err := ethtoolChannels(fd, l.name)
	if err == nil {
		l.rxQueues = int(ch.rx + ch.combined)
		l.txQueues = int(ch.tx + ch.combined)
	} else if !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("xsk: interface %q: ask for its queues: %w", l.name, err)
	}
	l.rxQueues, l.txQueues = max(l.rxQueues, 1), max(l.txQueues, 1)
	return nil
}

// capability is a Linux capability that opening a Device needs.
type capability struct {
	bit  uint
	name string
	why  string
}

// checkCapabilities names every capability that the calling thread lacks. It
// comes first because the kernel's own answer, EPERM, names none.
func checkCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("xsk: read our capabilities: %w", err)
	}
	have := func(bit uint) bool { return data[bit/32].Effective&(1<<(bit%32)) != 0 }
	var missing []string
	for _, c := range []capability{
		{unix.CAP_NET_RAW, "CAP_NET_RAW", "AF_XDP sockets"},
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", "attaching the XDP filter"},
		{unix.CAP_BPF, "CAP_BPF", "loading the XDP filter"},
	} {
		// CAP_SYS_ADMIN includes CAP_BPF (capabilities(7)).
		if !have(c.bit) && (c.bit != unix.CAP_BPF || !have(unix.CAP_SYS_ADMIN)) {
			missing = append(missing, fmt.Sprintf("%s (%s)", c.name, c.why))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("xsk: missing %s: %w", strings.Join(missing, ", "), unix.EPERM)
	}
	return nil
}

// raiseMemlock lifts the limit on pinned memory as far as we may. Whether that
// was enough is for the kernel to say when the UMEM is registered; with
// CAP_IPC_LOCK there is no limit.
func raiseMemlock() {
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &all) == nil {
		return
	}
	var have unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &have) == nil {
		have.Cur = have.Max
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &have)
	}
}
