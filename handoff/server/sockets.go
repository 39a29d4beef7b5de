package server

import (
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// viewAge is how long one look at the kernel's sockets serves: evictions come in
// storms, and a look costs milliseconds when there are many sockets.
const viewAge = 200 * time.Millisecond

// kernelSockets asks the kernel over sock_diag, which needs no privilege within
// one's own network namespace. Used by the handler's goroutine alone. The zero
// value works.
type kernelSockets struct {
	taken  int64
	number uint64
	live   liveSet
	err    error
}

func (k *kernelSockets) view(now int64) (liveSet, uint64, error) {
	if k.number == 0 || now-k.taken >= viewAge.Microseconds() || now < k.taken {
		k.live, k.err = peers()
		k.taken, k.number = now, k.number+1
	}
	return k.live, k.number, k.err
}

// peers collects the far ends of all TCP and UDP sockets. IPv6 sockets count
// too: a server that listens on [::] has its IPv4 connections there, with
// mapped addresses (RFC 4291 §2.5.5.2).
func peers() (liveSet, error) {
	live := liveSet{}
	for _, dump := range []struct {
		name string
		ask  func(family uint8) ([]*netlink.Socket, error)
	}{{"TCP", netlink.SocketDiagTCP}, {"UDP", netlink.SocketDiagUDP}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := dump.ask(family)
			if err != nil {
				return nil, fmt.Errorf("ask the kernel for its %s sockets of address family %d: %w", dump.name, family, err)
			}
			for _, s := range sockets {
				live.add(s.State, s.ID.Destination, s.ID.DestinationPort)
			}
		}
	}
	return live, nil
}

// add takes in one socket. TIME_WAIT and closed ones carry no connection any
// more, and sockets without a peer have no port.
func (l liveSet) add(state uint8, addr net.IP, port uint16) {
	if state == netlink.TCP_TIME_WAIT || state == netlink.TCP_CLOSE {
		return
	}
	if v4 := addr.To4(); v4 != nil && port != 0 {
		l[peer{addr4(v4), port}] = struct{}{}
		l[peer{addr4(v4), 0}] = struct{}{}
	}
}
