package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// logFile is the log that operators read: a file, flushed to disk before an
// answer leaves, or standard output ("-"), which nobody can flush. Used by one
// goroutine at a time: by Open, then by the committer.
type logFile struct {
	path   string
	append func(dst []byte, e *Event) []byte
	file   *os.File // nil for standard output
	stdout io.Writer

	device, inode uint64
	size          int64
}

// errLogFormat: neither text nor json.
var errLogFormat = errors.New("the log's format is text or json")

func openLog(path, format string, stdout io.Writer) (*logFile, error) {
	l := &logFile{path: path, stdout: stdout}
	switch format {
	case "text":
		l.append = func(dst []byte, e *Event) []byte { return e.appendText(dst) }
	case "json":
		l.append = func(dst []byte, e *Event) []byte { return e.appendJSON(dst) }
	default:
		return nil, fmt.Errorf("%q: %w", format, errLogFormat)
	}
	if path == "-" {
		return l, nil
	}
	return l, l.open()
}

// open opens or makes the file; the name of a new one is flushed too.
func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return errors.Join(fmt.Errorf("look at the log %s: %w", l.path, err), f.Close())
	}
	if err := syncDirectory(filepath.Dir(l.path)); err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.device, l.inode, l.size = f, st.Dev, st.Ino, st.Size
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the log's folder: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("flush the log's folder %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

// reopen follows a log rotation: the name may lead to a new file now.
func (l *logFile) reopen() error {
	if l.file == nil {
		return nil
	}
	if err := l.close(); err != nil {
		return err
	}
	return l.open()
}

func (l *logFile) close() error {
	if l.file == nil {
		return nil
	}
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("close the log %s: %w", l.path, err)
	}
	return nil
}

// format appends the lines of a batch.
func (l *logFile) format(dst []byte, events []Event) []byte {
	for i := range events {
		dst = l.append(dst, &events[i])
	}
	return dst
}

// pending describes what write will do with lines; nil when nothing can be
// found out about it after a crash.
func (l *logFile) pending(lines []byte) *pending {
	if l.file == nil {
		return nil
	}
	return &pending{device: l.device, inode: l.inode, offset: l.size, lines: lines}
}

// write appends lines and, for a file, waits until they are on disk.
func (l *logFile) write(lines []byte) error {
	if l.file == nil {
		if _, err := l.stdout.Write(lines); err != nil {
			return fmt.Errorf("write the log to standard output: %w", err)
		}
		return nil
	}
	n, err := l.file.Write(lines)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("write the log: %w", err)
	}
	if err := unix.Fdatasync(int(l.file.Fd())); err != nil {
		return fmt.Errorf("flush the log %s: %w", l.path, err)
	}
	return nil
}

// recover gives the log what the last crash kept from it. p is what was stored
// with the last transaction: its lines stand in the log wholly, in part, or not
// at all. What the file holds at their place decides. Nothing that stands in
// the log is ever changed; a line that was cut and cannot be completed is ended.
//
// After a rotation that this program was not told of (no SIGHUP), nothing can be
// said about the file that was written to, so all of the lines are repeated. The
// same happens if somebody else wrote to the log. A line too many says nothing
// wrong, one too few might.
func (l *logFile) recover(p *pending) error {
	if l.file == nil {
		return nil
	}
	missing, err := l.missing(p)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if err := l.write(missing); err != nil {
			return err
		}
	}
	return l.endLine()
}

// missing is what the log lacks of p.
func (l *logFile) missing(p *pending) ([]byte, error) {
	if p == nil || len(p.lines) == 0 {
		return nil, nil
	}
	if p.device != l.device || p.inode != l.inode || l.size < p.offset {
		return p.lines, l.endLine()
	}
	there := make([]byte, min(int64(len(p.lines)), l.size-p.offset))
	if _, err := l.file.ReadAt(there, p.offset); err != nil {
		return nil, fmt.Errorf("read the end of the log: %w", err)
	}
	if !bytes.HasPrefix(p.lines, there) {
		return p.lines, l.endLine()
	}
	return p.lines[len(there):], nil
}

// endLine ends a last line that was cut.
func (l *logFile) endLine() error {
	if l.size == 0 {
		return nil
	}
	var last [1]byte
	if _, err := l.file.ReadAt(last[:], l.size-1); err != nil {
		return fmt.Errorf("read the end of the log: %w", err)
	}
	if last[0] == '\n' {
		return nil
	}
	return l.write([]byte{'\n'})
}
