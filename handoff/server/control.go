package server

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
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// control answers the commands over a Unix socket in the state folder: bbolt
// lets one process at a time have the table. It runs its own goroutines.
//
//	GET /status                        Status
//	POST /mode?to=M                    changes the mode
//	GET /entries?nat64=A&address=A&mapped_port=N one Row a line
//
// Look-ups have sockets of their own: see lookuphttp.go.
type control struct {
	s       *Server
	servers []*http.Server
	http    string     // where TCP is listened on; empty: nowhere
	done    chan error // one for each server, when it has ended
}

// startControl opens every socket that others may ask at.
func startControl(s *Server) (*control, error) {
	c := &control{s: s, done: make(chan error, 3)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", c.status)
	mux.HandleFunc("GET /entries", c.entries)
	mux.HandleFunc("POST /mode", c.mode)
	l, err := listenUnix(filepath.Join(s.cfg.StateDir, socketName))
	if err != nil {
		return nil, err
	}
	c.serve(l, mux)
	if err := c.startLookups(); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// serve answers at a listener from now on.
func (c *control) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	c.servers = append(c.servers, srv)
	go func() { c.done <- srv.Serve(l) }()
}

// listenUnix makes a Unix socket for owner and group. It takes the name over from
// a server that was killed: the table's lock says that it is gone.
func listenUnix(path string) (net.Listener, error) {
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the socket %s (a path has at most 107 octets): %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("let the group use the socket: %w", err), l.Close())
	}
	return l, nil
}

// errNoSocket: what stands in a socket's place is somebody's.
var errNoSocket = errors.New("it is no socket")

// removeSocket removes a socket that was left, and nothing else.
func removeSocket(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && st.Mode().Type() != os.ModeSocket {
		err = errNoSocket
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove the old socket %s: %w", path, err)
	}
	return nil
}

func (c *control) close() error {
	var errs []error
	for _, srv := range c.servers {
		errs = append(errs, srv.Close())
	}
	for range c.servers {
		if served := <-c.done; !errors.Is(served, http.ErrServerClosed) {
			errs = append(errs, served)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the control sockets: %w", err)
	}
	return nil
}

func (c *control) status(w http.ResponseWriter, _ *http.Request) {
	s := c.s
	st := Status{
		Version: s.cfg.Version, UptimeS: int64(time.Since(s.started).Seconds()),
		Mode: s.mode().String(), Listen: s.socket.conn.LocalAddr().String(), Log: s.commit.log.path,
		LookupSocket: s.cfg.lookupSocket(), HTTP: c.http,
	}
	s.mu.Lock()
	st.Ready = s.ready
	s.table.describe(&st)
	s.mu.Unlock()
	s.counts.describe(&st.Counters)
	c.failed(json.NewEncoder(w).Encode(st))
}

// mode changes the mode.
func (c *control) mode(w http.ResponseWriter, r *http.Request) {
	m, err := ParseMode(r.URL.Query().Get("to"))
	if err == nil {
		err = c.s.SetMode(m)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

func (c *control) entries(w http.ResponseWriter, r *http.Request) {
	f, err := parseFilter(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	out := json.NewEncoder(w)
	c.failed(c.s.entries(f, func(r *Row) error { return out.Encode(r) }))
}

// failed notes that an answer did not get through: the asker has left.
func (c *control) failed(err error) {
	if err != nil {
		c.s.log.Debug("control socket", "error", err)
	}
}

func (f *Filter) values() url.Values {
	v := url.Values{}
	if f.NAT64.IsValid() {
		v.Set("nat64", f.NAT64.String())
	}
	if f.Address.IsValid() {
		v.Set("address", f.Address.String())
	}
	if f.MappedPort != 0 {
		v.Set("mapped_port", strconv.Itoa(int(f.MappedPort)))
	}
	return v
}

func parseFilter(v url.Values) (f Filter, err error) {
	if a := v.Get("nat64"); a != "" {
		if f.NAT64, err = netip.ParseAddr(a); err != nil {
			return f, fmt.Errorf("nat64: %w", err)
		}
	}
	if a := v.Get("address"); a != "" {
		if f.Address, err = netip.ParseAddr(a); err != nil {
			return f, fmt.Errorf("address: %w", err)
		}
	}
	if p := v.Get("mapped_port"); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return f, fmt.Errorf("mapped_port: %w", err)
		}
		f.MappedPort = uint16(n)
	}
	return f, nil
}

// remote is the View of a running server.
type remote struct{ http http.Client }

// dialControl finds out whether a server answers.
func dialControl(ctx context.Context, stateDir string) (*remote, error) {
	path := filepath.Join(stateDir, socketName)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	if err != nil {
		return nil, fmt.Errorf("ask the running handoffd: %w", err)
	}
	if err := conn.Close(); err != nil {
		return nil, fmt.Errorf("ask the running handoffd: %w", err)
	}
	return &remote{http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

func (c *remote) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// get asks for a page and has read read it.
func (c *remote) get(ctx context.Context, page string, read func(*json.Decoder) error) error {
	return c.ask(ctx, http.MethodGet, page, read)
}

func (c *remote) ask(ctx context.Context, method, page string, read func(*json.Decoder) error) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://handoffd/"+page, nil)
	if err != nil {
		return fmt.Errorf("ask the running handoffd: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running handoffd: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		text, rerr := io.ReadAll(io.LimitReader(resp.Body, 1024))
		err = errors.Join(fmt.Errorf("it answered %s: %s: %w", resp.Status, text, errRefusedAsk), rerr)
	} else {
		err = read(json.NewDecoder(resp.Body))
	}
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("ask the running handoffd: %w", err)
	}
	return nil
}

// ChangeMode has the running server change its mode.
func ChangeMode(ctx context.Context, stateDir string, m Mode) error {
	c, err := dialControl(ctx, stateDir)
	if err != nil {
		return err
	}
	err = c.ask(ctx, http.MethodPost, "mode?to="+m.String(), func(*json.Decoder) error { return nil })
	return errors.Join(err, c.Close())
}

// errRefusedAsk: program and server do not speak the same language.
var errRefusedAsk = errors.New("not understood")

func (c *remote) Status(ctx context.Context) (st Status, err error) {
	err = c.get(ctx, "status", func(d *json.Decoder) error { return d.Decode(&st) })
	return st, err
}

func (c *remote) Entries(ctx context.Context, f Filter, each func(*Row) error) error {
	return c.get(ctx, "entries?"+f.values().Encode(), func(d *json.Decoder) error {
		for {
			var r Row
			if err := d.Decode(&r); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := each(&r); err != nil {
				return err
			}
		}
	})
}
