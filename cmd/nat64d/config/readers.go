package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"
)

// maxDuration keeps every timeout far inside the 32-bit tenths of a second of
// the session table's clock.
const maxDuration = 365 * 24 * time.Hour

// text reads a string that valid accepts; hint says what would be right.
func text(dst *string, hint string, valid func(string) bool) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, hint)
		if !ok {
			return
		}
		if !valid(s) {
			p.problem(path, describe(v)+" is not possible", hint)
			return
		}
		*dst = s
	}
}

// str returns the string v or notes that it is none.
func (p *parser) str(path string, v *fastjson.Value, hint string) (string, bool) {
	b, err := v.StringBytes()
	if err != nil {
		p.problem(path, describe(v)+" is not a string", hint)
		return "", false
	}
	return string(b), true
}

// choice reads one of a few words.
func choice(dst *string, words ...string) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, oneOf(words))
		if !ok {
			return
		}
		for _, w := range words {
			if s == w {
				*dst = w
				return
			}
		}
		p.problem(path, describe(v)+" is unknown", oneOf(words))
	}
}

// oneOf is `give "a", "b" or "c"`.
func oneOf(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	last := len(quoted) - 1
	return "give " + strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

func boolean(dst *bool) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		b, err := v.Bool()
		if err != nil {
			p.problem(path, describe(v)+" is not a truth value", "give true or false")
			return
		}
		*dst = b
	}
}

func integer(dst *int, low, high int) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		if n, ok := p.number(path, v, low, high, "give "); ok {
			*dst = n
		}
	}
}

// number returns the whole number v or notes what is wrong with it; give opens
// the remedy.
func (p *parser) number(path string, v *fastjson.Value, low, high int, give string) (int, bool) {
	fix := fmt.Sprintf("%sa whole number from %d to %d", give, low, high)
	if v.Type() != fastjson.TypeNumber {
		p.problem(path, describe(v)+" is not a number", fix)
		return 0, false
	}
	n, err := v.Int()
	if err != nil {
		p.problem(path, describe(v)+" is not a whole number of a usable size", fix)
		return 0, false
	}
	if n < low || n > high {
		p.problem(path, describe(v)+" is out of range", fix)
		return 0, false
	}
	return n, true
}

// powerOfTwo reads a power of two.
func powerOfTwo(dst *int, low, high int) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		n, ok := p.number(path, v, low, high, "give a power of two, ")
		if !ok {
			return
		}
		if n&(n-1) != 0 {
			above := low
			for above < n {
				above *= 2
			}
			fix := fmt.Sprintf("give %d or %d", above/2, above)
			p.problem(path, fmt.Sprintf("%d is not a power of two", n), fix)
			return
		}
		*dst = n
	}
}

// orInterface reads a number, or "interface" which becomes 0.
func orInterface(dst *int, low, high int) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		if string(v.GetStringBytes()) == "interface" {
			*dst = 0
			return
		}
		if n, ok := p.number(path, v, low, high, `give "interface" or `); ok {
			*dst = n
		}
	}
}

// Sizes that tcp_mss_clamp takes: from the least that Linux accepts of a peer
// to the most that an IPv4 packet has room for.
const (
	minMSS = 88
	maxMSS = 65495
)

// mssClamp reads a number of octets, "auto" or "off".
func mssClamp(dst *int) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		switch string(v.GetStringBytes()) {
		case "auto":
			*dst = MSSAuto
			return
		case "off":
			*dst = MSSOff
			return
		}
		if n, ok := p.number(path, v, minMSS, maxMSS, `give "auto", "off" or `); ok {
			*dst = n
		}
	}
}

// duration reads a length of time in Go's notation, from 1 s up, in whole
// tenths of a second because that is what the session table counts in.
func duration(dst *time.Duration) reader {
	const hint = `give a duration from 1s to 8760h, such as "90s", "5m" or "2h4m"`
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, hint)
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			p.problem(path, describe(v)+" is not a duration", hint)
		case d < time.Second || d > maxDuration:
			p.problem(path, describe(v)+" is out of range", hint)
		case d%(100*time.Millisecond) != 0:
			p.problem(path, describe(v)+" is finer than a tenth of a second", "give whole tenths of a second")
		default:
			*dst = d
		}
	}
}

// shortDuration reads a delay from nothing to a second.
func shortDuration(dst *time.Duration) reader {
	const hint = `give a duration from 0s to 1s, such as "10ms"`
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, hint)
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			p.problem(path, describe(v)+" is not a duration", hint)
		case d < 0 || d > time.Second:
			p.problem(path, describe(v)+" is out of range", hint)
		default:
			*dst = d
		}
	}
}

// list reads an array of at least low and at most high elements.
func list(low, high int, each reader) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		vs, err := v.Array()
		if err != nil {
			p.problem(path, describe(v)+" is not an array", "give an array: [ … ]")
			return
		}
		if len(vs) < low || len(vs) > high {
			p.problem(path, fmt.Sprintf("has %d elements", len(vs)), fmt.Sprintf("give from %d to %d", low, high))
			return
		}
		for i, e := range vs {
			each(p, element(path, i), e)
		}
	}
}

// blockSize reads 0 or a number of ports that a block may have.
func blockSize(dst *int) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		const hint = "give a power of two from 64 to 4096, or 0 for none"
		n, err := v.Int()
		if err != nil || n != 0 && (n < 64 || n > 4096 || n&(n-1) != 0) {
			p.problem(path, describe(v)+" is not the size of a block", hint)
			return
		}
		*dst = n
	}
}

// isCollector accepts host:port with a host, and "" for no collector.
func isCollector(s string) bool { return s == "" || isListenAddress(s) && !strings.HasPrefix(s, ":") }
