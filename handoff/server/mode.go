package server

import (
	"errors"
	"fmt"
)

// Mode is how a server serves its clients (draft §11).
type Mode uint8

const (
	// Minimal gives TCP and UDP packets back to the NAT64, with their entries.
	Minimal Mode = iota
	// LocalNAT translates itself and gives each client an address of the pool.
	LocalNAT
	// Mixed translates itself and keeps the NAT64's address.
	Mixed
)

// modeNames is read only.
var modeNames = [...]string{Minimal: "minimal", LocalNAT: "local-nat", Mixed: "mixed"}

func (m Mode) String() string { return modeNames[m] }

// errMode: not a mode.
var errMode = errors.New("the modes are minimal, local-nat and mixed")

// ParseMode reads a mode's name.
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if name == s {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("mode %q is unknown: %w", s, errMode)
}

// errNoDevice: the device can only be made with a privilege that is given up
// after the start.
var errNoDevice = errors.New("handoffd was started without a TUN device; start it in this mode, or with --mode-changes")

// errNoPool is errNoDevice for the route to the pool.
var errNoPool = errors.New("handoffd was started without a route to its pool; start it in this mode, or with --mode-changes")

// SetMode changes the mode while the server runs. Entries and leases stay.
// Connections go on under the address that local programs know them by: see
// handler.query. Any goroutine.
func (s *Server) SetMode(m Mode) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m != Minimal && s.handler.nat == nil:
		return errNoDevice
	case m == LocalNAT && !s.table.pool.prefix.IsValid():
		return errNoPool
	}
	if was := s.handler.mode; was != m {
		s.handler.mode = m
		s.log.Info("mode changed", "mode", m, "was", was)
	}
	return nil
}

func (s *Server) mode() Mode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handler.mode
}
