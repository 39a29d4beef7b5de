package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// embedded is the server's port as the client calls it.
func (w *world) embedded(port uint16) string {
	return netip.AddrPortFrom(lab.Embed(w.Server()), port).String()
}

// web starts a web server on the server and returns its address for clients.
func (w *world) web() string {
	w.t.Helper()
	web, err := traffic.ServeWeb(w.server, netip.AddrPortFrom(w.Server(), 80).String())
	w.must(err)
	w.t.Cleanup(func() { web.Close() })
	return w.embedded(80)
}

func TestTCPSmallTransfers(t *testing.T) {
	t.Parallel()
	w := plain(t)
	web := w.web()
	for _, n := range []int64{0, 1, 1000, 1439, 1440, 1441, 100_000} {
		if _, err := traffic.Download(w.ctx, w.client, web, n); err != nil {
			t.Error(err)
		}
		if _, err := traffic.Upload(w.ctx, w.client, web, n); err != nil {
			t.Error(err)
		}
	}
	if s := w.stats(); s.Translated.V6ToV4 == 0 || s.Translated.V4ToV6 == 0 {
		t.Errorf("transfers succeeded, but not through nat64d: %+v", s.Translated)
	}
}

const gigabyte = 1 << 30

func TestTCPGigabyteDownload(t *testing.T) {
	t.Parallel()
	w := plain(t)
	got, err := traffic.Download(w.ctx, w.client, w.web(), gigabyte)
	w.must(err)
	t.Logf("%d octets, %.0f Mbit/s", got.Octets, got.Mbps())
	if s := w.stats(); s.Translated.V4ToV6 < gigabyte/1440 {
		t.Errorf("only %d packets were translated from IPv4", s.Translated.V4ToV6)
	}
}

func TestTCPGigabyteUpload(t *testing.T) {
	t.Parallel()
	w := plain(t)
	got, err := traffic.Upload(w.ctx, w.client, w.web(), gigabyte)
	w.must(err)
	t.Logf("%d octets, %.0f Mbit/s", got.Octets, got.Mbps())
	if s := w.stats(); s.Translated.V6ToV4 < gigabyte/1440 {
		t.Errorf("only %d packets were translated from IPv6", s.Translated.V6ToV4)
	}
}

// echoTCP answers each connection with what it sends, until the test ends.
// It returns the peers' addresses as the server sees them.
func (w *world) echoTCP(h lab.Host, address string) <-chan netip.AddrPort {
	w.t.Helper()
	l, err := h.Listen("tcp", address)
	w.must(err)
	w.t.Cleanup(func() { l.Close() })
	peers := make(chan netip.AddrPort, 2048)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
			go func() {
				defer c.Close()
				// A connection that breaks is noticed at its other end.
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return peers
}

// say sends a line over a connection to an echo and waits for it.
func say(ctx context.Context, c net.Conn, line string) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	got := make([]byte, len(line)+1)
	if _, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("receive the echo: %w", err)
	}
	if string(got) != line+"\n" {
		return fmt.Errorf("said %q, heard %q", line, got)
	}
	return nil
}

func TestThousandParallelConnections(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.echoTCP(w.server, netip.AddrPortFrom(w.Server(), 7).String())
	const n = 1000
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	each := func(do func(i int) error) {
		t.Helper()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { errs[i] = do(i) })
		}
		wg.Wait()
		w.must(errors.Join(errs...))
	}
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	})
	each(func(i int) (err error) {
		conns[i], err = w.client.DialContext(w.ctx, "tcp", w.embedded(7))
		return err
	})
	sessions, err := w.d.Sessions(w.ctx)
	w.must(err)
	mapped := make(map[string]bool)
	for _, s := range sessions {
		if s.Protocol == "tcp" {
			mapped[s.Mapped] = true
		}
	}
	if len(mapped) != n {
		t.Errorf("%d connections are open and %d mapped ports in use", n, len(mapped))
	}
	each(func(i int) error { return say(w.ctx, conns[i], fmt.Sprintf("connection %d says %0900d", i, i)) })
}

// Simultaneous halves: each side closes its direction at another time, and
// nothing of the other direction is lost.
func TestTCPHalfClose(t *testing.T) {
	t.Parallel()
	w := plain(t)
	l, err := w.server.Listen("tcp", netip.AddrPortFrom(w.Server(), 9000).String())
	w.must(err)
	defer l.Close()
	question, answer := bytes.Repeat([]byte("question "), 5000), bytes.Repeat([]byte("answer "), 5000)
	served := make(chan error, 1)
	go func() { served <- answerAfterEOF(l, question, answer) }()
	c, err := w.client.DialContext(w.ctx, "tcp", w.embedded(9000))
	w.must(err)
	defer c.Close()
	_, err = c.Write(question)
	w.must(err)
	w.must(c.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(c)
	w.must(err)
	w.must(<-served)
	if !bytes.Equal(got, answer) {
		t.Errorf("got %d octets, want %d", len(got), len(answer))
	}
}

// answerAfterEOF answers only once the question has ended.
func answerAfterEOF(l net.Listener, question, answer []byte) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := io.ReadAll(bufio.NewReader(c))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, question) {
		return fmt.Errorf("the question has %d octets, not %d", len(got), len(question))
	}
	_, err = c.Write(answer)
	return err
}

// A port where nobody listens answers with a reset, which must come through.
func TestTCPRefused(t *testing.T) {
	t.Parallel()
	w := plain(t)
	c, err := w.client.DialContext(w.ctx, "tcp", w.embedded(81))
	if err == nil {
		c.Close()
		t.Fatal("connected to a closed port")
	}
	if !isRefused(err) {
		t.Errorf("error is %v, want connection refused", err)
	}
}
