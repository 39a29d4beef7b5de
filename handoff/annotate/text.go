package annotate

import "bytes"

// text reads any other line: the time at its beginning, and the address that has
// a port:
//
//	2026-11-26T10:13:30.091234+00:00 www sshd[811]: Accepted publickey for root from 192.0.2.64 port 38526 ssh2
func (p *parser) text(b []byte, l *line) kind {
	l.at, l.hasTime = p.clock.leading(b)
	program, _, _ := bytes.Cut(b, []byte(": "))
	return scan(b, l, isSSHD(program))
}

// isSSHD: the program's name has it in all versions, also as sshd-session.
func isSSHD(program []byte) bool { return bytes.Contains(program, []byte("sshd")) }

// scan looks for the first IPv4 address with a port: "A:P", "A port P", or "[A]:P"
// as Postfix has it. But sshd writes the name of a user that the client chose
// before it, so there it is the last "A port P".
func scan(b []byte, l *line, sshd bool) kind {
	found := noAddress
	for i := 0; i < len(b); i++ {
		if b[i] < '0' || b[i] > '9' || i > 0 && (b[i-1] == '.' || word(b[i-1])) {
			continue
		}
		here := line{at: l.at, hasTime: l.hasTime, combined: l.combined, begin: i}
		n := address4(b[i:], &here)
		if n == 0 {
			continue
		}
		here.end = i + n
		i += n - 1
		isNamed := apart(b, " port ", &here)
		if sshd && !isNamed || !here.hasPort && !apart(b, "]:", &here) {
			continue
		}
		if *l, found = here, isIPv4; !sshd || beginsMessage(b[:l.begin]) {
			break
		}
	}
	return found
}

// apart reads a port that a label parts from the address in front of it.
func apart(b []byte, label string, l *line) bool {
	if l.hasPort || !bytes.HasPrefix(b[l.end:], []byte(label)) {
		return false
	}
	v, digits := number(b[l.end+len(label):], 65535)
	if digits == 0 {
		return false
	}
	l.port, l.hasPort = uint16(v), true
	l.portBegin = l.end + len(label)
	l.portEnd = l.portBegin + digits
	return true
}

// beginsMessage says whether b ends where an sshd message that begins with the
// client's address has it. What follows there is our own address, or the client's
// to choose.
func beginsMessage(b []byte) bool {
	for _, words := range [...]string{"Connection from ", "Received disconnect from ", "Unable to negotiate with "} {
		if rest, ok := bytes.CutSuffix(b, []byte(words)); ok {
			// The name of the program, before all that a client can have written.
			return len(rest) == 0 || bytes.HasSuffix(rest, []byte(": ")) && bytes.Count(rest, []byte(": ")) == 1
		}
	}
	return false
}
