package annotate

import "bytes"

// combined reads a line of the combined log format, that of nginx and Apache,
// with or without the virtual host in front. The port follows the address, or is
// the line's last word, which leaves the format as other programs know it:
//
//	192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 … "curl/8" port=38526
//	192.0.2.64:38526 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 …
//	www.example.net:443 192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] …
//
// ok is false if the line has another shape.
func (p *parser) combined(b []byte, l *line) (k kind, ok bool) {
	open, at := p.bracketed(b)
	if open <= 0 {
		return noAddress, false
	}
	l.at, l.hasTime, l.combined = at, true, true
	for n := 1; n <= 2; n++ {
		f, begin := field(b[:open], n)
		if k = whole(f, l); k == noAddress {
			continue
		}
		l.begin, l.end = l.begin+begin, l.end+begin
		if k == isIPv4 && !l.hasPort {
			portLast(b[open:], open, l)
		}
		return k, true
	}
	// Only what stands before the time: what follows is the client's to choose.
	return scan(b[:open], l, false), true
}

// bracketed finds the time in brackets, and where these begin; -1 if there is
// none. It is the last one before the request: the user's name in front of it is
// the client's to choose, and may look like a time, but has no quotes.
func (p *parser) bracketed(b []byte) (open int, at Moment) {
	head := b
	if quote := bytes.IndexByte(b, '"'); quote >= 0 && bytes.IndexByte(b[:quote], '[') >= 0 {
		head = b[:quote]
	}
	for open = bytes.LastIndexByte(head, '['); open >= 0; open = bytes.LastIndexByte(head[:open], '[') {
		if end := open + 1 + len(bracketLayout); end < len(b) && b[end] == ']' {
			if at, ok := p.clock.bracket(b[open+1 : end]); ok {
				return open, at
			}
		}
	}
	return -1, at
}

// portLast reads "port=38526" at the end of b, behind all that a client chooses.
// begin is where b begins in the line.
func portLast(b []byte, begin int, l *line) {
	const label = " port="
	i := bytes.LastIndexByte(b, ' ')
	if i < 0 || !bytes.HasPrefix(b[i:], []byte(label)) {
		return
	}
	digits := b[i+len(label):]
	if v, n := number(digits, 65535); n > 0 && n == len(digits) {
		l.port, l.hasPort = uint16(v), true
		l.portBegin, l.portEnd = begin+i+len(label), begin+len(b)
	}
}
