package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// The client's TCP is told that the server takes 1460 octets at a time, and
// has to find out that the link there carries 1400: r4's Fragmentation Needed
// reaches it as a Packet Too Big with 20 octets more (RFC 7915 §4.2).
func TestPathMTUOverSmallIPv4Link(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Routers: true, MTU4: 1400, FullMSS: true})
	seen := w.watch("client")
	web := w.web()
	for _, transfer := range []func() (traffic.Transfer, error){
		func() (traffic.Transfer, error) { return traffic.Upload(w.ctx, w.client, web, 20<<20) },
		func() (traffic.Transfer, error) { return traffic.Download(w.ctx, w.client, web, 20<<20) },
	} {
		_, err := transfer()
		w.must(err)
	}
	if got := seen(tooBig6); len(got) == 0 || got[0] != 1420 {
		t.Errorf("MTUs in the Packet Too Bigs that the client got: %v, want 1420", got)
	}
}

// The same from the other side: r6's Packet Too Big reaches the server as a
// Fragmentation Needed with 20 octets less.
func TestPathMTUOverSmallIPv6Link(t *testing.T) {
	t.Parallel()
	w := build(t, lab.Options{Routers: true, MTU6: 1400, FullMSS: true})
	seen := w.watch("server")
	web := w.web()
	_, err := traffic.Download(w.ctx, w.client, web, 20<<20)
	w.must(err)
	_, err = traffic.Upload(w.ctx, w.client, web, 20<<20)
	w.must(err)
	if got := seen(tooBig4); len(got) == 0 || got[0] != 1380 {
		t.Errorf("MTUs in the Fragmentation Neededs that the server got: %v, want 1380", got)
	}
}

// A datagram that may not be fragmented and is too big, and the MTU that the
// sender's kernel learns from the answer.
func TestPathMTUOfUDP(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, tc := range map[string]struct {
		options lab.Options
		from    string
		fits    int // octets of payload
		want    int // path MTU
	}{
		"client, small IPv4 link": {lab.Options{Routers: true, MTU4: 1400}, "client", 1372, 1420},
		"server, small IPv6 link": {lab.Options{Routers: true, MTU6: 1400}, "server", 1352, 1380},
	} {
		t.Run(name, func(t *testing.T) {
			w := build(t, tc.options, static("udp", 5353, 5353))
			w.echoUDP(w.client, "udp6", "[::]:5353")
			w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
			host, network, address := w.client, "udp6", w.embedded(7)
			if tc.from == "server" {
				host, network, address = w.server, "udp4", netip.AddrPortFrom(lab.Pool4, 5353).String()
			}
			c := w.dial(host, network, 0, address).(*net.UDPConn)
			w.must(forbidFragments(c, network))
			// Each size goes through once the translator has said what fits.
			w.must(traffic.Exchange(c, noise(1000)))
			_, err := c.Write(noise(tc.fits + 1))
			w.must(err)
			w.eventually("the kernel learns the path MTU", 10*time.Second, func() error {
				mtu, err := pathMTU(c, network)
				if err != nil || mtu == tc.want {
					return err
				}
				return fmt.Errorf("it is %d, want %d", mtu, tc.want)
			})
			// The error itself has reached the socket; reading it clears it.
			if got := pending(c); !errors.Is(got, unix.EMSGSIZE) {
				t.Errorf("error pending on the socket: %v, want EMSGSIZE", got)
			}
			if _, err = c.Write(noise(tc.fits + 1)); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("sending one octet too many: %v, want EMSGSIZE", err)
			}
			w.must(traffic.Exchange(c, noise(tc.fits)))
		})
	}
}

// option runs fn on the descriptor of a socket.
func option(c *net.UDPConn, fn func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = fn(int(fd)) }); err != nil {
		return err
	}
	return result
}

// forbidFragments sets DF on IPv4, and has neither kernel fragment.
func forbidFragments(c *net.UDPConn, network string) error {
	return option(c, func(fd int) error {
		if network == "udp4" {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
}

// pending is the error that waits for the next call on the socket.
func pending(c *net.UDPConn) error {
	return option(c, func(fd int) error {
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = syscall.Errno(errno)
		}
		return err
	})
}

// pathMTU is what the kernel believes of the path of a connected socket.
func pathMTU(c *net.UDPConn, network string) (mtu int, err error) {
	err = option(c, func(fd int) (err error) {
		if network == "udp4" {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
		}
		return err
	})
	if errors.Is(err, syscall.ENOTCONN) {
		return 0, fmt.Errorf("path MTU of an unconnected socket: %w", err)
	}
	return mtu, err
}

// watch captures at a host's interface; the function that it returns ends the
// capture and picks a number out of each packet that pick knows.
func (w *world) watch(host string) func(pick func(packet []byte) (int, bool)) []int {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), host+"-watch.pcap")
	c, err := w.Host(host).StartCapture("eth0", file, 0)
	w.must(err)
	return func(pick func([]byte) (int, bool)) (found []int) {
		w.t.Helper()
		w.must(c.Stop())
		f, err := os.Open(file)
		w.must(err)
		defer f.Close()
		r, err := pcapgo.NewReader(f)
		w.must(err)
		for {
			frame, _, err := r.ReadPacketData()
			if errors.Is(err, io.EOF) {
				return found
			}
			w.must(err)
			if v, ok := pick(frame); ok {
				found = append(found, v)
			}
		}
	}
}

// tooBig6 reads the MTU of a Packet Too Big (RFC 4443 §3.2).
func tooBig6(frame []byte) (int, bool) {
	if len(frame) < 62 || binary.BigEndian.Uint16(frame[12:]) != 0x86dd || frame[20] != 58 || frame[54] != 2 {
		return 0, false
	}
	return int(binary.BigEndian.Uint32(frame[58:])), true
}

// tooBig4 reads the MTU of a Fragmentation Needed (RFC 1191 §4).
func tooBig4(frame []byte) (int, bool) {
	if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[23] != 1 || frame[34] != 3 || frame[35] != 4 {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(frame[40:])), true
}
