package benchmark

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Marks around a generated part of a document.
const (
	beginMark = "<!-- make bench: %s -->\n"
	endMark   = "<!-- end -->\n"
)

var errMark = errors.New("a mark of a generated part is missing")

// Renew writes the tables into a document, between their marks. A document needs
// not have a place for each table.
func Renew(path string, r Results) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the document: %w", err)
	}
	text, err := renewed(string(content), r.Tables())
	if err != nil {
		return fmt.Errorf("document %s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the document: %w", err)
	}
	return nil
}

func renewed(text string, tables []Table) (string, error) {
	for _, t := range tables {
		before, rest, ok := strings.Cut(text, fmt.Sprintf(beginMark, t.Name))
		if !ok {
			continue
		}
		_, after, ok := strings.Cut(rest, endMark)
		if !ok {
			return "", fmt.Errorf("%w: the end of %s", errMark, t.Name)
		}
		text = before + fmt.Sprintf(beginMark, t.Name) + t.Markdown() + endMark + after
	}
	return text, nil
}
