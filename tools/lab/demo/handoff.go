package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// The download of this part takes so long that all of it happens meanwhile.
const (
	slowOctets = 40_000_000
	slowRate   = 8_000_000 // a second

	// patience bounds each wait of this part.
	patience = 20 * time.Second
)

// handoff holds a download open while handoffd starts, while nat64d learns of
// it, and while nat64d is killed and starts again without its session tables.
func (s *show) handoff(ctx context.Context) error {
	// An error here must not leave a download behind that others wait for.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var got atomic.Int64
	type outcome struct {
		traffic.Transfer
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		t, err := traffic.DownloadSlowly(ctx, s.lab.Host("client"), s.web, slowOctets, slowRate, &got)
		done <- outcome{t, err}
	}()
	s.print("    client$ get http://%s/   (%d MB, slowly)\n", s.web, slowOctets/1_000_000)
	if err := s.await(ctx, "the download begins", func() error { return atLeast(&got, 1_000_000) }); err != nil {
		return err
	}
	mapped, client, err := s.downloading(ctx)
	if err != nil {
		return err
	}
	if err := s.adopt(ctx); err != nil {
		return err
	}
	if err := s.forget(ctx, got.Load()); err != nil {
		return err
	}
	end := <-done
	if end.err != nil {
		return end.err
	}
	s.print("    the download went on: %d octets in %.1f s\n    SHA-256 %s, the same at both ends\n", end.Octets, end.Elapsed.Seconds(), end.SHA256)
	return s.lookup(ctx, mapped, client)
}

// await waits until condition holds; what it returns is why it does not.
func (s *show) await(ctx context.Context, what string, condition func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := condition()
		if err == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func atLeast(got *atomic.Int64, want int64) error {
	if n := got.Load(); n < want {
		return fmt.Errorf("%d octets of %d", n, want)
	}
	return nil
}

// downloading finds the connection of the download: what it is mapped to, and
// the client behind it. The newest connection to the web server is meant.
func (s *show) downloading(ctx context.Context) (mapped, client string, err error) {
	sessions, err := s.daemon.Sessions(ctx)
	if err != nil {
		return "", "", err
	}
	web := netip.AddrPortFrom(s.lab.Server(), 80).String()
	for _, one := range sessions {
		if one.Protocol == "tcp" && one.Server4 == web && one.State == "ESTABLISHED" {
			return one.Mapped, one.Client, nil
		}
	}
	return "", "", fmt.Errorf("no established connection to %s is listed", web)
}

// adopt starts handoffd and has nat64d find it.
func (s *show) adopt(ctx context.Context) error {
	if err := s.server.Start(ctx); err != nil {
		return err
	}
	s.print("    server$ handoffd run   (beside the web server, unknown to it)\n")
	to := netip.AddrPortFrom(lab.Embed(s.lab.Server()), 7)
	server := s.lab.Server().String()
	err := s.await(ctx, "nat64d finds the handoff server", func() error {
		// A new connection is what nat64d tells the server of.
		c, err := s.lab.Host("client").DialContext(ctx, "udp6", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := traffic.Exchange(c, []byte("anybody there?")); err != nil {
			return err
		}
		known, err := s.daemon.Servers(ctx)
		if err == nil && known[server].State != "handoff" {
			err = fmt.Errorf("it takes %s for %q", server, known[server].State)
		}
		return err
	})
	if err != nil {
		return err
	}
	out, err := s.daemon.Ctl(ctx, "servers")
	if err != nil {
		return err
	}
	s.print("    nat64$ nat64ctl servers\n")
	s.indent(out)
	return nil
}

// forget kills nat64d and takes away what it had written down.
func (s *show) forget(ctx context.Context, octets int64) error {
	mapped, _, err := s.downloading(ctx)
	if err != nil {
		return err
	}
	err = s.await(ctx, "the server has the download's entry", func() error {
		_, err := s.server.Lookup(ctx, mapped)
		return err
	})
	if err != nil {
		return err
	}
	if err := errors.Join(s.daemon.Kill(), os.RemoveAll(s.daemon.Tables())); err != nil {
		return err
	}
	s.print("    nat64$ kill -9 nat64d, and its session tables deleted, after %d MB of the download\n", octets/1_000_000)
	if err := s.daemon.Start(ctx); err != nil {
		return err
	}
	s.print("    nat64$ nat64d run\n")
	return nil
}

// lookup asks who the server's client was, and shows the log.
func (s *show) lookup(ctx context.Context, mapped, client string) error {
	got, err := s.server.Lookup(ctx, mapped)
	if err != nil {
		return err
	}
	s.print("    server$ handoffd lookup %s\n    %s\n", mapped, got)
	if got != client {
		return fmt.Errorf("the lookup says %s, the client is %s", got, client)
	}
	text, err := os.ReadFile(s.server.EventLog())
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), " Created "+mapped+" "+client) {
		return fmt.Errorf("the log does not say that %s was created for %s", mapped, client)
	}
	s.print("    server$ grep -e Initialized -e %s handoffd.log\n", mapped)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " Initialized ") || strings.Contains(line, " "+mapped+" ") {
			s.indent(line)
		}
	}
	return nil
}
