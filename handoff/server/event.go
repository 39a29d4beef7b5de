package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// EventKind is what happened.
type EventKind uint8

// The events of the log (protocol page, §9).
const (
	Initialized EventKind = iota // a NAT64 has been authenticated
	Created                      // an entry now exists
	Deleted                      // an entry has gone
)

// eventNames is read only.
var eventNames = [...]string{Initialized: "Initialized", Created: "Created", Deleted: "Deleted"}

func (k EventKind) String() string { return eventNames[k] }

// Event is one line of the log. A plain value. Initialized has no address, no
// mapped port and no client.
type Event struct {
	Time  int64 // microseconds since 1970, UTC
	Kind  EventKind
	NAT64 addr4
	// Address is what local programs and their logs see the client under: the
	// NAT64's own, or one of our pool.
	Address addr4
	// MappedPort is 0 when the client has the whole address, and then uses its
	// own ports. Below 256 it is no port but the number of a protocol without
	// ports that the client alone has there: mapped ports begin at 1024.
	// ClientPort is the same as MappedPort in these two cases.
	MappedPort uint16
	Client     addr6
	ClientPort uint16
	Server     addr4 // our own address that the NAT64 asked
}

// TimeLayout is how the text log writes UTC.
const TimeLayout = "2006-01-02 15:04:05.000000"

// jsonTimeLayout is RFC 3339, which every reader of JSON logs understands.
const jsonTimeLayout = "2006-01-02T15:04:05.000000Z"

// appendText appends the event as a line of the text log.
func (e *Event) appendText(dst []byte) []byte {
	dst = time.UnixMicro(e.Time).UTC().AppendFormat(dst, TimeLayout)
	dst = append(append(append(dst, ' '), e.Kind.String()...), ' ')
	if e.Kind == Initialized {
		dst = netip4(e.NAT64).AppendTo(dst)
		return append(dst, '\n')
	}
	dst = netip.AddrPortFrom(netip4(e.Address), e.MappedPort).AppendTo(dst)
	dst = append(dst, ' ')
	dst = netip.AddrPortFrom(netip6(e.Client), e.ClientPort).AppendTo(dst)
	return append(dst, '\n')
}

// appendJSON appends the event as a line of the JSON log. No value in it needs
// escaping.
func (e *Event) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"time":"`...)
	dst = time.UnixMicro(e.Time).UTC().AppendFormat(dst, jsonTimeLayout)
	dst = append(append(dst, `","event":"`...), e.Kind.String()...)
	dst = append(dst, `","nat64":"`...)
	dst = netip4(e.NAT64).AppendTo(dst)
	if e.Kind != Initialized {
		if e.Address != e.NAT64 {
			dst = netip4(e.Address).AppendTo(append(dst, `","address":"`...))
		}
		dst = fmt.Appendf(dst, `","mapped_port":%d,"client":"`, e.MappedPort)
		dst = netip6(e.Client).AppendTo(dst)
		dst = fmt.Appendf(dst, `","client_port":%d,"server":"`, e.ClientPort)
	} else {
		dst = append(dst, `","server":"`...)
	}
	dst = netip4(e.Server).AppendTo(dst)
	return append(dst, "\"}\n"...)
}

// errLine marks lines that are no event: logs may have been cut, or mixed with
// those of something else.
var errLine = errors.New("not a line of the log")

// parseEvent reads a line of either format, without its end. A text line does
// not say which of our addresses was asked: Server stays zero. Nor which NAT64
// an address of the pool belongs to: then NAT64 is that address.
func parseEvent(line []byte) (Event, error) {
	if bytes.HasPrefix(line, []byte("{")) {
		return parseJSONEvent(line)
	}
	f := strings.Fields(string(line))
	if len(f) < 4 {
		return Event{}, errLine
	}
	at, err := time.Parse(TimeLayout, f[0]+" "+f[1])
	if err != nil {
		return Event{}, errLine
	}
	e := Event{Time: at.UnixMicro()}
	if err := e.setKind(f[2]); err != nil {
		return Event{}, err
	}
	if e.Kind == Initialized {
		nat64, err := netip.ParseAddr(f[3])
		if err != nil || !nat64.Is4() || len(f) != 4 {
			return Event{}, errLine
		}
		e.NAT64 = nat64.As4()
		return e, nil
	}
	if len(f) != 5 {
		return Event{}, errLine
	}
	mapped, err1 := netip.ParseAddrPort(f[3])
	client, err2 := netip.ParseAddrPort(f[4])
	if err1 != nil || err2 != nil || !mapped.Addr().Is4() || !client.Addr().Is6() {
		return Event{}, errLine
	}
	e.NAT64, e.Address, e.MappedPort = mapped.Addr().As4(), mapped.Addr().As4(), mapped.Port()
	e.Client, e.ClientPort = client.Addr().As16(), client.Port()
	return e, nil
}

func (e *Event) setKind(name string) error {
	for k, n := range eventNames {
		if n == name {
			e.Kind = EventKind(k)
			return nil
		}
	}
	return errLine
}

func parseJSONEvent(line []byte) (Event, error) {
	var j struct {
		Time       time.Time
		Event      string
		NAT64      netip.Addr
		Address    netip.Addr
		Client     netip.Addr
		Server     netip.Addr
		MappedPort uint16 `json:"mapped_port"`
		ClientPort uint16 `json:"client_port"`
	}
	if err := json.Unmarshal(line, &j); err != nil || !j.NAT64.Is4() {
		return Event{}, errLine
	}
	e := Event{Time: j.Time.UnixMicro(), NAT64: j.NAT64.As4(), MappedPort: j.MappedPort, ClientPort: j.ClientPort}
	if err := e.setKind(j.Event); err != nil {
		return Event{}, err
	}
	if e.Kind != Initialized {
		if !j.Client.Is6() {
			return Event{}, errLine
		}
		e.Client = j.Client.As16()
		if e.Address = e.NAT64; j.Address.Is4() {
			e.Address = j.Address.As4()
		}
	}
	if j.Server.Is4() {
		e.Server = j.Server.As4()
	}
	return e, nil
}
