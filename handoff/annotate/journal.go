package annotate

import "github.com/valyala/fastjson"

// journal reads an object as `journalctl -o json` writes it. The address is in
// the field that the user named, else in the message. ok is false if the line
// is no JSON object.
func (p *parser) journal(b []byte, l *line) (k kind, ok bool) {
	v, err := p.json.ParseBytes(b)
	if err != nil || v.Type() != fastjson.TypeObject {
		return noAddress, false
	}
	for _, name := range [...]string{"_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"} {
		if us, ok := microseconds(v.GetStringBytes(name)); ok {
			l.at, l.hasTime = Moment{us, us}, true
			break
		}
	}
	if p.fieldName == "" {
		return p.message(p.octets(v.Get("MESSAGE")), l, isSSHD(v.GetStringBytes("SYSLOG_IDENTIFIER"))), true
	}
	if k = whole(v.GetStringBytes(p.fieldName), l); k == isIPv4 && p.portName != "" {
		n, digits := number(v.GetStringBytes(p.portName), 65535)
		l.port, l.hasPort = uint16(n), digits > 0
	}
	return k, true
}

// octets is a field's value; one that is no UTF-8 is an array of numbers in the
// journal. It stays valid until the next call.
func (p *parser) octets(v *fastjson.Value) []byte {
	if v == nil || v.Type() != fastjson.TypeArray {
		return v.GetStringBytes()
	}
	p.buf = p.buf[:0]
	for _, n := range v.GetArray() {
		p.buf = append(p.buf, byte(n.GetUint()))
	}
	return p.buf
}

// message reads what a program wrote; journald knows when better than it does.
func (p *parser) message(b []byte, l *line, sshd bool) kind {
	at, hasTime := l.at, l.hasTime
	k, ok := p.combined(b, l)
	if !ok {
		k = scan(b, l, sshd)
	}
	if hasTime {
		l.at, l.hasTime = at, true
	}
	return k
}

// microseconds reads journald's time.
func microseconds(b []byte) (us int64, ok bool) {
	const digits = 16 // of every time from 2001 to 2286
	if len(b) == 0 || len(b) > digits {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		us = us*10 + int64(c-'0')
	}
	return us, true
}
