package control_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

// Closing waits for whoever walks the daemon's tables, because they go next,
// and cuts off walks that would not end by themselves: one that finds nothing
// to show, and one whose reader takes nothing. Neither is a failure to stop.
func TestCloseEndsWalks(t *testing.T) {
	for _, query := range []string{"?protocol=udp", "?protocol=tcp"} {
		d := controltest.New()
		var begun, ended atomic.Bool
		walking := make(chan struct{})
		s := controltest.ExampleSessions()[0]
		s.Protocol, s.Client = "tcp", netip.MustParseAddrPort("[2001:db8::1]:1")
		d.SessionsFunc = func(yield func(control.Session) bool) {
			for yield(s) {
				if !begun.Swap(true) {
					close(walking)
				}
			}
			ended.Store(true)
		}
		path := filepath.Join(t.TempDir(), "s")
		server, err := control.Start(path, "", d, quiet)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /v1/sessions"+query+" HTTP/1.1\r\nHost: nat64d\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-walking
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := server.Close(ctx); err != nil {
			t.Errorf("%s: %v", query, err)
		}
		if !ended.Load() {
			t.Errorf("%s: closed while the table is walked", query)
		}
		c.Close()
	}
}
