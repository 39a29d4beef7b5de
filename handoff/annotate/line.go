package annotate

import (
	"bytes"
	"net/netip"
)

// line is what a log's line says of a connection. Positions are octets of the
// line.
type line struct {
	address    [4]byte
	port       uint16 // if hasPort
	hasPort    bool
	hasTime    bool
	at         Moment // if hasTime
	begin, end int    // where the address stands, with its port if that follows it

	portBegin, portEnd int  // where the port stands if it is apart from the address
	combined           bool // the line is in the combined format
}

// kind is what a line turned out to be.
type kind uint8

const (
	noAddress kind = iota // none was found
	isIPv6                // the client is there already
	isIPv4
)

// address4 reads a dotted address, and its port if one follows, from the
// beginning of b. It returns how many octets they take; none if there is no
// address.
func address4(b []byte, l *line) int {
	i := 0
	for n := range 4 {
		if n > 0 {
			if i >= len(b) || b[i] != '.' {
				return 0
			}
			i++
		}
		v, digits := number(b[i:], 255)
		if digits == 0 || digits > 1 && b[i] == '0' {
			return 0
		}
		l.address[n] = byte(v)
		i += digits
	}
	if i < len(b) && (b[i] == '.' || word(b[i])) {
		return 0 // a version, a name: no address ends like this
	}
	if p, n := portBehind(b[i:]); n > 0 {
		l.port, l.hasPort = p, true
		i += n
	}
	return i
}

// portBehind reads ":38526".
func portBehind(b []byte) (uint16, int) {
	if len(b) < 2 || b[0] != ':' {
		return 0, 0
	}
	v, digits := number(b[1:], 65535)
	if digits == 0 || len(b) > 1+digits && word(b[1+digits]) {
		return 0, 0
	}
	return uint16(v), 1 + digits
}

// number reads decimal digits; none are read if they stand for more than most.
func number(b []byte, most int) (v, digits int) {
	for digits < len(b) && b[digits] >= '0' && b[digits] <= '9' {
		if v = v*10 + int(b[digits]-'0'); v > most {
			return 0, 0
		}
		digits++
	}
	return v, digits
}

// word says whether c belongs to a name or number.
func word(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '-'
}

// whole reads an address that takes all of b, in brackets or quotes perhaps,
// and mapped into IPv6 perhaps, as servers with an IPv6 socket log it.
func whole(b []byte, l *line) kind {
	trimmed := bytes.Trim(b, `"'(),;`)
	shift := bytes.Index(b, trimmed)
	mapped := 0
	for _, prefix := range [...]string{"[::ffff:", "::ffff:"} {
		if rest, ok := bytes.CutPrefix(trimmed, []byte(prefix)); ok {
			trimmed, mapped = rest, len(prefix)
			break
		}
	}
	inner := trimmed
	if mapped > 0 {
		if host, rest, ok := bytes.Cut(trimmed, []byte("]")); ok {
			inner = host
			if p, n := portBehind(rest); n == len(rest) && n > 0 {
				l.port, l.hasPort = p, true
			} else if len(rest) > 0 {
				return noAddress
			}
		}
	}
	if n := address4(inner, l); n > 0 && n == len(inner) {
		l.begin, l.end = shift, shift+mapped+len(trimmed)
		return isIPv4
	}
	l.port, l.hasPort = 0, false
	if mapped == 0 && sixth(trimmed) {
		return isIPv6
	}
	return noAddress
}

// sixth says whether b is an IPv6 address, with or without brackets and port.
func sixth(b []byte) bool {
	if bytes.Count(b, []byte(":")) < 2 {
		return false
	}
	var a netip.Addr
	if err := a.UnmarshalText(bytes.Trim(b, "[]")); err == nil {
		return a.Is6()
	}
	var ap netip.AddrPort
	return ap.UnmarshalText(b) == nil && ap.Addr().Is6()
}

// field returns the nth word of a line, from 1, and where it begins.
func field(b []byte, n int) ([]byte, int) {
	i := 0
	for {
		for i < len(b) && b[i] == ' ' || i < len(b) && b[i] == '\t' {
			i++
		}
		begin := i
		for i < len(b) && b[i] != ' ' && b[i] != '\t' {
			i++
		}
		if begin == i {
			return nil, 0
		}
		if n--; n == 0 {
			return b[begin:i], begin
		}
	}
}
