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
		f, begin := field(b, p.portField)
		digits := bytes.TrimLeft(f, `"':`)
		v, n := number(digits, 65535)
		l.port, l.hasPort = uint16(v), n > 0
		l.portBegin = begin + len(f) - len(digits)
		l.portEnd = l.portBegin + n
	}
	if l.at, l.hasTime = p.clock.leading(b); !l.hasTime {
		var open int
		open, l.at = p.bracketed(b)
		l.hasTime = open >= 0
	}
	return k
}
