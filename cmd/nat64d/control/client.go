package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
)

// Client asks the nat64d that answers on one control socket. Safe for
// concurrent use.
type Client struct {
	path string
	http http.Client
}

// NewClient returns a client for the socket at path. Nothing is sent before the
// first question.
func NewClient(path string) *Client {
	var d net.Dialer
	return &Client{path: path, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", path) },
	}}}
}

// Status asks for the state of the translator.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.get(ctx, "/v1/status", &s)
}

// Stats asks for the counters.
func (c *Client) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	return s, c.get(ctx, "/v1/stats", &s)
}

// Drops asks for every drop reason with its count.
func (c *Client) Drops(ctx context.Context) ([]DropReason, error) {
	var d []DropReason
	return d, c.get(ctx, "/v1/drops", &d)
}

// Sessions calls each for every session that f chooses, as they arrive, until
// it returns an error.
func (c *Client) Sessions(ctx context.Context, f SessionFilter, each func(Session) error) error {
	path := "/v1/sessions"
	if q := f.Query().Encode(); q != "" {
		path += "?" + q
	}
	return stream(ctx, c, path, each)
}

// BIB calls each for every BIB entry, as they arrive, until it returns an error.
func (c *Client) BIB(ctx context.Context, each func(BIBEntry) error) error {
	return stream(ctx, c, "/v1/bib", each)
}

// Servers calls each for every known handoff server, as they arrive, until it
// returns an error.
func (c *Client) Servers(ctx context.Context, each func(HandoffServer) error) error {
	return stream(ctx, c, "/v1/servers", each)
}

// Flush ends all sessions, or forgets what handoff servers gave.
func (c *Client) Flush(ctx context.Context, handoffOnly bool) error {
	return c.post(ctx, "/v1/flush?handoff="+strconv.FormatBool(handoffOnly), struct{}{})
}

// Settings asks for every key of the configuration.
func (c *Client) Settings(ctx context.Context) (Settings, error) {
	var s Settings
	return s, c.get(ctx, "/v1/settings", &s)
}

// Set changes a live key of the configuration until the next reload.
func (c *Client) Set(ctx context.Context, key, value string) (Changed, error) {
	var answer Changed
	return answer, c.ask(ctx, "/v1/set", setRequest{key, value}, &answer)
}

// Reload has the configuration file read anew.
func (c *Client) Reload(ctx context.Context) (Changed, error) {
	var answer Changed
	return answer, c.ask(ctx, "/v1/reload", struct{}{}, &answer)
}

// AddBIB makes a static mapping.
func (c *Client) AddBIB(ctx context.Context, proto string, client, mapped netip.AddrPort) error {
	return c.post(ctx, "/v1/bib/add", bibRequest{proto, client, mapped})
}

// RemoveBIB takes a static mapping away.
func (c *Client) RemoveBIB(ctx context.Context, proto string, mapped netip.AddrPort) error {
	return c.post(ctx, "/v1/bib/remove", bibRequest{Protocol: proto, Mapped: mapped})
}

func (c *Client) get(ctx context.Context, path string, answer any) error {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of nat64d to %s: %w", path, err)
	}
	return nil
}

func (c *Client) post(ctx context.Context, path string, question any) error {
	return c.ask(ctx, path, question, &struct{}{})
}

// ask posts a question and reads the answer.
func (c *Client) ask(ctx context.Context, path string, question, answer any) error {
	b, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encoding the question: %w", err)
	}
	body, err := c.do(ctx, http.MethodPost, path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("reading the answer of nat64d to %s: %w", path, err)
	}
	return nil
}

// stream decodes one value a line with the memory of one.
func stream[T any](ctx context.Context, c *Client, path string, each func(T) error) error {
	body, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(body, 64<<10))
	for {
		var v T
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the answer of nat64d to %s: %w", path, err)
		}
		if err := each(v); err != nil {
			return err
		}
	}
}

// do sends a request and returns the body of a good answer.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// send returns a good answer.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://nat64d"+path, body)
	if err != nil {
		return nil, fmt.Errorf("asking nat64d: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var answer struct {
		Error    string   `json:"error"`
		Problems []string `json:"problems"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(&answer); err != nil || answer.Error == "" {
		return nil, fmt.Errorf("nat64d answered %s to %s", resp.Status, path)
	}
	if len(answer.Problems) > 0 {
		return nil, ConfigError{answer.Problems}
	}
	return nil, errors.New(answer.Error)
}

// unreachable says which socket did not answer and what to do about it.
func (c *Client) unreachable(err error) error {
	remedy := "is nat64d running?"
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		remedy = "nat64d runs but does not answer: look at its log"
	case errors.Is(err, fs.ErrNotExist):
		remedy = "start nat64d, or name its control_socket with --socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		remedy = "nat64d was killed: start it again"
	case errors.Is(err, fs.ErrPermission):
		remedy = "run as root or as a member of the socket's group"
	}
	// The URL that these carry is none of the user's business.
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		err = op.Err
	}
	return fmt.Errorf("no answer on %s: %w; %s", c.path, err, remedy)
}
