package xsk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// forwarder runs one goroutine per worker that sends what it receives on one
// side out of the other, as it is.
type forwarder struct {
	dev       *Device
	stop      atomic.Bool
	wg        sync.WaitGroup
	received  []atomic.Uint64 // by worker
	forwarded atomic.Uint64
	refused   atomic.Uint64 // by a full TX ring
}

func startForwarder(dev *Device) *forwarder {
	f := &forwarder{dev: dev, received: make([]atomic.Uint64, len(dev.Workers()))}
	for i := range dev.Workers() {
		f.wg.Go(func() { f.run(i) })
	}
	return f
}

func (f *forwarder) run(i int) {
	w := f.dev.Workers()[i]
	var fds []unix.PollFd
	for _, p := range append(append([]ring.Port(nil), w.IPv6...), w.IPv4...) {
		fds = append(fds, unix.PollFd{Fd: int32(p.PollFD()), Events: unix.POLLIN})
	}
	descs := make([]ring.Desc, 64)
	for !f.stop.Load() {
		n := 0
		for _, p := range w.IPv6 {
			n += f.move(i, p, w.IPv4[0], descs)
		}
		for _, p := range w.IPv4 {
			n += f.move(i, p, w.IPv6[0], descs)
		}
		if n == 0 {
			_, _ = unix.Poll(fds, 5) // an interrupted sleep is as good as one that ended
		}
	}
}

func (f *forwarder) move(worker int, from, to ring.Port, descs []ring.Desc) int {
	n := from.Recv(descs)
	f.received[worker].Add(uint64(n))
	sent := to.Send(descs[:n])
	f.forwarded.Add(uint64(sent))
	for _, d := range descs[sent:n] {
		f.dev.Workers()[worker].Frames.Push(d.Addr)
		f.refused.Add(1)
	}
	to.Flush()
	from.Flush()
	return n
}

// finish stops the workers and checks that every frame is in one place.
func (f *forwarder) finish(t *testing.T) {
	t.Helper()
	f.stop.Store(true)
	f.wg.Wait()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		for _, s := range f.dev.Sockets() {
			s.Flush() // the kernel may still be completing
		}
		if err = f.dev.Census(); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("after the run: %v", err)
	}
	for _, s := range f.dev.Sockets() {
		st, err := s.Stats()
		if err != nil {
			t.Error(err)
		}
		if st.RXInvalid != 0 || st.TXInvalid != 0 || st.Errors != 0 {
			t.Errorf("%s queue %d: %+v", s.Link(), s.Queue(), st)
		}
	}
}

func openDevice(t *testing.T, cfg Config) *Device {
	t.Helper()
	d, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Numbered packets of either family that are the translator's. The source
// varies, so that several queues get some.
func numbered6(n int) []byte {
	f := ipv6Frame("64:ff9b::1", binary.BigEndian.AppendUint32(transport(uint16(n), 443), uint32(n)))
	binary.BigEndian.PutUint16(f[14+22:], uint16(n)) // the source's last octets
	return f
}

func numbered4(n int) []byte {
	f := ipv4Packet{src: host, dst: pool, proto: 17, payload: append(transport(uint16(n), 5000), 0, 0, 0, 0)}.frame()
	binary.BigEndian.PutUint32(f[len(f)-4:], uint32(n))
	f[14+14], f[14+15] = byte(n>>8), byte(n)
	return f
}

// exchange sends count packets into in and expects each of them, unchanged
// and once, at out. At most window are on their way at any time, less than any
// queue between the two holds.
func exchange(t *testing.T, in, out *tap, packet func(int) []byte, count int) {
	t.Helper()
	const window = 128
	seen := map[uint32]bool{}
	sample := packet(0)
	number := func(f []byte) uint32 { return binary.BigEndian.Uint32(f[len(f)-4:]) }
	for sent := 0; len(seen) < count; {
		for sent < count && sent-len(seen) < window {
			in.send(packet(sent))
			sent++
		}
		f := out.await(func(f []byte) bool {
			return len(f) == len(sample) && bytes.Equal(f[12:14], sample[12:14]) && [6]byte(f) == testMAC
		})
		n := number(f)
		if seen[n] {
			t.Fatalf("packet %d came twice", n)
		}
		if !bytes.Equal(f, packet(int(n))) {
			t.Fatalf("packet %d came as %x", n, f)
		}
		seen[n] = true
	}
}

func TestForwardThroughTheKernel(t *testing.T) {
	needsRoot(t)
	for _, mode := range []Mode{ModeNative, ModeGeneric} {
		for _, queues := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s/%d", mode, queues), func(t *testing.T) {
				w := newWires(t, queues)
				cfg := w.config(mode)
				cfg.Workers = queues
				d := openDevice(t, cfg)
				six, four := d.Info()
				if six.Name != "six0" || four.Name != "four0" || six.Mode != mode || four.Mode != mode || six.Queues != queues || six.MAC != testMAC {
					t.Errorf("info is %+v and %+v", six, four)
				}
				f := startForwarder(d)
				const count = 5000
				exchange(t, w.six, w.four, numbered6, count)
				exchange(t, w.four, w.six, numbered4, count)
				f.finish(t)
				for i := range f.received {
					// In generic mode veth shows all packets as queue 0's.
					if f.received[i].Load() == 0 && (mode == ModeNative || i == 0) {
						t.Errorf("worker %d of %d received nothing", i, queues)
					}
				}
				if n := f.forwarded.Load(); n != 2*count || f.refused.Load() != 0 {
					t.Errorf("forwarded %d and refused %d, want %d and 0", n, f.refused.Load(), 2*count)
				}
			})
		}
	}
}

func TestOneInterfaceForBothSides(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeAuto)
	cfg.IPv4 = "six0"
	d := openDevice(t, cfg)
	if wk := d.Workers()[0]; len(wk.IPv6) != 1 || len(wk.IPv4) != 1 || wk.IPv6[0] != wk.IPv4[0] {
		t.Errorf("the two sides are %v and %v, want one port", wk.IPv6, wk.IPv4)
	}
	f := startForwarder(d)
	exchange(t, w.six, w.six, numbered6, 500)
	exchange(t, w.six, w.six, numbered4, 500)
	f.finish(t)
}

// TestKernelKeepsItsPackets looks at what reaches the kernel on the device's
// own end of the wire.
func TestKernelKeepsItsPackets(t *testing.T) {
	needsRoot(t)
	for _, mode := range []Mode{ModeNative, ModeGeneric} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWires(t, 1)
			openDevice(t, w.config(mode))
			for name, c := range map[string]struct {
				in    *tap
				frame []byte
			}{
				"four0": {w.four, tcpTo(pool, 22)},
				"six0":  {w.six, ipv6Frame("2001:db8:ffff::1", transport(1, 2))},
			} {
				inside := openTap(t, name)
				c.in.send(c.frame)
				inside.await(func(f []byte) bool { return bytes.Equal(f, c.frame) })
			}
			// IPv6 for the translator is the host's on the IPv4 interface.
			inside := openTap(t, "four0")
			w.four.send(numbered6(1))
			inside.await(func(f []byte) bool { return bytes.Equal(f, numbered6(1)) })
		})
	}
}

func TestCloseLeavesNothingAndOpenWorksAgain(t *testing.T) {
	needsRoot(t)
	for _, mode := range []Mode{ModeNative, ModeGeneric} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWires(t, 1)
			for range 3 {
				d, err := Open(w.config(mode))
				if err != nil {
					t.Fatal(err)
				}
				f := startForwarder(d)
				exchange(t, w.six, w.four, numbered6, 50)
				f.finish(t)
				for range 2 {
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if six, four := w.programOn("six0"), w.programOn("four0"); six != 0 || four != 0 {
					t.Fatalf("programs %d and %d are still attached", six, four)
				}
			}
		})
	}
}

// TestFallbacksAreLogged: veth has no zero copy, and with a large MTU no
// native mode either.
func TestFallbacksAreLogged(t *testing.T) {
	w := newWires(t, 1)
	var log bytes.Buffer
	cfg := w.config(ModeAuto)
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	for _, name := range []string{"four0", "four1"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMTU(l, 9000); err != nil { // too large for native XDP
			t.Fatal(err)
		}
	}
	cfg.Workers = 4
	d := openDevice(t, cfg)
	six, four := d.Info()
	if six.Mode != ModeNative || four.Mode != ModeGeneric || six.ZeroCopy || len(d.Workers()) != 1 {
		t.Errorf("got %+v, %+v and %d workers", six, four, len(d.Workers()))
	}
	for _, want := range []string{"falling back to generic", "interface=four0", "no zero copy", "fewer workers than configured"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, &log)
		}
	}
}

// Sockets are opened twice where there is no zero copy; what is said about the
// interfaces is said once.
func TestMissingQueuesAreNamedOnce(t *testing.T) {
	w := newWires(t, 1)
	var log bytes.Buffer
	cfg := w.config(ModeNative)
	cfg.Log, cfg.Workers = slog.New(slog.NewTextHandler(&log, nil)), 4
	openDevice(t, cfg)
	if n := strings.Count(log.String(), "fewer workers than configured"); n != 2 {
		t.Errorf("said %d times, want once for each interface:\n%s", n, &log)
	}
}

func TestRequiredFeaturesAreErrors(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeNative)
	cfg.ZeroCopy = On
	if d, err := Open(cfg); err == nil {
		d.Close()
		t.Error("veth gave zero copy")
	} else if !strings.Contains(err.Error(), "zero copy is required") {
		t.Errorf("the error is %q", err)
	}
	cfg = w.config(ModeAuto)
	cfg.IPv4 = "nosuch0"
	if d, err := Open(cfg); err == nil {
		d.Close()
		t.Error("opened an interface that is not there")
	} else if !strings.Contains(err.Error(), "nosuch0") {
		t.Errorf("the error is %q", err)
	}
	if six := w.programOn("six0"); six != 0 {
		t.Errorf("a failed Open left program %d", six)
	}
}

func TestBusyPoll(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeNative)
	cfg.BusyPoll = On
	d := openDevice(t, cfg)
	if six, four := d.Info(); !six.BusyPoll || !four.BusyPoll {
		t.Errorf("busy polling is %v and %v", six.BusyPoll, four.BusyPoll)
	}
	f := startForwarder(d)
	exchange(t, w.six, w.four, numbered6, 1000)
	f.finish(t)
}

// TestLinkDownAndUp: a TX ring that could not be emptied is emptied later.
func TestLinkDownAndUp(t *testing.T) {
	w := newWires(t, 1)
	d := openDevice(t, w.config(ModeNative))
	wk := d.Workers()[0]
	out := wk.IPv4[0].(*Socket)
	l, err := netlink.LinkByName("four0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for { // until the ring refuses
		frame, ok := wk.Frames.Pop()
		if !ok {
			t.Fatal("one socket took all frames")
		}
		p := numbered4(sent)
		desc := ring.Desc{Addr: frame + ring.Headroom, Len: uint32(len(p))}
		copy(d.UMEM().Packet(desc), p)
		if out.Send([]ring.Desc{desc}) == 0 {
			wk.Frames.Push(frame)
			break
		}
		out.Flush()
		sent++
	}
	if !out.TXPending() || sent != out.txBudget {
		t.Errorf("%d packets wait, want %d", sent, out.txBudget)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	f := startForwarder(d) // whose Flush finds what is left in the ring
	for i := range sent {
		w.four.await(func(got []byte) bool { return bytes.Equal(got, numbered4(i)) })
	}
	f.finish(t)
}
