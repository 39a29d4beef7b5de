package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// hopMAC is the address of the next hops that packet sockets play: of nobody's
// interface, so that no kernel takes their packets for its own.
var hopMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// wireEnd is the far end of one of the nat64 host's links: a packet socket that
// sends whole frames, and receives those for hopMAC. For one goroutine.
type wireEnd struct {
	fd     int
	header [14]byte // of what it sends
	frame  [1 << 16]byte
}

func openEnd(h lab.Host, ifname string, nat64 net.HardwareAddr, ipv6 bool) (*wireEnd, error) {
	e := &wireEnd{fd: -1}
	protocol := uint16(unix.ETH_P_IP)
	if ipv6 {
		protocol = unix.ETH_P_IPV6
	}
	copy(e.header[0:], nat64)
	copy(e.header[6:], hopMAC)
	binary.BigEndian.PutUint16(e.header[12:], protocol)
	err := h.Enter(func() error {
		dev, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		order := protocol<<8 | protocol>>8 // network order
		if e.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(order)); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		return unix.Bind(e.fd, &unix.SockaddrLinklayer{Protocol: order, Ifindex: dev.Index})
	})
	if err != nil {
		e.close()
		return nil, fmt.Errorf("far end of %s: %w", ifname, err)
	}
	return e, nil
}

func (e *wireEnd) close() {
	if e.fd >= 0 {
		unix.Close(e.fd)
	}
}

// send puts a packet, from its IP header on, on the link.
func (e *wireEnd) send(packet []byte) error {
	frame := append(e.header[:], packet...)
	if n, err := unix.Write(e.fd, frame); err != nil || n != len(frame) {
		return fmt.Errorf("send %d octets: %d, %w", len(frame), n, err)
	}
	return nil
}

// receive waits for n packets, from their IP headers on, and returns those that
// came, with an error if they are fewer.
func (e *wireEnd) receive(n int) (packets [][]byte, err error) {
	for deadline := time.Now().Add(5 * time.Second); len(packets) < n; {
		left := time.Until(deadline)
		if left <= 0 {
			return packets, fmt.Errorf("%d packets arrived, want %d", len(packets), n)
		}
		p, err := e.next(left)
		if err != nil {
			return packets, err
		}
		if p != nil {
			packets = append(packets, p)
		}
	}
	return packets, nil
}

// drain returns what has arrived already.
func (e *wireEnd) drain() (packets [][]byte) {
	for {
		p, err := e.next(0)
		if err != nil || p == nil {
			return packets
		}
		packets = append(packets, p)
	}
}

// next is the next packet that arrives within the time, or nil.
func (e *wireEnd) next(wait time.Duration) ([]byte, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(wait.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, err
		}
		n, err = unix.Read(e.fd, e.frame[:])
		if err != nil {
			return nil, fmt.Errorf("receive: %w", err)
		}
		if n >= 14 && bytes.Equal(e.frame[:6], hopMAC) {
			return bytes.Clone(e.frame[14:n]), nil
		}
	}
}
