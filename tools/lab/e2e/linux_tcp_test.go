package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// pair is a TCP connection seen from both ends.
type pair struct{ dialed, accepted *net.TCPConn }

// connect opens one through the translator: from the client to the server, or
// from the server to a static mapping of the client's.
func (w *world) connect(fromServer bool) pair {
	w.t.Helper()
	listener, dialer, listen, dial := w.server, w.client, netip.AddrPortFrom(w.Server(), 8080).String(), w.embedded(8080)
	if fromServer {
		listener, dialer, listen, dial = w.client, w.server, "[::]:8080", netip.AddrPortFrom(lab.Pool4, 80).String()
	}
	l, err := listener.Listen("tcp", listen)
	w.must(err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	c, err := dialer.DialContext(w.ctx, "tcp", dial)
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	w.must(l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second)))
	a, ok := <-accepted
	if !ok {
		w.t.Fatal("connected, but nothing was accepted")
	}
	w.t.Cleanup(func() { a.Close() })
	p := pair{c.(*net.TCPConn), a.(*net.TCPConn)}
	deadline, _ := w.ctx.Deadline()
	w.must(errors.Join(p.dialed.SetDeadline(deadline), p.accepted.SetDeadline(deadline)))
	return p
}

// onSocket runs fn on the descriptor of a socket.
func onSocket(c syscall.Conn, fn func(fd int) error) error {
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

// tcpInfo is what the kernel knows of a connection.
func tcpInfo(c *net.TCPConn) (info *unix.TCPInfo, err error) {
	err = onSocket(c, func(fd int) (err error) {
		info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		return err
	})
	return info, err
}

// Flags of tcpi_options (linux/tcp.h).
const (
	tcpTimestamps = 1 << iota
	tcpSACK
	tcpWindowScale
	tcpECN
)

// TestLinuxTCP lets two kernels' TCP say whether anything of theirs was lost
// on the way, with either side opening the connection.
func TestLinuxTCP(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, fromServer := range map[string]bool{"from the client": false, "from the server": true} {
		t.Run(name, func(t *testing.T) {
			w := judged(t, lab.Options{}, static("tcp", 8080, 80))
			for _, h := range []lab.Host{w.client, w.server} {
				w.must(h.SetSysctl("ipv4/tcp_ecn", "1")) // asks for ECN, also over IPv6
			}
			for _, part := range []struct {
				name string
				run  func(*world, pair) error
			}{
				{"options", optionsArrive}, {"half close", halfClose}, {"urgent data", urgentData}, {"keepalive", keepalive}, {"reset", resetArrives},
			} {
				if err := part.run(w, w.connect(fromServer)); err != nil {
					t.Errorf("%s: %v", part.name, err)
				}
				// The same with the ends' parts swapped.
				p := w.connect(fromServer)
				if err := part.run(w, pair{p.accepted, p.dialed}); err != nil {
					t.Errorf("%s, begun by who accepted: %v", part.name, err)
				}
			}
		})
	}
}

// optionsArrive compares what both ends have agreed on.
func optionsArrive(_ *world, p pair) error {
	a, err := tcpInfo(p.dialed)
	if err != nil {
		return err
	}
	b, err := tcpInfo(p.accepted)
	if err != nil {
		return err
	}
	const all = tcpTimestamps | tcpSACK | tcpWindowScale | tcpECN
	if a.Options&all != all || b.Options&all != all {
		return fmt.Errorf("options %04b and %04b, want ECN, window scale, SACK and timestamps at both ends", a.Options&all, b.Options&all)
	}
	return nil
}

// halfClose: one direction ends, the other goes on.
func halfClose(_ *world, p pair) error {
	if err := p.dialed.CloseWrite(); err != nil {
		return err
	}
	if n, err := p.accepted.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("the other end reads %d octets and %v, want the end", n, err)
	}
	answer := noise(100_000)
	go func() {
		_, _ = p.accepted.Write(answer) // what does not arrive is missed below
		p.accepted.Close()
	}()
	got, err := io.ReadAll(p.dialed)
	if err != nil || len(got) != len(answer) {
		return fmt.Errorf("after the half close %d of %d octets came: %w", len(got), len(answer), err)
	}
	return nil
}

// urgentData (RFC 9293 §3.8.5) comes out of band at the other end.
func urgentData(w *world, p pair) error {
	if err := onSocket(p.dialed, func(fd int) error { return unix.Send(fd, []byte("before!"), unix.MSG_OOB) }); err != nil {
		return fmt.Errorf("send urgent data: %w", err)
	}
	urgent := make([]byte, 1)
	w.eventually("the urgent octet arrives", 10*time.Second, func() error {
		return onSocket(p.accepted, func(fd int) error {
			_, _, err := unix.Recvfrom(fd, urgent, unix.MSG_OOB|unix.MSG_DONTWAIT)
			return err
		})
	})
	rest := make([]byte, 6)
	if _, err := io.ReadFull(p.accepted, rest); err != nil {
		return fmt.Errorf("what is not urgent: %w", err)
	}
	if string(rest)+string(urgent) != "before!" {
		return fmt.Errorf("received %q and urgently %q", rest, urgent)
	}
	return nil
}

// keepalive: probes of an idle connection reach the peer, answers come back.
func keepalive(w *world, p pair) error {
	before, err := tcpInfo(p.accepted)
	if err != nil {
		return err
	}
	if err := p.dialed.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}); err != nil {
		return err
	}
	// After the second probe without an answer the connection would be over.
	w.eventually("two probes arrive", 20*time.Second, func() error {
		now, err := tcpInfo(p.accepted)
		if err != nil {
			return err
		}
		if now.Segs_in < before.Segs_in+2 {
			return fmt.Errorf("%d segments more", now.Segs_in-before.Segs_in)
		}
		return nil
	})
	if err := p.dialed.SetKeepAlive(false); err != nil {
		return err
	}
	go func() { _, _ = p.accepted.Write([]byte("x")) }()
	if _, err := p.dialed.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("after the probes: %w", err)
	}
	return nil
}

// resetArrives: a connection that is aborted ends at the other end, too.
func resetArrives(_ *world, p pair) error {
	if err := errors.Join(p.dialed.SetLinger(0), p.dialed.Close()); err != nil {
		return err
	}
	if _, err := p.accepted.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("the other end reads %v, want a reset", err)
	}
	return nil
}
