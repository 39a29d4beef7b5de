package annotate

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/valyala/fastjson"
)

// parser reads lines, each by its own shape. Used by one goroutine.
type parser struct {
	clock clock
	json  fastjson.Parser
	buf   []byte

	// What the user says: which word of a text line, or which field of an
	// object, has the address, and which the port.
	field, portField    int
	fieldName, portName string
}

// ErrField: the user named neither the number of a word nor the name of a field.
var ErrField = errors.New("a field is the number of a word, from 1, or the name of a JSON field")

// newParser's field and portField are numbers of words, or names of JSON fields,
// or empty.
func newParser(field, portField string, now func() time.Time, zone *time.Location) (*parser, error) {
	p := &parser{clock: clock{now: now, zone: zone}}
	if err := choose(field, &p.field, &p.fieldName); err != nil {
		return nil, err
	}
	if err := choose(portField, &p.portField, &p.portName); err != nil {
		return nil, err
	}
	if portField != "" && (p.field > 0) != (p.portField > 0) {
		return nil, fmt.Errorf("address in %q and port in %q: %w, and both the same", field, portField, ErrField)
	}
	return p, nil
}

func choose(s string, n *int, name *string) error {
	if s == "" {
		return nil
	}
	v, err := strconv.Atoi(s)
	if err != nil && s[0] != '-' {
		*name = s
		return nil
	}
	if v < 1 {
		return fmt.Errorf("field %q: %w", s, ErrField)
	}
	*n = v
	return nil
}

// parse reads a line without its end. object says that it is JSON.
func (p *parser) parse(b []byte, l *line) (k kind, object bool) {
	*l = line{}
	if len(b) > 0 && b[0] == '{' {
		if k, ok := p.journal(b, l); ok {
			return k, true
		}
	}
	if p.field > 0 {
		return p.byField(b, l), false
	}
	if k, ok := p.combined(b, l); ok {
		return k, false
	}
	return p.text(b, l), false
}
