package control

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// PacketFilter chooses packets for a trace or a capture; its zero value chooses
// all. Fill it with Set.
type PacketFilter struct {
	Protocol   uint8        // protocol number, 1 for ICMP of both versions; 0 for any
	Client     netip.Prefix // IPv6
	Server     netip.Prefix // IPv4, or IPv6 as clients see it
	Mapped     netip.Addr   // IPv4
	ClientPort uint16       // the ports of these; 0 for any
	ServerPort uint16
	MappedPort uint16
	Port       uint16 // of any of them
	Dropped    bool   // whatever the reason
	Reason     string // of the drop
	Side       string // "", "ipv6" or "ipv4": where it came in
	Count      int    // so many packets at most; 0 for no limit

	given url.Values
}

// protocols are the words for protocol numbers.
var protocols = map[string]uint8{"icmp": 1, "icmpv6": 1, "tcp": 6, "udp": 17, "sctp": 132, "gre": 47, "esp": 50}

// Query is the filter as the query string that ParsePacketFilter reads.
func (f *PacketFilter) Query() url.Values { return f.given }

// ParsePacketFilter reads the query string of a request.
func ParsePacketFilter(q url.Values) (f PacketFilter, err error) {
	for key, values := range q {
		for _, v := range values {
			if err := f.Set(key, v); err != nil {
				return PacketFilter{}, err
			}
		}
	}
	return f, nil
}

// SetWord reads a term as a user writes it: key=value, or a bare word.
func (f *PacketFilter) SetWord(word string) error {
	key, value, found := strings.Cut(word, "=")
	switch {
	case found:
	case word == "dropped":
		key, value = "drop", "any"
	case word == "ipv6" || word == "ipv4":
		key, value = "side", word
	default:
		key, value = "proto", word
	}
	return f.Set(key, value)
}

// Set sets one condition by its name.
func (f *PacketFilter) Set(key, value string) error {
	var err error
	switch key {
	case "proto", "protocol":
		key = "proto"
		f.Protocol, err = parseProtocol(value)
	case "client":
		f.Client, f.ClientPort, err = parseEnd(value)
		if err == nil && f.Client.Addr().Is4() {
			err = fmt.Errorf("%q is no IPv6 address or prefix", value)
		}
	case "server":
		f.Server, f.ServerPort, err = parseEnd(value)
	case "mapped":
		var p netip.Prefix
		p, f.MappedPort, err = parseEnd(value)
		if err == nil && (!p.Addr().Is4() || !p.IsSingleIP()) {
			err = fmt.Errorf("%q is no IPv4 address", value)
		}
		f.Mapped = p.Addr()
	case "port":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 16)
		if f.Port = uint16(n); err != nil || n == 0 {
			err = fmt.Errorf("%q is no port; give a number from 1 to 65535", value)
		}
	case "drop":
		if f.Dropped = true; value != "any" {
			f.Reason = value
		}
	case "side":
		f.Side, err = oneOf(value, "ipv6", "ipv4")
	case "count":
		if f.Count, err = strconv.Atoi(value); err != nil || f.Count < 1 {
			err = fmt.Errorf("%q is no count; give a number from 1 up", value)
		}
	default:
		return fmt.Errorf("filter %q is unknown; give proto, client, server, mapped, port, drop, side or count", key)
	}
	if err != nil {
		return fmt.Errorf("filter %s: %w", key, err)
	}
	if f.given == nil {
		f.given = url.Values{}
	}
	f.given.Set(key, value)
	return nil
}

func parseProtocol(s string) (uint8, error) {
	if n, ok := protocols[strings.ToLower(s)]; ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is unknown; give tcp, udp, icmp or a protocol number", s)
	}
	return uint8(n), nil
}

// parseEnd reads an address, a prefix, or an address and a port.
func parseEnd(s string) (netip.Prefix, uint16, error) {
	if p, err := netip.ParsePrefix(s); err == nil && p.Bits() > 0 {
		return p.Masked(), 0, nil
	}
	e, err := parseEndpoint(s)
	if err != nil {
		return netip.Prefix{}, 0, fmt.Errorf("%q is no address, prefix, or address and port", s)
	}
	a := e.Addr.WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), e.Port, nil
}
