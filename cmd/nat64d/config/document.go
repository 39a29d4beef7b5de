package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Document is the text of a configuration in which keys can be replaced. It is
// plain data; the zero value is of no use.
type Document struct {
	file string
	data []byte
	cpus [][2]uint16
}

// NewDocument is the text of a file.
func NewDocument(file string, data []byte) Document { return Document{file, data, onlineCPUs()} }

// Parse reads the document as Parse does.
func (d Document) Parse() (*Config, []Problem) { return parse(d.file, d.data, d.cpus) }

// Set returns the document with one live-changeable key replaced. word is the
// value as the file would have it, or a bare string. Whether the value is right
// only Parse says.
func (d Document) Set(path, word string) (Document, error) {
	k, err := lookUp(path)
	if err != nil {
		return Document{}, err
	}
	switch k.takes {
	case Restart:
		return Document{}, fmt.Errorf("%s cannot be changed while nat64d runs; change it in the file and restart nat64d (sessions survive it)", path)
	case Reload:
		return Document{}, fmt.Errorf("%s is not set as a whole; use bib add and bib remove, or change it in the file and reload", path)
	}
	value, err := literal(word)
	if err != nil {
		return Document{}, fmt.Errorf("%s: %w", path, err)
	}
	return d.with(path, value)
}

// Keep returns the document with the keys as they are in c, whatever it says
// itself.
func (d Document) Keep(paths []string, c *Config) (Document, error) {
	for _, path := range paths {
		k, err := lookUp(path)
		if err != nil {
			return Document{}, err
		}
		var value []byte
		if v := k.value(c); v != nil {
			if value, err = json.Marshal(v); err != nil {
				return Document{}, fmt.Errorf("%s: %w", path, err)
			}
		}
		if d, err = d.with(path, value); err != nil {
			return Document{}, err
		}
	}
	return d, nil
}

// literal turns a word of the command line into JSON. What begins as an array,
// an object or a quoted string is meant to be JSON.
func literal(word string) ([]byte, error) {
	if json.Valid([]byte(word)) {
		return []byte(word), nil
	}
	if trimmed := strings.TrimSpace(word); trimmed != "" && strings.ContainsRune(`[{"`, rune(trimmed[0])) {
		return nil, fmt.Errorf("%s is not JSON: %w", clip(trimmed), json.Unmarshal([]byte(trimmed), new(any)))
	}
	return json.Marshal(word)
}

// with replaces a key, or takes it out when value is nil.
func (d Document) with(path string, value []byte) (Document, error) {
	data, err := replaceKey(d.data, strings.Split(path, "."), value)
	if err != nil {
		return Document{}, fmt.Errorf("replace %s: %w", path, err)
	}
	d.data = data
	return d, nil
}

// replaceKey does it in one object. The order of keys is lost; nobody reads it.
func replaceKey(object []byte, path []string, value []byte) ([]byte, error) {
	members := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(object)) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, err
		}
	}
	switch {
	case len(path) > 1:
		inner, err := replaceKey(members[path[0]], path[1:], value)
		if err != nil {
			return nil, err
		}
		members[path[0]] = inner
	case value == nil:
		delete(members, path[0])
	default:
		members[path[0]] = slices.Clone(value)
	}
	return json.Marshal(members)
}

// Message is the problem without the place in a file, for what stands in none.
func (p Problem) Message() string {
	p.File, p.Line, p.Column = "", 0, 0
	return strings.TrimPrefix(p.Error(), ":0: ")
}
