package handoff

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"handoff64/conntrack"
)

// The state file keeps the capable servers over a restart: one that took them
// for plain hosts would give their clients new ports. It is text, and whole only
// if the last line says how many there are:
//
//	handoff64 servers 1
//	198.51.100.7 handoff
//	198.51.100.9 down
//	end 2
const stateFileHeader = "handoff64 servers 1"

// knownServer is a line of the state file.
type knownServer struct {
	addr  uint32
	state conntrack.ServerState
}

func formatState(servers []knownServer) []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, stateFileHeader)
	for _, s := range servers {
		fmt.Fprintln(&b, ipv4Address(s.addr), s.state)
	}
	fmt.Fprintln(&b, "end", len(servers))
	return b.Bytes()
}

func parseState(text []byte) ([]knownServer, error) {
	lines := strings.Split(string(text), "\n")
	if lines[0] != stateFileHeader {
		return nil, fmt.Errorf("line 1 is not %q", stateFileHeader)
	}
	last := len(lines) - 2
	if last < 1 || lines[last+1] != "" || lines[last] != fmt.Sprintf("end %d", last-1) {
		return nil, errors.New("its end is missing")
	}
	servers := make([]knownServer, 0, last-1)
	for i, line := range lines[1:last] {
		s, err := parseServer(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func parseServer(line string) (s knownServer, err error) {
	addr, state, _ := strings.Cut(line, " ")
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return s, fmt.Errorf("server: %w", err)
	}
	if !a.Is4() {
		return s, fmt.Errorf("server %s: not an IPv4 address", a)
	}
	b := a.As4()
	s.addr = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	switch state {
	case conntrack.ServerHandoff.String():
		s.state = conntrack.ServerHandoff
	case conntrack.ServerDown.String():
		s.state = conntrack.ServerDown
	default:
		return s, fmt.Errorf("state %q of server %s is neither handoff nor down", state, a)
	}
	return s, nil
}

// readState reads the state file; there is none at the first start.
func readState(path string) ([]knownServer, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("handoff state file: %w", err)
	}
	servers, err := parseState(text)
	if err != nil {
		return nil, fmt.Errorf("handoff state file %s: %w", path, err)
	}
	return servers, nil
}

// writeState replaces the state file as a whole: a crash leaves the old one or
// the new one.
func writeState(path string, servers []knownServer) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("handoff state file: %w", err)
	}
	_, err = f.Write(formatState(servers))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("handoff state file %s: %w", temp, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("handoff state file: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("handoff state file %s: its folder: %w", path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("handoff state file %s: its folder: %w", path, err)
	}
	return nil
}

// restore takes up what the state file says. A file that cannot be read is no
// reason not to start: its servers make themselves known again.
func (w *Worker) restore() {
	known, err := readState(w.stateFile)
	if err != nil {
		w.log.Warn("the known handoff servers are forgotten", "error", err)
	}
	for _, k := range known {
		if w.own[k.addr] != nil {
			continue // pool4 has grown by what was a server
		}
		w.servers.set(w.servers.touch(k.addr), k.state)
		if k.state == conntrack.ServerHandoff {
			w.tellAll(k.addr, false) // what was being repeated when we were killed
		}
	}
	w.servers.dirty = err != nil
}

// capable lists what the state file holds.
func (s *servers) capable() (known []knownServer) {
	for _, st := range [...]conntrack.ServerState{conntrack.ServerDown, conntrack.ServerHandoff} {
		for i := s.lists[st].head; i != none; i = s.places[i].next {
			known = append(known, knownServer{s.index.keys[i], st})
		}
	}
	return known
}

// Changes of the state file are gathered for saveEvery; one that failed is
// tried again after saveAgain.
const (
	saveEvery = int64(100 * time.Millisecond)
	saveAgain = int64(10 * time.Second)
)

// save writes the state file if it is out of date, on another goroutine: a disk
// may take its time.
func (w *Worker) save() {
	if !w.servers.dirty || w.saving.Load() || w.now < w.saveAt {
		return
	}
	w.servers.dirty = false
	w.saveAt = w.now + saveEvery
	known := w.servers.capable()
	w.saving.Store(true)
	w.background.Go(func() {
		if err := writeState(w.stateFile, known); err != nil {
			w.count.saveFailures.Add(1)
			w.saveFailed.Store(true)
			w.log.Error("the known handoff servers would be forgotten in a restart", "error", err)
		}
		w.saving.Store(false)
		w.Wake()
	})
}

// checkSave has a failed write tried again.
func (w *Worker) checkSave() {
	if w.saveFailed.CompareAndSwap(true, false) {
		w.servers.dirty = true
		w.saveAt = w.now + saveAgain
	}
}
