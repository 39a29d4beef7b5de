package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// LogReader reads a session log: all that it was rotated to, oldest first, then
// the log, then what is added to it. Used by one goroutine.
type LogReader struct {
	path string
	file *os.File // the log, as far as it has been read; nil at the beginning
	rest []byte   // of the last line, whose end has not been written yet
}

// NewLogReader prepares to read the log called path. It opens nothing.
func NewLogReader(path string) *LogReader { return &LogReader{path: path} }

// Close gives back the file.
func (r *LogReader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// Read calls each for every event that has come since the last time. An error
// that is fs.ErrNotExist: there is no log at present.
func (r *LogReader) Read(each func(*Event)) error {
	if r.file == nil {
		if err := r.older(each); err != nil {
			return err
		}
	}
	for {
		if r.file != nil {
			if err := r.more(r.file, each); err != nil {
				return fmt.Errorf("read the log %s: %w", r.path, err)
			}
		}
		next, err := r.rotated()
		if err != nil || next == nil {
			return err
		}
		if r.file != nil {
			// What was written between our reading and the rotation.
			err = errors.Join(r.more(r.file, each), r.file.Close())
		}
		r.file, r.rest = next, r.rest[:0]
		if err != nil {
			return fmt.Errorf("read the log %s: %w", r.path, err)
		}
	}
}

// rotated opens what the name leads to now, unless that is the file at hand.
func (r *LogReader) rotated() (*os.File, error) {
	info, err := os.Stat(r.path)
	if err != nil {
		return nil, fmt.Errorf("look at the log: %w", err)
	}
	if r.file != nil {
		have, err := r.file.Stat()
		if err != nil {
			return nil, fmt.Errorf("look at the log: %w", err)
		}
		if os.SameFile(info, have) {
			return nil, nil
		}
	}
	f, err := os.Open(r.path)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

// older reads what the log was rotated to.
func (r *LogReader) older(each func(*Event)) error {
	files, err := rotated(r.path)
	if err != nil {
		return err
	}
	for _, name := range files {
		if filepath.Clean(name) == filepath.Clean(r.path) {
			continue
		}
		err := readLogFile(name, func(in io.Reader) error {
			defer func() { r.rest = r.rest[:0] }()
			return r.more(in, each)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // rotated once more just now
			return err
		}
	}
	return nil
}

// readLogFile opens a log, compressed or not.
func readLogFile(path string, read func(io.Reader) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("unpack the log %s: %w", path, err)
		}
	}
	if err := read(in); err != nil {
		return fmt.Errorf("read the log %s: %w", path, err)
	}
	return nil
}

// more reads to the end. A last line without an end is kept until that comes.
// Lines that are no events, such as one that a crash has cut, are skipped.
func (r *LogReader) more(in io.Reader, each func(*Event)) error {
	lines := bufio.NewReaderSize(in, 1<<16)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case err == nil && len(r.rest) > 0:
			r.rest = append(r.rest, line...)
			line = r.rest
			r.rest = r.rest[:0]
		case errors.Is(err, io.EOF), errors.Is(err, bufio.ErrBufferFull):
			if r.rest = append(r.rest, line...); len(r.rest) > 1<<16 {
				r.rest = r.rest[:1] // no event is that long
			}
			if err == io.EOF {
				return nil
			}
			continue
		case err != nil:
			return err
		}
		if e, perr := parseEvent(bytes.TrimSpace(line)); perr == nil {
			each(&e)
		}
	}
}
