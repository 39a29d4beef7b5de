package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	api "handoff64/handoff/client"
)

// startLookups opens the sockets for programs that want to know who their clients
// are, and should not see or do more: a Unix socket, and, if asked for, a TCP port.
//
//	GET /lookup?address=A:P&at=TIME&wait=DURATION   client.Answer
func (c *control) startLookups() error {
	cfg := &c.s.cfg
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", about)
	mux.HandleFunc("GET /lookup", c.lookup)
	if path := cfg.lookupSocket(); path != "" {
		l, err := listenUnix(path)
		if err != nil {
			return err
		}
		c.serve(l, mux)
	}
	if cfg.HTTP.IsValid() {
		l, err := net.Listen("tcp", cfg.HTTP.String())
		if err != nil {
			return fmt.Errorf("bind the HTTP port: %w", err)
		}
		if !cfg.HTTP.Addr().IsLoopback() {
			c.s.log.Warn("everybody who reaches this port may ask who the clients are", "http", l.Addr())
		}
		c.http = l.Addr().String()
		c.serve(l, sameHost(mux))
	}
	return nil
}

// about tells whoever looks what this is.
func about(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, "handoffd: GET /lookup?address=192.0.2.7:3719, also with &at=2019-03-18T10:06:28Z\n")
}

// sameHost keeps web pages from asking through their readers' browser: under a
// name of its own that leads here (DNS rebinding), or from another origin.
func sameHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		_, err := netip.ParseAddr(host)
		if err != nil && host != "localhost" || r.Header.Get("Origin") != "" {
			http.Error(w, "ask by address or as localhost, and not from a web page", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *control) lookup(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err == nil {
		err = checkQuery(q)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a, err := c.s.lookup(r.Context(), q)
	if err != nil {
		c.s.log.Error("look-up", "address", q.Address, "at", q.At, "error", err)
		http.Error(w, "handoffd cannot read its log; its own says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	c.failed(json.NewEncoder(w).Encode(a))
}

// errParameter: one that a look-up does not have, or has once.
var errParameter = errors.New("parameters are address, at and wait, each once")

// parseQuery is client.Query.Values backwards.
func parseQuery(v url.Values) (q api.Query, err error) {
	for name, values := range v {
		if len(values) != 1 {
			return q, fmt.Errorf("%s: %w", name, errParameter)
		}
		switch name {
		case "address":
			q.Address, err = netip.ParseAddrPort(values[0])
		case "at":
			q.At, err = ParseTime(values[0])
		case "wait":
			q.Wait, err = time.ParseDuration(values[0])
		default:
			err = errParameter
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", name, err)
		}
	}
	return q, nil
}

// errTime says what a time looks like.
var errTime = errors.New(`not a time such as 2019-03-18T10:06:28Z or "2019-03-18 10:06:28.436754"`)

// ParseTime reads RFC 3339, and the log's own form with or without a fraction.
func ParseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339Nano, time.DateTime} { // a fraction is accepted unasked
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errTime
}
