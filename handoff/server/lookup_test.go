package server

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	api "handoff64/handoff/client"
)

func TestParseTime(t *testing.T) {
	want := time.Date(2019, 3, 18, 10, 6, 28, 0, time.UTC)
	for _, s := range []string{"2019-03-18T10:06:28Z", "2019-03-18T11:06:28+01:00", "2019-03-18 10:06:28", "2019-03-18 10:06:28.000000", "2019-03-18T10:06:28.000Z"} {
		if got, err := ParseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if got, err := ParseTime("2019-03-18 10:06:28.436754"); err != nil || got.Nanosecond() != 436754000 {
		t.Errorf("%v, %v", got, err)
	}
}

// dial asks a running server as programs do.
func dial(t *testing.T, target string) *api.Client {
	t.Helper()
	c, err := api.Dial(context.Background(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestLookupSockets: programs ask at the look-up socket and over TCP, about now
// and about then, and see nothing but that.
func TestLookupSockets(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	cfg.HTTP = netip.MustParseAddrPort("127.0.0.1:0")
	before := time.Now()
	r := start(t, cfg)
	one, two := r.at("127.0.0.1"), r.at("127.0.1.1")
	f.authenticate(one)
	e := f.ask(one, 7)
	socket, base := filepath.Join(cfg.StateDir, lookupName), "http://"+r.control.http
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Fatalf("%v (%v)", st, err)
	}
	ctx, at := context.Background(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), e.MappedPort)
	want := netip.AddrPortFrom(netip6(clientAddr), 7)
	for _, target := range []string{socket, base} {
		c := dial(t, target)
		if got, err := c.Lookup(ctx, at); err != nil || got != want {
			t.Errorf("%s: %v (%v), want %v", target, got, err, want)
		}
		if got, err := c.Lookup(ctx, netip.MustParseAddrPort("[::ffff:127.0.0.2]:"+strconv.Itoa(int(e.MappedPort)))); err != nil || got != want {
			t.Errorf("%s: as a socket for both families has it: %v (%v)", target, got, err)
		}
		if got, err := c.LookupAt(ctx, at, time.Now()); err != nil || got != want {
			t.Errorf("%s: just now: %v (%v), want %v", target, got, err, want)
		}
		for _, nobody := range []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:3719"), netip.AddrPortFrom(at.Addr(), 1), netip.MustParseAddrPort("[2001:db8::1]:1")} {
			if got, err := c.Lookup(ctx, nobody); !errors.Is(err, api.ErrNobody) {
				t.Errorf("%s: behind %v: %v (%v)", target, nobody, got, err)
			}
		}
		if got, err := c.LookupAt(ctx, at, before.Add(-time.Second)); !errors.Is(err, api.ErrNobody) {
			t.Errorf("%s: before: %v (%v)", target, got, err)
		}
		if a, err := c.Ask(ctx, api.Query{Address: at}); err != nil || !a.NAT64 || len(a.Clients) != 1 || a.Clients[0].Server != one.Addr() {
			t.Errorf("%s: %+v (%v)", target, a, err)
		}
	}
	// The same port towards another address of ours is another client's.
	f.authenticate(two)
	other := clientAddr
	other[15]++
	f.send(two, payload{token: f.token, auth: goodAuth, entry: entryOf(e.MappedPort, other, 8)})
	f.answer(two)
	if got, err := dial(t, socket).Lookup(ctx, at); !errors.Is(err, api.ErrAmbiguous) {
		t.Errorf("two clients: %v (%v)", got, err)
	}
	refuses(t, base)
}

// refuses sends what no client of ours does.
func refuses(t *testing.T, base string) {
	t.Helper()
	for _, ask := range []struct {
		path, host, origin string
		want               int
		say                string
	}{
		{"/lookup?address=127.0.0.2", "", "", 400, "address: "},
		{"/lookup", "", "", 400, "not an IPv4 address"},
		{"/lookup?address=[2001:db8::1]:1", "", "", 400, "not an IPv4 address"},
		{"/lookup?address=127.0.0.2:1&address=127.0.0.2:2", "", "", 400, "each once"},
		{"/lookup?address=127.0.0.2:1&at=yesterday", "", "", 400, "not a time"},
		{"/lookup?address=127.0.0.2:1&wait=long", "", "", 400, "wait: "},
		{"/lookup?address=127.0.0.2:1&who=me", "", "", 400, "who: "},
		{"/lookup?address=127.0.0.2:1", "evil.example:80", "", 403, "by address"},
		{"/lookup?address=127.0.0.2:1", "", "http://evil.example", 403, "by address"},
		{"/lookup?address=127.0.0.2:1", "localhost", "", 200, `"clients":[]`},
		{"/entries", "", "", 404, ""},
		{"/status", "", "", 404, ""},
		{"/", "", "", 200, "GET /lookup"},
	} {
		req, err := http.NewRequest(http.MethodGet, base+ask.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ask.host != "" {
			req.Host = ask.host
		}
		if ask.origin != "" {
			req.Header.Set("Origin", ask.origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err != nil || cerr != nil {
			t.Fatal(err, cerr)
		}
		if resp.StatusCode != ask.want || !strings.Contains(string(text), ask.say) {
			t.Errorf("%+v: %s: %s", ask, resp.Status, text)
		}
	}
}

// TestLookupWaits: a connection may be there before the NAT64 has told of it.
func TestLookupWaits(t *testing.T) {
	f := newFakeNAT64(t)
	r := start(t, testConfig(t, f))
	server := r.at("127.0.0.1")
	f.authenticate(server)
	c, ctx := dial(t, filepath.Join(r.cfg.StateDir, lookupName)), context.Background()
	at := netip.MustParseAddrPort("127.0.0.2:4242")
	if got, err := c.Lookup(ctx, at); !errors.Is(err, api.ErrNobody) {
		t.Fatalf("nobody yet, but %v (%v)", got, err)
	}
	c.Wait = 10 * time.Second
	answered := make(chan error, 1)
	go func() {
		got, err := c.Lookup(ctx, at)
		if err == nil && got != netip.AddrPortFrom(netip6(clientAddr), 9) {
			err = errors.New("it is " + got.String())
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	f.send(server, payload{token: f.token, auth: goodAuth, entry: entryOf(4242, clientAddr, 9)})
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	// Nothing can come for an address that is no NAT64's: it does not wait then.
	c.Wait = time.Hour
	if got, err := c.Lookup(ctx, netip.MustParseAddrPort("192.0.2.9:1")); !errors.Is(err, api.ErrNobody) {
		t.Errorf("%v (%v)", got, err)
	}
}

// TestLookupSocketPlace: where the socket lies can be chosen, and what is not a
// socket is not removed for it.
func TestLookupSocketPlace(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	cfg.LookupSocket = NoLookupSocket
	r := start(t, cfg)
	if _, err := os.Stat(filepath.Join(cfg.StateDir, lookupName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("none was asked for: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.LookupSocket = filepath.Join(t.TempDir(), "handoff")
	if err := os.WriteFile(cfg.LookupSocket, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(context.Background(), cfg, r.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(context.Background(), func() {}); !errors.Is(err, errNoSocket) {
		t.Errorf("in place of a file: %v", err)
	}
	if err := os.Remove(cfg.LookupSocket); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
	dial(t, cfg.LookupSocket)
}
