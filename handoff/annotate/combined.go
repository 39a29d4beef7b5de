package annotate

import "bytes"

// combined reads a line of the combined log format, that of nginx and Apache,
// with or without the virtual host in front:
//
//	192.0.2.64:38526 - - [26/Nov/2026:10:13:30 +0000] "GET / HTTP/1.1" 200 …
//	www.example.net:443 192.0.2.64 - - [26/Nov/2026:10:13:30 +0000] …
//
// ok is false if the line has another shape.
func (p *parser) combined(b []byte, l *line) (k kind, ok bool) {
	open := bytes.Index(b, []byte(" ["))
	if open < 0 {
		return noAddress, false
	}
	length := bytes.IndexByte(b[open:], ']')
	if length < 0 {
		return noAddress, false
	}
	at, ok := p.clock.bracket(b[open+2 : open+length])
	if !ok {
		return noAddress, false
	}
	l.at, l.hasTime = at, true
	for n := 1; n <= 2; n++ {
		f, begin := field(b[:open], n)
		if k = whole(f, l); k != noAddress {
			l.begin, l.end = l.begin+begin, l.end+begin
			return k, true
		}
	}
	// Only what stands before the time: what follows is the client's to choose.
	return scan(b[:open], l), true
}
