package config

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"
)

// Parse reads the configuration in data; file is its name for messages. It
// returns either a valid configuration with every default filled in, or every
// problem there is, in the order of the file.
func Parse(file string, data []byte) (*Config, []Problem) {
	return parse(file, data, onlineCPUs())
}

// parse is Parse on a machine with the given CPUs; nil when they are unknown.
func parse(file string, data []byte, cpus [][2]uint16) (*Config, []Problem) {
	lines, bad := scan(file, data)
	if bad != nil {
		return nil, []Problem{*bad}
	}
	var fj fastjson.Parser
	v, err := fj.ParseBytes(data)
	if err != nil {
		// scan accepted it, so only a limit of fastjson can be the cause.
		return nil, []Problem{{File: file, Line: 1, What: "not readable as JSON: " + strconv.Quote(err.Error())}}
	}
	p := &parser{file: file, lines: lines, cpus: cpus, config: defaults()}
	object(p.schema()...)(p, "", v)
	p.check()
	byLine(p.problems)
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	byLine(p.config.Warnings)
	return p.config, nil
}

func byLine(ps []Problem) {
	sort.SliceStable(ps, func(i, k int) bool { return ps[i].Line < ps[k].Line })
}

// parser collects a configuration and its problems. Used by one goroutine.
type parser struct {
	file     string
	lines    lineMap
	cpus     [][2]uint16
	config   *Config
	problems []Problem

	// Where the elements stand that are checked once everything is read.
	pool4  []string
	static []string
}

// line is where path, or else the nearest thing around it, stands first.
func (p *parser) line(path string) int {
	for path != "" {
		if l := p.lines[path]; len(l) > 0 {
			return l[0]
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return p.lines[""][0]
}

func (p *parser) problem(path, what, fix string) {
	p.problems = append(p.problems, Problem{File: p.file, Line: p.line(path), Path: path, What: what, Fix: fix})
}

func (p *parser) warn(path, what, fix string) {
	p.config.Warnings = append(p.config.Warnings,
		Problem{File: p.file, Line: p.line(path), Path: path, What: what, Fix: fix})
}

// bad says whether a problem was found at path or below it.
func (p *parser) bad(path string) bool {
	for _, q := range p.problems {
		if rest, ok := strings.CutPrefix(q.Path, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

// reader takes the value at path into the configuration or notes problems.
type reader func(p *parser, path string, v *fastjson.Value)

// field is one key of an object. missing, when not "", makes the key required
// and says what to give.
type field struct {
	key     string
	read    reader
	missing string
}

// object reads an object with exactly these keys.
func object(fields ...field) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		o, err := v.Object()
		if err != nil {
			p.problem(path, describe(v)+" is not an object", "give an object: { … }")
			return
		}
		seen := map[string]int{}
		o.Visit(func(k []byte, v *fastjson.Value) {
			key := string(k)
			at := join(path, key)
			if seen[key]++; seen[key] > 1 {
				p.duplicate(at, seen[key])
				return
			}
			for _, f := range fields {
				if f.key == key {
					f.read(p, at, v)
					return
				}
			}
			p.problem(at, "unknown key", fmt.Sprintf("the nearest known key is %q", nearest(key, keysAt(path, fields))))
		})
		for _, f := range fields {
			if f.missing != "" && seen[f.key] == 0 {
				p.missing(path, f)
			}
		}
	}
}

// duplicate notes that the key at path was given for the nth time.
func (p *parser) duplicate(path string, nth int) {
	pr := Problem{File: p.file, Line: p.line(path), Path: path, What: "the key stands here again",
		Fix: fmt.Sprintf("keep one; the first is on line %d", p.line(path))}
	if l := p.lines[path]; nth <= len(l) {
		pr.Line = l[nth-1]
	}
	p.problems = append(p.problems, pr)
}

// missing notes a required key that is not there, on the line of its object.
func (p *parser) missing(path string, f field) {
	p.problems = append(p.problems, Problem{File: p.file, Line: p.line(path), Path: join(path, f.key),
		What: "is missing", Fix: f.missing})
}

// keysAt lists the keys that the object at path knows.
func keysAt(path string, fields []field) []string {
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	return keys
}

// nearest is the key with the smallest edit distance to key.
func nearest(key string, keys []string) string {
	best, least := "", 1<<30
	for _, k := range keys {
		if d := editDistance(key, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// editDistance is Levenshtein's: insertions, deletions and replacements of octets.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// describe shows a value in a message: short, and on one line.
func describe(v *fastjson.Value) string {
	switch v.Type() {
	case fastjson.TypeObject:
		return "an object"
	case fastjson.TypeArray:
		return "an array"
	case fastjson.TypeString:
		return strconv.Quote(clip(string(v.GetStringBytes())))
	}
	return clip(v.String())
}
