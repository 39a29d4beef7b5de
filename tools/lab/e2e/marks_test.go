package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// mark is what a header says of how a packet is to be treated.
type mark struct{ class, hopLimit int }

// markedSocket reports traffic class and hop limit of what it receives.
func (w *world) markedSocket(h lab.Host, network, address string) *net.UDPConn {
	w.t.Helper()
	p, err := h.ListenPacket(network, address)
	w.must(err)
	w.t.Cleanup(func() { p.Close() })
	c := p.(*net.UDPConn)
	w.must(onSocket(c, func(fd int) error {
		level, class, hops := unix.IPPROTO_IP, unix.IP_RECVTOS, unix.IP_RECVTTL
		if network == "udp6" {
			level, class, hops = unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, unix.IPV6_RECVHOPLIMIT
		}
		if err := unix.SetsockoptInt(fd, level, class, 1); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, level, hops, 1)
	}))
	return c
}

// setMark gives what a socket sends a traffic class and a hop limit.
func setMark(c *net.UDPConn, network string, m mark) error {
	return onSocket(c, func(fd int) error {
		level, class, hops := unix.IPPROTO_IP, unix.IP_TOS, unix.IP_TTL
		if network == "udp6" {
			level, class, hops = unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_UNICAST_HOPS
		}
		if err := unix.SetsockoptInt(fd, level, class, m.class); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, level, hops, m.hopLimit)
	})
}

// readMark receives one datagram, and says how it was marked and by whom.
func readMark(c *net.UDPConn) (m mark, from netip.AddrPort, err error) {
	payload, oob := make([]byte, 2048), make([]byte, 256)
	_, n, _, from, err := c.ReadMsgUDPAddrPort(payload, oob)
	if err != nil {
		return m, from, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return m, from, err
	}
	for _, cm := range messages {
		v := int(cm.Data[0]) // IP_TOS is one octet, all others are native words
		if len(cm.Data) >= 4 {
			v = int(binary.NativeEndian.Uint32(cm.Data))
		}
		switch cm.Header.Type {
		case unix.IP_TOS, unix.IPV6_TCLASS:
			m.class = v
		case unix.IP_TTL, unix.IPV6_HOPLIMIT:
			m.hopLimit = v
		}
	}
	return m, from, nil
}

// Every DSCP with every ECN codepoint arrives as it was sent, and the hop
// limit one less (RFC 7915 §4.1, §5.1), in both directions.
func TestMarksArrive(t *testing.T) {
	t.Parallel()
	w := judged(t, lab.Options{}, static("udp", 5000, 5000))
	at := netip.AddrPortFrom(w.Server(), 5000)
	ends := map[string]*net.UDPConn{
		"udp6": w.markedSocket(w.client, "udp6", "[::]:5000"),
		"udp4": w.markedSocket(w.server, "udp4", at.String()),
	}
	to := map[string]netip.AddrPort{"udp6": netip.AddrPortFrom(lab.Embed(at.Addr()), 5000), "udp4": netip.AddrPortFrom(lab.Pool4, 5000)}
	for network, other := range map[string]string{"udp6": "udp4", "udp4": "udp6"} {
		for class := range 256 {
			sent := mark{class, 2 + class%254}
			w.must(setMark(ends[network], network, sent))
			want := mark{sent.class, sent.hopLimit - 1}
			w.eventually(fmt.Sprintf("%s: class %#02x", network, class), 10*time.Second, func() error {
				return sendMarked(ends[network], ends[other], to[network], want)
			})
		}
	}
}

// sendMarked sends one datagram; one that was late answers for an earlier
// class, and is not what is wanted.
func sendMarked(from, at *net.UDPConn, to netip.AddrPort, want mark) error {
	if _, err := from.WriteToUDPAddrPort([]byte("marked"), to); err != nil {
		return err
	}
	if err := at.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	got, _, err := readMark(at)
	if err == nil && got != want {
		err = fmt.Errorf("arrived as %+v, want %+v", got, want)
	}
	return err
}
