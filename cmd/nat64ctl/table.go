package main

import (
	"bufio"
	"fmt"
	"strings"
	"unicode/utf8"
)

// batch is how many rows a table looks at before it settles its widths. Longer
// tables go out batch by batch, so that their length does not cost memory.
const batch = 1000

// table prints aligned columns. Used by one goroutine.
type table struct {
	out    *bufio.Writer
	right  []bool
	width  []int
	rows   [][]string
	n      int // rows added, without the head
	err    error
	indent string
}

// newTable returns a table with the given column heads; a head that starts with
// ">" makes its column right-aligned. Without any text in the heads, there is no
// head line.
func newTable(out *bufio.Writer, heads ...string) *table {
	t := &table{out: out, width: make([]int, len(heads)), right: make([]bool, len(heads))}
	head := make([]string, len(heads))
	for i, h := range heads {
		head[i], t.right[i] = strings.CutPrefix(h, ">")
	}
	if strings.Join(head, "") != "" {
		t.hold(head)
	}
	return t
}

func (t *table) hold(cells []string) {
	for i, c := range cells {
		t.width[i] = max(t.width[i], utf8.RuneCountInString(c))
	}
	t.rows = append(t.rows, cells)
}

// row adds a row.
func (t *table) row(cells ...string) error {
	t.n++
	t.hold(cells)
	if len(t.rows) >= batch {
		t.print()
	}
	return t.err
}

// print writes the rows held so far. Widths only grow, so that batches of a
// long table differ as little as possible.
func (t *table) print() {
	for _, cells := range t.rows {
		var b strings.Builder
		b.WriteString(t.indent)
		for i, c := range cells {
			pad := strings.Repeat(" ", t.width[i]-utf8.RuneCountInString(c))
			if i > 0 {
				b.WriteString("  ")
			}
			if t.right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		if _, err := t.out.WriteString(strings.TrimRight(b.String(), " ") + "\n"); err != nil && t.err == nil {
			t.err = fmt.Errorf("writing the output: %w", err)
		}
	}
	t.rows = t.rows[:0]
}

// close prints what is left.
func (t *table) close() error {
	t.print()
	return t.err
}
