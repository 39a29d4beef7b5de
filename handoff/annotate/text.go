package annotate

import "bytes"

// text reads any other line: the time at its beginning, and the first address
// that has a port:
//
//	2026-11-26T10:13:30.091234+00:00 www sshd[811]: Accepted publickey for root from 192.0.2.64 port 38526 ssh2
func (p *parser) text(b []byte, l *line) kind {
	l.at, l.hasTime = p.clock.leading(b)
	return scan(b, l)
}

// scan looks for an IPv4 address with a port: the last "A port P", else the first
// "A:P". sshd writes the former, and before it the name of a user that the client
// chose; others begin with the latter.
func scan(b []byte, l *line) kind {
	found := noAddress
	for i := 0; i < len(b); i++ {
		if b[i] < '0' || b[i] > '9' || i > 0 && (b[i-1] == '.' || word(b[i-1])) {
			continue
		}
		here := line{at: l.at, hasTime: l.hasTime, begin: i}
		n := address4(b[i:], &here)
		if n == 0 {
			continue
		}
		here.end = i + n
		if p, ok := portNamed(b[i+n:]); ok && !here.hasPort {
			here.port, here.hasPort = p, true
			*l, found = here, isIPv4
		} else if here.hasPort && found == noAddress {
			*l, found = here, isIPv4
		}
		i += n - 1
	}
	return found
}

// portNamed reads " port 38526", as sshd writes it.
func portNamed(b []byte) (uint16, bool) {
	rest, ok := bytes.CutPrefix(b, []byte(" port "))
	if !ok {
		return 0, false
	}
	v, digits := number(rest, 65535)
	return uint16(v), digits > 0
}
