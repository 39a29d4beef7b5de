package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// lookupTimeout bounds what a connection waits for handoffd.
const lookupTimeout = 2 * time.Second

// Listener makes the connections of l have the real client as RemoteAddr, so
// that whatever logs, limits or refuses by it does so by the real client: a
// net/http server, for one, without a change. Connections whose client nobody
// knows, those without a NAT64 among them, keep the address that they have; so do
// all of them while handoffd does not answer, which log is told.
//
// The first call of RemoteAddr asks handoffd and may wait for it, c.Wait as a
// rule and never longer than two seconds; Accept does not.
func (c *Client) Listener(l net.Listener, log *slog.Logger) net.Listener {
	return &listener{Listener: l, c: c, log: log}
}

// listener is what Listener returns. As safe for several goroutines as what it
// wraps.
type listener struct {
	net.Listener
	c   *Client
	log *slog.Logger
}

func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, l: l}, nil
}

// Conn is a connection of a Listener. Safe for several goroutines.
type Conn struct {
	net.Conn
	l    *listener
	once sync.Once
	addr net.Addr
}

// RemoteAddr is the real client.
func (c *Conn) RemoteAddr() net.Addr {
	c.once.Do(c.find)
	return c.addr
}

// NAT64Addr is the address and port that the connection came from: the client's
// own, or those of the NAT64.
func (c *Conn) NAT64Addr() net.Addr { return c.Conn.RemoteAddr() }

// ReadFrom lets the kernel copy files into the connection, as without us.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends one direction, as net/http does before it closes.
func (c *Conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func (c *Conn) find() {
	c.addr = c.Conn.RemoteAddr()
	from, ok := addrPort(c.addr)
	if !ok {
		return // a Unix socket, for one
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	real, err := c.l.c.Lookup(ctx, from)
	switch {
	case err == nil:
		c.addr = net.TCPAddrFromAddrPort(real)
	case !errors.Is(err, ErrNobody):
		c.l.log.Error("the client of a connection is not known", "remote", from, "error", err)
	}
}

// addrPort reads the address of a TCP or UDP connection.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort(), true
	case *net.UDPAddr:
		return a.AddrPort(), true
	}
	return netip.AddrPort{}, false
}
