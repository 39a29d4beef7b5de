package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// endTimeout is how long nat64d may take to end a trace well.
const endTimeout = 5 * time.Second

// Trace calls each for every packet that f chooses. When ctx ends, nat64d shows
// what it has and ends the trace. missed is how many packets there was no room
// for.
func (c *Client) Trace(ctx context.Context, f PacketFilter, started func() error, each func(TraceEvent) error) (missed uint64, err error) {
	return c.tap(ctx, "/v1/trace", f.Query(), func(body io.Reader) error {
		if err := started(); err != nil {
			return err
		}
		dec := json.NewDecoder(body)
		for {
			var line struct {
				TraceEvent
				TraceEnd
			}
			err := dec.Decode(&line)
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				return err
			case line.Missed != nil:
				continue
			}
			if err := each(line.TraceEvent); err != nil {
				return err
			}
		}
	})
}

// Capture copies the packets that f chooses to w as pcapng, up to so many octets
// of each. When ctx ends, nat64d sends what it has and ends the capture.
func (c *Client) Capture(ctx context.Context, f PacketFilter, octets int, started func() error, w io.Writer) (missed uint64, err error) {
	q := url.Values{}
	for key, values := range f.Query() {
		q[key] = values
	}
	if octets > 0 {
		q.Set("octets", strconv.Itoa(octets))
	}
	return c.tap(ctx, "/v1/capture", q, func(body io.Reader) error {
		if err := started(); err != nil {
			return err
		}
		_, err := io.Copy(w, body)
		return err
	})
}

// tap reads a stream that goes on until ctx ends, and then to its end.
func (c *Client) tap(ctx context.Context, path string, q url.Values, read func(io.Reader) error) (missed uint64, err error) {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	whole, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	resp, err := c.send(whole, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(whole, endTimeout)
		defer cancel()
		// When nobody answers, the stream is cut: there is nothing to wait for.
		if body, err := c.do(end, http.MethodPost, "/v1/tap/"+resp.Header.Get(tapHeader)+"/end", bytes.NewReader(nil)); err != nil {
			cut()
		} else {
			body.Close()
		}
	})
	defer stop()
	if err := read(resp.Body); err != nil {
		return 0, fmt.Errorf("reading the answer of nat64d to %s: %w", path, err)
	}
	missed, _ = strconv.ParseUint(resp.Trailer.Get(missedTrailer), 10, 64)
	return missed, nil
}
