package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// forger sends IPv4 packets of whatever content and sender from a host. For
// one goroutine.
type forger struct{ fd int }

// forger opens one, closed at the end of the test.
func (w *world) forger(h lab.Host) *forger {
	w.t.Helper()
	f := &forger{}
	w.must(h.Enter(func() (err error) {
		f.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	}))
	w.t.Cleanup(func() { unix.Close(f.fd) })
	return f
}

// send completes the packet's header: the kernel adds its checksum.
func (f *forger) send(src, dst netip.Addr, protocol byte, payload []byte) error {
	b := append([]byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}, src.AsSlice()...)
	b = append(append(b, dst.AsSlice()...), payload...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	for {
		err := unix.Sendto(f.fd, b, 0, &unix.SockaddrInet4{Addr: dst.As4()})
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			continue // the link is busy
		}
		if err != nil {
			return fmt.Errorf("forged packet from %s to %s: %w", src, dst, err)
		}
		return nil
	}
}

// udp sends a datagram.
func (f *forger) udp(src, dst netip.AddrPort, payload []byte) error {
	return f.send(src.Addr(), dst.Addr(), 17, udp4(src, dst, payload))
}

// udp4 is a UDP datagram over IPv4 with its checksum.
func udp4(src, dst netip.AddrPort, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	pseudo := slices.Concat(src.Addr().AsSlice(), dst.Addr().AsSlice(), []byte{0, 17}, b[4:6])
	seal(b, 6, pseudo)
	if b[6] == 0 && b[7] == 0 {
		b[6], b[7] = 0xff, 0xff // RFC 768: zero would mean none
	}
	return b
}

// tcp4 is a TCP segment over IPv4 without options.
func tcp4(src, dst netip.AddrPort, flags byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, payload...)
	seal(b, 16, slices.Concat(src.Addr().AsSlice(), dst.Addr().AsSlice(), []byte{0, 6}, binary.BigEndian.AppendUint16(nil, uint16(len(b)))))
	return b
}

// embedded4 is a whole IPv4 packet for a control payload.
func embedded4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := append([]byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	seal(b, 10, nil)
	return append(b, payload...)
}

// embedded6 is a whole IPv6 packet, a UDP datagram, for a control payload.
func embedded6(src, dst netip.AddrPort, payload []byte) []byte {
	u := binary.BigEndian.AppendUint16(nil, src.Port())
	u = binary.BigEndian.AppendUint16(u, dst.Port())
	u = binary.BigEndian.AppendUint16(u, uint16(8+len(payload)))
	u = append(append(u, 0, 0), payload...)
	seal(u, 6, slices.Concat(src.Addr().AsSlice(), dst.Addr().AsSlice(), []byte{0, 0}, u[4:6], []byte{0, 17}))
	b := append([]byte{0x60, 0, 0, 0, u[4], u[5], 17, 64}, src.Addr().AsSlice()...)
	return append(append(b, dst.Addr().AsSlice()...), u...)
}
