package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// SessionFilter chooses sessions; its zero value chooses all.
type SessionFilter struct {
	Protocol string       // "" or "tcp", "udp", "icmp"
	Client   netip.Prefix // the zero Prefix matches every client
	Mapped   Endpoint
	Server   Endpoint // compared with server4 or server6, whichever family it is
	State    string   // compared without regard to case
	Origin   string
	Limit    int // at most so many sessions; 0 for no limit
}

// Endpoint is an address, or an address and a port. The zero value matches
// everything.
type Endpoint struct {
	Addr    netip.Addr
	Port    uint16
	HasPort bool
}

// Match says whether the filter chooses s. Limit is not looked at.
func (f *SessionFilter) Match(s *Session) bool {
	server := s.Server4
	if f.Server.Addr.Is6() {
		server = s.Server6
	}
	return (f.Protocol == "" || f.Protocol == s.Protocol) &&
		(!f.Client.IsValid() || f.Client.Contains(s.Client.Addr())) &&
		f.Mapped.match(s.Mapped) &&
		f.Server.match(server) &&
		(f.State == "" || strings.EqualFold(f.State, s.State)) &&
		(f.Origin == "" || f.Origin == s.Origin)
}

func (e Endpoint) match(ap netip.AddrPort) bool {
	return !e.Addr.IsValid() || e.Addr == ap.Addr() && (!e.HasPort || e.Port == ap.Port())
}

// Query is the filter as the query string that ParseFilter reads.
func (f SessionFilter) Query() url.Values {
	q := url.Values{}
	set := func(key, value string, given bool) {
		if given {
			q.Set(key, value)
		}
	}
	set("protocol", f.Protocol, f.Protocol != "")
	set("client", f.Client.String(), f.Client.IsValid())
	set("mapped", f.Mapped.String(), f.Mapped.Addr.IsValid())
	set("server", f.Server.String(), f.Server.Addr.IsValid())
	set("state", f.State, f.State != "")
	set("origin", f.Origin, f.Origin != "")
	set("limit", strconv.Itoa(f.Limit), f.Limit > 0)
	return q
}

// ParseFilter reads the query string of a request for sessions.
func ParseFilter(q url.Values) (SessionFilter, error) {
	var f SessionFilter
	for key, values := range q {
		for _, v := range values {
			if err := f.Set(key, v); err != nil {
				return SessionFilter{}, err
			}
		}
	}
	return f, nil
}

// Set sets one condition of the filter by its name, as a user writes it.
func (f *SessionFilter) Set(key, value string) error {
	var err error
	switch key {
	case "protocol", "proto":
		f.Protocol, err = oneOf(strings.ToLower(value), "tcp", "udp", "icmp")
	case "client":
		f.Client, err = parsePrefix(value)
	case "mapped":
		f.Mapped, err = parseEndpoint(value)
		if err == nil && !f.Mapped.Addr.Is4() {
			err = fmt.Errorf("%q is no IPv4 address", value)
		}
	case "server":
		f.Server, err = parseEndpoint(value)
	case "state":
		f.State = value
	case "origin":
		f.Origin, err = oneOf(strings.ToLower(value), "nat64", "handoff", "static")
	case "limit":
		f.Limit, err = strconv.Atoi(value)
		if err != nil || f.Limit < 1 {
			err = fmt.Errorf("%q is no count; give a number from 1 up", value)
		}
	default:
		return fmt.Errorf("filter %q is unknown; give proto, client, mapped, server, state, origin or limit", key)
	}
	if err != nil {
		return fmt.Errorf("filter %s: %w", key, err)
	}
	return nil
}

func oneOf(value string, words ...string) (string, error) {
	for _, w := range words {
		if w == value {
			return value, nil
		}
	}
	return "", fmt.Errorf("%q is unknown; give %s", value, strings.Join(words, ", "))
}

// parsePrefix reads an IPv6 address or prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return netip.PrefixFrom(a.WithZone(""), 128), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is6() {
		return netip.Prefix{}, fmt.Errorf("%q is no IPv6 address or prefix", s)
	}
	return p.Masked(), nil
}

// parseEndpoint reads an address, or an address and a port.
func parseEndpoint(s string) (Endpoint, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return Endpoint{Addr: a}, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return Endpoint{}, fmt.Errorf("%q is no address, nor an address and a port", s)
	}
	return Endpoint{Addr: ap.Addr(), Port: ap.Port(), HasPort: true}, nil
}

// String is what parseEndpoint reads.
func (e Endpoint) String() string {
	if e.HasPort {
		return netip.AddrPortFrom(e.Addr, e.Port).String()
	}
	return e.Addr.String()
}
