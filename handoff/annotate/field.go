package annotate

import "bytes"

// byField reads a line of whose words the user says which is the address and,
// where that has none with it, which is the port. The time is that in brackets
// (combined) or that at the beginning.
func (p *parser) byField(b []byte, l *line) kind {
	f, begin := field(b, p.field)
	k := whole(f, l)
	if k != isIPv4 {
		return k
	}
	l.begin, l.end = l.begin+begin, l.end+begin
	if p.portField > 0 {
		f, _ := field(b, p.portField)
		v, digits := number(bytes.Trim(f, `"':`), 65535)
		l.port, l.hasPort = uint16(v), digits > 0
	}
	l.at, l.hasTime = p.clock.leading(b)
	if open := bytes.IndexByte(b, '['); !l.hasTime && open >= 0 {
		if length := bytes.IndexByte(b[open:], ']'); length > 0 {
			l.at, l.hasTime = p.clock.bracket(b[open+1 : open+length])
		}
	}
	return k
}
