package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// Protocols that a NAT64 knows nothing of, each with the beginning of a
// packet of its kind.
var otherProtocols = []struct {
	name   string
	number int
	packet []byte
}{
	// An INIT chunk (RFC 9260 §3.3.2), whose sender would try for a minute.
	{"SCTP", 132, []byte{0x30, 0x39, 0x0b, 0x59, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78, 1, 0, 0, 20, 1, 2, 3, 4, 0, 1, 0, 0, 0, 10, 0, 10, 5, 6, 7, 8}},
	// A Request (RFC 4340 §5.1).
	{"DCCP", 33, []byte{0x30, 0x39, 0x0b, 0x59, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 42}},
	{"GRE", 47, []byte{0, 0, 0x08, 0, 0x45, 0, 0, 20}},
	{"ESP", 50, []byte{0, 0, 1, 0, 0, 0, 0, 1, 9, 9, 9, 9}},
	{"UDP-Lite", 136, []byte{0x30, 0x39, 0x0b, 0x59, 0, 8, 0x12, 0x34, 'h', 'i'}},
	{"experiment", 253, []byte("an experiment")},
}

// answerTo sends a packet of a protocol and waits for the ICMP error about
// it.
func (w *world) answerTo(h lab.Host, network string, to netip.Addr, number int, packet []byte) (icmp.Type, int, error) {
	icmpNetwork, protocol := "ip6:58", 58
	if network == "ip4" {
		icmpNetwork, protocol = "ip4:1", 1
	}
	errs, err := h.ListenPacket(icmpNetwork, "")
	if err != nil {
		return nil, 0, err
	}
	defer errs.Close()
	c, err := h.DialContext(w.ctx, fmt.Sprintf("%s:%d", network, number), to.String())
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	if _, err := c.Write(packet); err != nil {
		return nil, 0, err
	}
	// Long before SCTP would send its second INIT.
	if err := errs.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := errs.ReadFrom(buf)
		if err != nil {
			return nil, 0, err
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil || !bytes.Contains(buf[8:n], packet) { // an error quotes what it is about
			continue
		}
		return m.Type, m.Code, nil
	}
}

// What cannot be translated is refused at once and with the right ICMP error
// (RFC 6146 §3.4), so that no stack waits for an answer.
func TestOtherProtocolsAreRefused(t *testing.T) {
	t.Parallel()
	w := judged(t, lab.Options{}, withoutHandoff)
	for _, p := range otherProtocols {
		kind, code, err := w.answerTo(w.client, "ip6", lab.Embed(w.Server()), p.number, p.packet)
		if err != nil || kind != ipv6.ICMPTypeDestinationUnreachable || code != 4 {
			t.Errorf("%s from the client: %v, code %d, error %v, want Destination Unreachable, code 4", p.name, kind, code, err)
		}
		// The host's kernel, which keeps what nobody has asked the NAT64 to
		// take, answers there; UDP-Lite is one of its own protocols.
		if p.name == "UDP-Lite" {
			continue
		}
		kind, code, err = w.answerTo(w.server, "ip4", lab.Pool4, p.number, p.packet)
		if err != nil || kind != ipv4.ICMPTypeDestinationUnreachable || code != 2 {
			t.Errorf("%s from the server: %v, code %d, error %v, want Protocol Unreachable", p.name, kind, code, err)
		}
	}
	if s := w.stats(); s.Drops["protocol"] == 0 {
		t.Errorf("drops: %v", reasons(s))
	}
}

// A protocol of the kernel's own, whose sockets say what the error meant.
func TestKernelUnderstandsTheRefusal(t *testing.T) {
	t.Parallel()
	w := judged(t, lab.Options{}, withoutHandoff)
	for _, from := range []string{"client", "server"} {
		err := w.sendLite(from)
		if !slices.ContainsFunc([]error{unix.ECONNREFUSED, unix.ENOPROTOOPT, unix.EPROTO}, func(want error) bool { return errors.Is(err, want) }) {
			t.Errorf("UDP-Lite from the %s: %v, want that it was refused", from, err)
		}
	}
}

// sendLite sends a datagram over UDP-Lite (RFC 3828) and returns the error
// that comes back.
func (w *world) sendLite(from string) error {
	w.t.Helper()
	var fd int
	err := w.Host(from).Enter(func() (err error) {
		var to unix.Sockaddr
		if from == "client" {
			to = &unix.SockaddrInet6{Port: 7, Addr: lab.Embed(w.Server()).As16()}
			fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
		} else {
			to = &unix.SockaddrInet4{Port: 7, Addr: lab.Pool4.As4()}
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
		}
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			w.t.Skip("this kernel has no UDP-Lite")
		}
		if err != nil {
			return err
		}
		return unix.Connect(fd, to)
	})
	w.must(err)
	defer unix.Close(fd)
	w.must(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	if _, err := unix.Write(fd, []byte("lite")); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 16))
	return err
}
