package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeHandoffd answers look-ups from a map, on a Unix socket. Keys are an address
// and port, with a time behind it if there is one, or an address with any port.
func fakeHandoffd(t *testing.T, behind map[string][]Holder) (socket string, srv *httptest.Server) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /lookup", func(w http.ResponseWriter, r *http.Request) {
		at := netip.MustParseAddrPort(r.FormValue("address"))
		found := behind[at.String()+r.FormValue("at")]
		if found == nil {
			found = behind[at.Addr().String()]
		}
		json.NewEncoder(w).Encode(Answer{Address: at.Addr(), Port: at.Port(), Clients: found})
	})
	socket = filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv = &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	srv.Start()
	t.Cleanup(srv.Close)
	return socket, srv
}

func holder(a string) Holder {
	ap := netip.MustParseAddrPort(a)
	return Holder{Client: ap.Addr(), ClientPort: ap.Port()}
}

func TestLookup(t *testing.T) {
	a, b := holder("[2001:db8::1]:1"), holder("[2001:db8::2]:1")
	same := a
	same.Server = netip.MustParseAddr("198.51.100.1")
	socket, srv := fakeHandoffd(t, map[string][]Holder{
		"192.0.2.7:1": {a}, "192.0.2.7:2": {a, b}, "192.0.2.7:3": {a, same}, "192.0.2.7:12026-01-01T00:00:00Z": {b},
	})
	ctx := context.Background()
	c, err := Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for at, want := range map[string]struct {
		client netip.AddrPort
		err    error
	}{
		"192.0.2.7:1": {a.AddrPort(), nil}, "192.0.2.7:2": {netip.AddrPort{}, ErrAmbiguous}, "192.0.2.7:3": {a.AddrPort(), nil},
		"192.0.2.7:4": {netip.AddrPort{}, ErrNobody}, "[::ffff:192.0.2.7]:1": {a.AddrPort(), nil}, "[2001:db8::9]:1": {netip.AddrPort{}, ErrNobody},
	} {
		if got, err := c.Lookup(ctx, netip.MustParseAddrPort(at)); got != want.client || !errors.Is(err, want.err) {
			t.Errorf("%s: %v (%v), want %v (%v)", at, got, err, want.client, want.err)
		}
	}
	when := time.Date(2026, 1, 1, 1, 0, 0, 0, time.FixedZone("CET", 3600))
	if got, err := c.LookupAt(ctx, netip.MustParseAddrPort("192.0.2.7:1"), when); err != nil || got != b.AddrPort() {
		t.Errorf("then: %v (%v)", got, err)
	}
	srv.Close()
	if _, err := c.Lookup(ctx, netip.MustParseAddrPort("192.0.2.7:1")); err == nil || errors.Is(err, ErrNobody) {
		t.Errorf("without handoffd: %v", err)
	}
	for target, want := range map[string]string{socket: "ask handoffd", "handoffd.example": "neither the path", "http://127.0.0.1:1": "ask handoffd"} {
		if _, err := Dial(ctx, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// TestListener: a net/http server that knows nothing of NAT64 sees the real
// client, and the connection's own address when nobody knows better or nobody
// answers.
func TestListener(t *testing.T) {
	real := holder("[2001:db8::1]:53186")
	behind := map[string][]Holder{"127.0.0.1": {real}}
	socket, fake := fakeHandoffd(t, behind)
	c, err := Dial(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) })}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(c.Listener(inner, slog.New(slog.NewTextHandler(&said, nil)))) }()
	ask := func() (remote, local string) {
		t.Helper()
		conn, err := net.Dial("tcp4", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		local = conn.LocalAddr().String()
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		_, remote, _ = strings.Cut(string(text), "\r\n\r\n")
		return remote, local
	}
	if remote, _ := ask(); remote != real.AddrPort().String() {
		t.Errorf("the client is %s, want %s", remote, real.AddrPort())
	}
	delete(behind, "127.0.0.1")
	if remote, local := ask(); remote != local {
		t.Errorf("a client of its own: %s, want %s", remote, local)
	}
	fake.Close()
	if remote, local := ask(); remote != local {
		t.Errorf("without handoffd: %s, want %s", remote, local)
	}
	if err := srv.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Fatal(err)
	}
	if n := strings.Count(said.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors in the log:\n%s", n, said.String())
	}
}

// TestConn: what the wrapped connection can do, the wrapping can.
func TestConn(t *testing.T) {
	real := holder("[2001:db8::1]:1")
	behind := map[string][]Holder{}
	socket, _ := fakeHandoffd(t, behind)
	c, err := Dial(context.Background(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := c.Listener(inner, slog.New(slog.DiscardHandler))
	defer l.Close()
	peer, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	behind[peer.LocalAddr().String()] = []Holder{real}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		if got := conn.RemoteAddr().String(); got != real.AddrPort().String() {
			t.Errorf("it comes from %s", got)
		}
		behind[peer.LocalAddr().String()] = nil // it is not asked for again
	}
	if got := conn.(*Conn).NAT64Addr().String(); got != peer.LocalAddr().String() {
		t.Errorf("the NAT64 is %s", got)
	}
	if n, err := conn.(io.ReaderFrom).ReadFrom(strings.NewReader("octets")); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	if err := conn.(*Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(peer); err != nil || string(text) != "octets" {
		t.Errorf("%q (%v)", text, err)
	}
	pipe, _ := net.Pipe()
	if err := (&Conn{Conn: pipe}).CloseWrite(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("half of a pipe: %v", err)
	}
}
