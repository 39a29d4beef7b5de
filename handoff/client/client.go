package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// DefaultSocket is where handoffd answers look-ups unless configured otherwise.
const DefaultSocket = "/var/lib/handoffd/lookup.sock"

// Holder is a client behind a mapped port. A plain value. Server, our own
// address that was asked, is not valid where nothing says which it was: the text
// log does not.
type Holder struct {
	Client     netip.Addr `json:"client"`
	ClientPort uint16     `json:"client_port"`
	Server     netip.Addr `json:"server,omitzero"`
}

// AddrPort is the client's address with its port.
func (h Holder) AddrPort() netip.AddrPort { return netip.AddrPortFrom(h.Client, h.ClientPort) }

// Answer is what handoffd says about an address and port. A plain value.
type Answer struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// At is the time that was asked for; zero is now.
	At time.Time `json:"at,omitzero"`
	// NAT64 says that handoffd knows the address as one of a NAT64. If it does
	// not, whoever has it has it alone: it is the client's own.
	NAT64 bool `json:"nat64"`
	// Clients is empty when nobody is known, and has more than one element
	// when several of this host's addresses were asked, each of which has a
	// table of its own.
	Clients []Holder `json:"clients"`
}

// Query is what is asked. A plain value.
type Query struct {
	Address netip.AddrPort
	// At is a time in the past; zero is now.
	At time.Time
	// Wait is how long handoffd may wait for the entry of an address that it
	// knows as a NAT64's: what the NAT64 tells it of a new connection may come
	// a moment after the connection itself. It has no effect with At.
	Wait time.Duration
}

// Values is the query as the parameters of GET /lookup.
func (q Query) Values() url.Values {
	v := url.Values{"address": {q.Address.String()}}
	if !q.At.IsZero() {
		v.Set("at", q.At.UTC().Format(time.RFC3339Nano))
	}
	if q.Wait > 0 {
		v.Set("wait", q.Wait.String())
	}
	return v
}

var (
	// ErrNobody: nobody is, or was, behind this address and port as far as
	// handoffd knows.
	ErrNobody = errors.New("nobody is known to be behind it")
	// ErrAmbiguous: more than one client is, one for each of our addresses.
	ErrAmbiguous = errors.New("the answer depends on which of this host's addresses was asked")

	errAnswer = errors.New("handoffd did not accept the question")
	errTarget = errors.New(`neither the path of a socket nor a URL that begins with http://`)
)

// Client asks a running handoffd. Safe for several goroutines at a time. Make
// it with Dial.
type Client struct {
	base string // what the path of a request is appended to
	http http.Client

	// Wait is the Query.Wait of Lookup and of all that builds on it. Set it
	// before the client is used.
	Wait time.Duration
}

// DefaultWait covers the pause of 10 ms that a NAT64 makes to send what it has
// to tell in one datagram, and the disk of the server.
const DefaultWait = 250 * time.Millisecond

// Dial finds out whether a handoffd answers. target is the path of its look-up
// socket (handoffd run --lookup-socket), or http://ADDRESS:PORT (--http).
func Dial(ctx context.Context, target string) (*Client, error) {
	c := &Client{base: strings.TrimSuffix(target, "/"), Wait: DefaultWait}
	t := &http.Transport{MaxIdleConns: 64, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	switch {
	case strings.HasPrefix(target, "http://"):
	case strings.HasPrefix(target, "/") || strings.HasPrefix(target, "."):
		c.base = "http://handoffd"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", target)
		}
	default:
		return nil, fmt.Errorf("ask handoffd at %q: %w", target, errTarget)
	}
	c.http.Transport = t
	if err := c.get(ctx, "/", io.Discard); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Close gives up idle connections. A look-up after it makes a new one.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ask asks for all there is to know.
func (c *Client) Ask(ctx context.Context, q Query) (a Answer, err error) {
	err = c.get(ctx, "/lookup?"+q.Values().Encode(), &a)
	return a, err
}

// Lookup says who is behind an address and port, such as the RemoteAddr of a
// connection. ErrNobody: as far as is known the address is the client's own.
func (c *Client) Lookup(ctx context.Context, at netip.AddrPort) (netip.AddrPort, error) {
	return c.one(ctx, Query{Address: at, Wait: c.Wait})
}

// LookupAt says who was behind an address and port at a time.
func (c *Client) LookupAt(ctx context.Context, at netip.AddrPort, when time.Time) (netip.AddrPort, error) {
	return c.one(ctx, Query{Address: at, At: when})
}

// one wants exactly one client.
func (c *Client) one(ctx context.Context, q Query) (netip.AddrPort, error) {
	q.Address = netip.AddrPortFrom(q.Address.Addr().Unmap(), q.Address.Port())
	if !q.Address.Addr().Is4() {
		return netip.AddrPort{}, fmt.Errorf("%v: %w", q.Address, ErrNobody) // IPv6: nothing is hidden
	}
	a, err := c.Ask(ctx, q)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return a.One()
}

// One is the answer's client if there is exactly one, else ErrNobody or
// ErrAmbiguous.
func (a Answer) One() (netip.AddrPort, error) {
	for i := range a.Clients {
		if a.Clients[i].AddrPort() != a.Clients[0].AddrPort() {
			return netip.AddrPort{}, fmt.Errorf("%v: %w", netip.AddrPortFrom(a.Address, a.Port), ErrAmbiguous)
		}
	}
	if len(a.Clients) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%v: %w", netip.AddrPortFrom(a.Address, a.Port), ErrNobody)
	}
	return a.Clients[0].AddrPort(), nil
}

// get asks for a page. into is an io.Writer for text, else what JSON fills.
func (c *Client) get(ctx context.Context, page string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+page, nil)
	if err != nil {
		return fmt.Errorf("ask handoffd: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask handoffd: %w", err)
	}
	const most = 1 << 20
	body := io.LimitReader(resp.Body, most)
	if resp.StatusCode != http.StatusOK {
		text, rerr := io.ReadAll(body)
		err = errors.Join(fmt.Errorf("%w: %s: %s", errAnswer, resp.Status, strings.TrimSpace(string(text))), rerr)
	} else if w, ok := into.(io.Writer); ok {
		_, err = io.Copy(w, body)
	} else {
		err = json.NewDecoder(body).Decode(into)
		if err == nil {
			_, err = io.Copy(io.Discard, body) // else the connection is not used again
		}
	}
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("ask handoffd: %w", err)
	}
	return nil
}
