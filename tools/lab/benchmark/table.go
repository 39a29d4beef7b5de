package benchmark

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table is what is shown of a group. A plain value.
type Table struct {
	Name    string // in the marks of a document
	Title   string
	Before  []string // paragraphs
	Columns []string
	Rows    [][]string
	After   []string // paragraphs
}

// Text writes the table for a terminal.
func (t *Table) Text(out io.Writer) error {
	fmt.Fprintf(out, "\n%s\n\n", t.Title)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(t.Columns, "\t"))
	for _, r := range t.Rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print a table: %w", err)
	}
	for _, p := range t.After {
		fmt.Fprintln(out, plain(p))
	}
	return nil
}

// plain leaves out what only Markdown needs.
func plain(s string) string { return strings.NewReplacer("`", "", "**", "").Replace(s) }

// Markdown is the table for a document.
func (t *Table) Markdown() string {
	var b strings.Builder
	for _, p := range t.Before {
		fmt.Fprintf(&b, "%s\n\n", p)
	}
	row := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	row(t.Columns)
	rule := make([]string, len(t.Columns))
	for i := range rule {
		if rule[i] = "---:"; i == 0 {
			rule[i] = "---"
		}
	}
	row(rule)
	for _, r := range t.Rows {
		row(r)
	}
	for _, p := range t.After {
		fmt.Fprintf(&b, "\n%s\n", p)
	}
	return b.String()
}
