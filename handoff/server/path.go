package server

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// udp4Headers is what a control datagram has in front of its payload.
	udp4Headers = 20 + 8
	// pathAge is how long a look at a path's MTU serves.
	pathAge = 1000 * 1000 // microseconds
	// leastMTU is what every IPv4 path carries that we take for one (RFC 791 asks
	// for 68; below 576 the headers of a translated packet leave no room).
	leastMTU = 576
	usualMTU = 1500
)

// path is the way from one of our addresses to a NAT64. Safe for concurrent use.
type path struct {
	own, nat64 addr4
	port       atomic.Uint32 // of the NAT64's end of the control channel
	mtu        atomic.Uint32
	asked      atomic.Int64 // when, microseconds
}

// datagram is the largest UDP payload that the path carries in one piece, as far
// as the kernel knows: it is asked at most once a second.
func (p *path) datagram(now int64) int {
	asked := p.asked.Load()
	if (asked == 0 || now-asked >= pathAge) && p.asked.CompareAndSwap(asked, now) {
		mtu, err := pathMTU(p.own, p.nat64)
		if err != nil {
			mtu = usualMTU // no route: nothing is going to be sent either
		}
		p.mtu.Store(uint32(max(mtu, leastMTU)))
	}
	mtu := int(p.mtu.Load())
	if mtu == 0 {
		mtu = usualMTU // another goroutine asks just now
	}
	return mtu - udp4Headers
}

// pathMTU asks the kernel what it knows of a path: the MTU of the interface, or
// what a router on the way has said (RFC 1191). A connected socket is what it
// tells that to without a privilege; nothing is sent.
func pathMTU(own, nat64 addr4) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("path MTU: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: own}); err != nil {
		return 0, fmt.Errorf("path MTU from %v: %w", netip4(own), err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: nat64, Port: 9}); err != nil {
		return 0, fmt.Errorf("path MTU to %v: %w", netip4(nat64), err)
	}
	mtu, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
	if err != nil {
		return 0, fmt.Errorf("path MTU to %v: %w", netip4(nat64), err)
	}
	return mtu, nil
}
