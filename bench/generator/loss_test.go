package generator

import (
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// badDevice stands between two wires, near ═ m0 and m1 ═ far, and mistreats
// stamped packets from near to far in a known way.
type badDevice struct {
	in, out                                                int // packet sockets
	seen, dropped, duplicated, late, damaged, badChecksums atomic.Uint64
	stop                                                   atomic.Bool
	held                                                   []byte
}

// newBadDevice makes near ═ m0 and m1 ═ far out of the wire near ═ far.
func newBadDevice(t *testing.T) *badDevice {
	t.Helper()
	newWire(t, 1)
	if err := netlink.LinkDel(linkNamed(t, "near")); err != nil {
		t.Fatal(err)
	}
	for _, pair := range []struct {
		name, peer string
		mac        [6]byte
	}{{"near", "m0", nearMAC}, {"far", "m1", farMAC}} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair.name, HardwareAddr: pair.mac[:]}, PeerName: pair.peer}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{pair.name, pair.peer} {
			if err := netlink.LinkSetUp(linkNamed(t, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := &badDevice{in: packetSocket(t, "m0"), out: packetSocket(t, "m1")}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.forward(t)
	}()
	t.Cleanup(func() {
		d.stop.Store(true)
		<-done
	})
	return d
}

func packetSocket(t *testing.T, name string) int {
	t.Helper()
	proto := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: linkNamed(t, name).Attrs().Index}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// forward drops one of ten, sends one of 25 twice and one of 40 late, damages
// the stamp of one of 50 and what is behind it of another.
func (d *badDevice) forward(t *testing.T) {
	buf := make([]byte, 4096)
	var p traffic.Packet
	for !d.stop.Load() {
		n, from, err := unix.Recvfrom(d.in, buf, 0)
		if err != nil {
			continue // the timeout
		}
		frame := buf[:n]
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || !traffic.Parse(frame, &p) {
			continue
		}
		k := d.seen.Add(1) - 1
		switch {
		case k%10 == 3:
			d.dropped.Add(1)
			continue
		case k%50 == 9:
			d.damaged.Add(1)
			frame[p.Payload+8] ^= 1
		case k%50 == 19:
			d.badChecksums.Add(1)
			frame[p.End-1] ^= 1
		case k%40 == 6:
			d.late.Add(1)
			d.held = append([]byte(nil), frame...)
			continue
		case k%25 == 0:
			d.duplicated.Add(1)
			d.send(t, frame)
		}
		d.send(t, frame)
		if d.held != nil {
			d.send(t, d.held)
			d.held = nil
		}
	}
}

func (d *badDevice) send(t *testing.T, frame []byte) {
	for {
		err := unix.Send(d.out, frame, 0)
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Errorf("the device cannot send: %v", err)
		}
		return
	}
}

// TestWhatADeviceDoesIsSeen: each loss, duplicate, late packet and damage is
// counted as what it is.
func TestWhatADeviceDoesIsSeen(t *testing.T) {
	d := newBadDevice(t)
	c := wireConfig(traffic.UDP, true)
	c.Wait = 500 * time.Millisecond
	tester := openTester(t, c)
	const packets = 4000
	r, err := tester.Run(t.Context(), Run{Direction: trial.ToResponder, Rate: 8000, Packets: packets, Sizes: traffic.Sizes{120}})
	if err != nil {
		t.Fatal(err)
	}
	w := r.Ways[trial.ToResponder]
	if w.Sent != packets || d.seen.Load() != packets {
		t.Fatalf("%d sent, the device saw %d: %+v", w.Sent, d.seen.Load(), r)
	}
	got := [6]uint64{w.Lost, w.Duplicated, w.Reordered, r.Damaged, w.BadChecksum, w.Received}
	lost := d.dropped.Load() + d.damaged.Load()
	want := [6]uint64{lost, d.duplicated.Load(), d.late.Load(), d.damaged.Load(), d.badChecksums.Load(), packets - lost}
	if got != want || d.dropped.Load() == 0 || d.late.Load() == 0 {
		t.Errorf("lost, duplicated, reordered, damaged, bad checksums, received: %v, the device did %v", got, want)
	}
	if w.Loss() < 0.11 || w.Loss() > 0.13 {
		t.Errorf("a loss of %v", w.Loss())
	}
}
