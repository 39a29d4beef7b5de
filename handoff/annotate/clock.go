package annotate

import (
	"bytes"
	"time"
)

// clock reads times. Lines of the same second have the same octets there, so
// the last is kept.
type clock struct {
	now  func() time.Time
	zone *time.Location // of times that do not say theirs

	last   []byte
	lastAt Moment
}

// bracketLayout is the time of the combined log format.
const bracketLayout = "02/Jan/2006:15:04:05 -0700"

func (c *clock) bracket(b []byte) (Moment, bool) {
	if len(b) != len(bracketLayout) {
		return Moment{}, false
	}
	return c.parse(b, bracketLayout)
}

// The times that other lines begin with. Those without a zone are of the local
// one, as programs write them.
const (
	dashed = "2006-01-02 15:04:05" // many
	slash  = "2006/01/02 15:04:05" // nginx's error log, Go's log
	syslog = "Jan _2 15:04:05"     // syslog of old, without a year
)

// leading reads the time that a line begins with, after "time=" perhaps.
func (c *clock) leading(b []byte) (Moment, bool) {
	b = bytes.TrimPrefix(b, []byte("time="))
	if len(b) > 20 && b[0] == '[' && b[4] == ' ' {
		return c.apache(b)
	}
	layout := shape(b)
	if layout == time.RFC3339Nano {
		f, _ := field(b, 1)
		var t time.Time
		if t.UnmarshalText(f) != nil {
			return Moment{}, false
		}
		return moment(t, fraction(f[len("2006-01-02T15:04:05"):])), true
	}
	if layout == "" || len(b) < len(layout) {
		return Moment{}, false
	}
	at, ok := c.parse(b[:len(layout)], layout)
	if digits := fraction(b[len(layout):]); ok && digits > 0 {
		return finer(at, b[len(layout)+1:], digits), true
	}
	return at, ok
}

// shape guesses a layout by the octets between the digits.
func shape(b []byte) string {
	switch {
	case len(b) > 10 && b[4] == '-' && b[10] == 'T':
		return time.RFC3339Nano
	case len(b) > 10 && b[4] == '-' && b[10] == ' ':
		return dashed
	case len(b) > 10 && b[4] == '/' && b[10] == ' ':
		return slash
	case len(b) > 10 && b[3] == ' ' && b[6] == ' ' && b[9] == ':':
		return syslog
	}
	return ""
}

// fraction counts the digits of ".091234".
func fraction(b []byte) int {
	if len(b) == 0 || b[0] != '.' && b[0] != ',' {
		return 0
	}
	n := 1
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n - 1
}

// finer adds a fraction of a second.
func finer(at Moment, b []byte, digits int) Moment {
	unit, us := int64(1e6), int64(0)
	for i := range min(digits, 6) {
		unit /= 10
		us += int64(b[i]-'0') * unit
	}
	return Moment{at.From + us, at.From + us + unit - 1}
}

// apache reads "[Thu Nov 26 10:13:30.091234 2026]", as Apache's error log has it.
func (c *clock) apache(b []byte) (Moment, bool) {
	text, _, _ := bytes.Cut(b[1:], []byte("]"))
	t, err := time.ParseInLocation("Mon Jan _2 15:04:05 2006", string(text), c.zone)
	if err != nil {
		return Moment{}, false
	}
	return moment(t, fraction(text[len("Mon Jan _2 15:04:05"):])), true
}

// parse reads a time of whole seconds.
func (c *clock) parse(b []byte, layout string) (Moment, bool) {
	if bytes.Equal(b, c.last) {
		return c.lastAt, true
	}
	t, err := time.ParseInLocation(layout, string(b), c.zone)
	if err != nil {
		return Moment{}, false
	}
	if layout == syslog {
		t = c.year(t)
	}
	c.last, c.lastAt = append(c.last[:0], b...), moment(t, 0)
	return c.lastAt, true
}

// year gives a time the last year in which it was not in the future, a day for
// clocks that differ aside.
func (c *clock) year(t time.Time) time.Time {
	now := c.now().In(c.zone)
	dated := time.Date(now.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, c.zone)
	if dated.After(now.AddDate(0, 0, 1)) {
		dated = time.Date(now.Year()-1, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, c.zone)
	}
	return dated
}

// moment is a time that was written with so many digits behind the second.
func moment(t time.Time, digits int) Moment {
	last := int64(1e6)
	for range min(digits, 6) {
		last /= 10
	}
	us := t.UnixMicro()
	return Moment{us, us + last - 1}
}
