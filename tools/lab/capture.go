package lab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

const (
	// captureBuffer holds what arrives while the writer waits for its turn on
	// a busy machine.
	captureBuffer = 32 << 20
	// captureSnap is the longest packet kept; a veth carries none longer.
	captureSnap = 1 << 16
)

// Capture writes the packets of one interface, both directions, to a pcap
// file until it is stopped. Stop is called once, by one goroutine.
//
// It belongs on the hosts' ends of the links: packets that XDP takes away
// from the nat64 host's interfaces, and those that AF_XDP sends, never pass
// the place where captures look.
type Capture struct {
	File   string
	Missed uint32 // packets for which the kernel had no room; valid after Stop

	fd, wake, stop int // packet socket, both ends of the pipe that stops it
	limit          int
	done           chan error
}

// StartCapture begins a capture on an interface of the host. It ends of its
// own accord after limit packets, if limit is not zero.
func (h Host) StartCapture(ifname, file string, limit int) (*Capture, error) {
	c := &Capture{File: file, limit: limit, done: make(chan error, 1), fd: -1}
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("capture on %s/%s: %w", h.Name, ifname, err)
	}
	if err := h.Enter(func() error { return c.open(ifname) }); err != nil {
		out.Close()
		return nil, fmt.Errorf("capture on %s/%s: %w", h.Name, ifname, err)
	}
	go func() { c.done <- errors.Join(c.run(out), out.Close()) }()
	return c, nil
}

// open makes the packet socket, in the current namespace.
func (c *Capture) open(ifname string) error {
	dev, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	// Protocol 0 receives nothing before bind names interface and protocol,
	// so no packet of another interface slips in.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	pipe := make([]int, 2)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: dev.Index}),
		unix.Pipe2(pipe, unix.O_CLOEXEC),
	)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("set up packet socket: %w", err)
	}
	c.fd, c.wake, c.stop = fd, pipe[0], pipe[1]
	return nil
}

// run copies packets into the file until told to stop; what has arrived by
// then is still written.
func (c *Capture) run(out *os.File) (err error) {
	defer unix.Close(c.fd)
	defer unix.Close(c.wake)
	defer func() {
		stats, failed := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("count what was missed: %w", failed))
			return
		}
		c.Missed = stats.Drops
	}()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := pcapgo.NewWriter(buffered)
	if err := w.WriteFileHeader(captureSnap, layers.LinkTypeEthernet); err != nil {
		return fmt.Errorf("write %s: %w", c.File, err)
	}
	packet := make([]byte, captureSnap)
	written := 0
	for stopping := false; !stopping; {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for packets: %w", err)
		}
		stopping = fds[1].Revents != 0
		for {
			n, err := unix.Read(c.fd, packet)
			if err == unix.EAGAIN || err == unix.EINTR || err == unix.ENETDOWN {
				break
			}
			if err != nil {
				return fmt.Errorf("read packet: %w", err)
			}
			info := gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: n, Length: n}
			if err := w.WritePacket(info, packet[:n]); err != nil {
				return fmt.Errorf("write %s: %w", c.File, err)
			}
			if written++; written == c.limit {
				return buffered.Flush()
			}
		}
	}
	return buffered.Flush()
}

// Stop ends the capture and returns once the file is complete.
func (c *Capture) Stop() error {
	unix.Close(c.stop)
	return <-c.done
}

// networkOrder puts a protocol number into the order in which a packet socket
// wants it, whatever the machine's own is.
func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
