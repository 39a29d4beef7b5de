package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Holder is a client behind a mapped port. Server is not valid when only the
// text log knows of it, which does not say which of our addresses was asked.
type Holder struct {
	Client     netip.Addr
	ClientPort uint16
	Server     netip.Addr
}

// is says whether two sources may mean the same holder.
func (h Holder) is(o Holder) bool {
	return h.Client == o.Client && h.ClientPort == o.ClientPort &&
		(h.Server == o.Server || !h.Server.IsValid() || !o.Server.IsValid())
}

// Lookup says who is behind a port of a NAT64's address, or of one of the pool:
// there the client has all ports, and uses its own. There is more than one answer
// only when several of our addresses were asked: each has a table of its own.
func Lookup(ctx context.Context, v View, at netip.AddrPort) ([]Holder, error) {
	var out []Holder
	err := v.Entries(ctx, Filter{Address: at.Addr(), MappedPort: at.Port()}, func(r *Row) error {
		if r.MappedPort == at.Port() || r.MappedPort == 0 {
			out = append(out, r.holder(at))
		}
		return nil
	})
	return out, err
}

// holder is the client of a row as an answer to a question about a port.
func (r *Row) holder(at netip.AddrPort) Holder {
	h := Holder{r.Client, r.ClientPort, r.Server}
	if r.MappedPort == 0 {
		h.ClientPort = at.Port()
	}
	return h
}

// LookupAt says who was behind a NAT64's mapped port at a time. What is in the
// table and was then is sure; the log, with those it was rotated to, tells of
// what has been deleted since. A time of whole seconds is one of a log that has no
// finer ones: if nobody had the port when that second began, whoever got it before
// it ended is meant, and had it for less perhaps.
func LookupAt(ctx context.Context, v View, at netip.AddrPort, when time.Time) ([]Holder, error) {
	out, err := lookupAt(ctx, v, at, when, when)
	if err == nil && len(out) == 0 && when.Nanosecond() == 0 {
		return lookupAt(ctx, v, at, when, when.Add(time.Second-time.Microsecond))
	}
	return out, err
}

// lookupAt says who was there at the time from, and who came until the time to.
func lookupAt(ctx context.Context, v View, at netip.AddrPort, from, to time.Time) ([]Holder, error) {
	st, err := v.Status(ctx)
	if err != nil {
		return nil, err
	}
	out, err := readHistory(st.Log, at, from, to)
	if err != nil {
		return nil, err
	}
	err = v.Entries(ctx, Filter{Address: at.Addr(), MappedPort: at.Port()}, func(r *Row) error {
		if r.Created.After(to) || r.MappedPort != at.Port() && r.MappedPort != 0 {
			return nil
		}
		h := r.holder(at)
		out = append(slices.DeleteFunc(out, h.is), h)
		return nil
	})
	return out, err
}

// readHistory reads a log and those it was rotated to, oldest first.
func readHistory(path string, at netip.AddrPort, from, to time.Time) ([]Holder, error) {
	if path == "-" || path == "" {
		return nil, nil // standard output, which others keep
	}
	files, err := rotated(path)
	if err != nil {
		return nil, err
	}
	var events []Event
	for _, f := range files {
		if events, err = scanFile(f, at, events); err != nil {
			return nil, err
		}
	}
	// The clock may have been set back between two runs; within one the log's
	// order is the truth, and sorting keeps it.
	slices.SortStableFunc(events, func(a, b Event) int { return int(max(-1, min(1, a.Time-b.Time))) })
	return replay(events, at.Port(), from.UnixMicro(), to.UnixMicro()), nil
}

// rotated lists the log and what logrotate and its like made of it: NAME.1,
// NAME.2.gz, NAME-20190318. Oldest first, by their last change.
func rotated(path string) ([]string, error) {
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("look for the log: %w", err)
	}
	type aged struct {
		name string
		at   time.Time
	}
	var files []aged
	base := filepath.Base(path)
	for _, n := range names {
		rest, ok := strings.CutPrefix(n.Name(), base)
		if !ok || rest != "" && rest[0] != '.' && rest[0] != '-' {
			continue
		}
		info, err := n.Info()
		if errors.Is(err, os.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue // rotated away just now, or no log
		}
		if err != nil {
			return nil, fmt.Errorf("look at the log %s: %w", n.Name(), err)
		}
		files = append(files, aged{filepath.Join(filepath.Dir(path), n.Name()), info.ModTime()})
	}
	slices.SortStableFunc(files, func(a, b aged) int { return a.at.Compare(b.at) })
	out := make([]string, len(files))
	for i := range files {
		out[i] = files[i].name
	}
	return out, nil
}

// scanFile appends the events of one mapped port that a log file tells of.
func scanFile(path string, at netip.AddrPort, dst []Event) ([]Event, error) {
	err := readLogFile(path, func(r io.Reader) (err error) {
		dst, err = scanEvents(r, at, dst)
		return err
	})
	return dst, err
}

// scanEvents looks at each line that can concern the port. Lines that are no
// events, such as one that a crash has cut, are skipped, and a last line without
// an end, which is still being written.
func scanEvents(r io.Reader, at netip.AddrPort, dst []Event) ([]Event, error) {
	text, asJSON := []byte(" "+at.String()+" "), fmt.Appendf(nil, `"mapped_port":%d,`, at.Port())
	wholeText, wholeJSON := []byte(" "+at.Addr().String()+":0 "), []byte(`"mapped_port":0,`)
	lines := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			continue // no event is that long
		}
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return nil, err
		}
		if bytes.Contains(line, text) || bytes.Contains(line, asJSON) || bytes.Contains(line, wholeText) || bytes.Contains(line, wholeJSON) {
			e, perr := parseEvent(bytes.TrimSpace(line))
			if perr == nil && e.Kind != Initialized && (e.MappedPort == at.Port() || e.MappedPort == 0) && netip4(e.Address) == at.Addr() {
				dst = append(dst, e)
			}
		}
	}
}

// replay returns who was behind a port at the time from, and who came until the
// time to, whether they stayed or not.
func replay(events []Event, port uint16, from, to int64) (out []Holder) {
	for _, e := range events {
		if e.Time > to {
			break
		}
		if e.Time > from && e.Kind == Deleted {
			continue
		}
		h := Holder{Client: netip6(e.Client), ClientPort: e.ClientPort}
		if e.MappedPort == 0 { // the whole address
			h.ClientPort = port
		}
		if e.Server != (addr4{}) {
			h.Server = netip4(e.Server)
		}
		// A line may stand there twice: see logFile.recover.
		out = slices.DeleteFunc(out, h.is)
		if e.Kind == Created {
			out = append(out, h)
		}
	}
	return out
}
