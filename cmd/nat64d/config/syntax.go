package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// maxDepth is far more than any key of the configuration needs.
const maxDepth = 16

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// join is the path of a key of the object at path. A key that is not a plain
// word is quoted, so that a path is always one line and never ambiguous.
func join(path, key string) string {
	if !plainKey.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// element is the path of an element of the array at path.
func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// lineMap holds the lines that each path stands on, one for each time it was
// given. fastjson keeps no positions, so they come from a pass of their own.
type lineMap map[string][]int

// scan checks the syntax of data and finds the line of every key and element.
// The problem is nil when data is well-formed JSON.
func scan(file string, data []byte) (lineMap, *Problem) {
	if p := badText(file, data); p != nil {
		return nil, p
	}
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, syntaxProblem(file, data, err)
	}
	w := walker{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1, lines: lineMap{}}
	w.dec.UseNumber()
	if err := w.value("", 0); err != nil {
		return nil, &Problem{File: file, Line: w.line, What: err.Error(),
			Fix: "compare it with the example in docs/operations.md"}
	}
	return w.lines, nil
}

// badText finds what is wrong with data as text, before it is JSON.
func badText(file string, data []byte) *Problem {
	if len(bytes.TrimSpace(data)) == 0 {
		return &Problem{File: file, Line: 1, What: "the file is empty",
			Fix: `give at least "ipv6_interface", "ipv4_interface" and "pool4"`}
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return &Problem{File: file, Line: 1, Column: 1, What: "the file starts with a byte order mark",
			Fix: "save it as UTF-8 without one"}
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			line, col := position(data, i)
			return &Problem{File: file, Line: line, Column: col,
				What: fmt.Sprintf("octet 0x%02x is not UTF-8", data[i]), Fix: "save the file as UTF-8"}
		}
		i += n
	}
	return nil
}

// syntaxProblem turns an error of encoding/json into a position and a remedy.
func syntaxProblem(file string, data []byte, err error) *Problem {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return &Problem{File: file, Line: 1, What: err.Error()}
	}
	at := int(syntax.Offset) - 1 // Offset counts the offending octet too
	if at < 0 || at >= len(data) {
		at = len(data) - 1
	}
	p := &Problem{File: file, What: "not JSON: " + syntax.Error()}
	p.Line, p.Column = position(data, at)
	before := bytes.TrimRight(data[:at], " \t\r\n")
	switch c := data[at]; {
	case syntax.Error() == "unexpected end of JSON input":
		p.What = "the file ends before the configuration does"
		p.Fix = "close every string, array and object"
	case c == '/' || c == '#':
		p.Fix = "JSON has no comments: take it out"
	case (c == '}' || c == ']') && bytes.HasSuffix(before, []byte(",")):
		p.Fix = fmt.Sprintf("take out the comma in front of %q", c)
	case c == '"' && len(before) > 0 && before[len(before)-1] != ',':
		p.Fix = "put a comma between the values"
	case c == '\'':
		p.Fix = `strings stand in double quotes (")`
	default:
		p.Fix = "correct or remove that character"
	}
	return p
}

// position is the line and column, both counted from 1, of the octet at offset.
func position(data []byte, offset int) (line, column int) {
	before := data[:offset]
	line = 1 + bytes.Count(before, []byte("\n"))
	return line, 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
}

// walker goes once through a well-formed document. Not safe for concurrent use.
type walker struct {
	dec   *json.Decoder
	data  []byte
	done  int // octets whose newlines are counted in line
	line  int // of the token read last
	lines lineMap
}

func (w *walker) token() (json.Token, error) {
	t, err := w.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	end := int(w.dec.InputOffset())
	w.line += bytes.Count(w.data[w.done:end], []byte("\n"))
	w.done = end
	return t, nil
}

// value walks one value; its path's line is noted by the line of its first token.
func (w *walker) value(path string, depth int) error {
	t, err := w.token()
	if err != nil {
		return err
	}
	// The line of a key is that of its name, which object has noted already.
	if path == "" || path[len(path)-1] == ']' {
		w.lines[path] = append(w.lines[path], w.line)
	}
	if depth == maxDepth {
		return fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	switch t {
	case json.Delim('{'):
		return w.object(path, depth)
	case json.Delim('['):
		return w.array(path, depth)
	}
	return nil
}

func (w *walker) object(path string, depth int) error {
	for w.dec.More() {
		t, err := w.token()
		if err != nil {
			return err
		}
		key, _ := t.(string) // an object's keys are strings: the syntax was checked
		at := join(path, key)
		w.lines[at] = append(w.lines[at], w.line)
		if err := w.value(at, depth+1); err != nil {
			return err
		}
	}
	_, err := w.token()
	return err
}

func (w *walker) array(path string, depth int) error {
	for i := 0; w.dec.More(); i++ {
		if err := w.value(element(path, i), depth+1); err != nil {
			return err
		}
	}
	_, err := w.token()
	return err
}
