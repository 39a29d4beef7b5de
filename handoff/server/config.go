package server

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"

	"handoff64/handoff/wire"
)

// DefaultStateDir is where the table lies unless configured otherwise.
const DefaultStateDir = "/var/lib/handoffd"

// Names of what lies in the state folder.
const (
	tableName  = "table.db"
	socketName = "handoffd.sock"
	logName    = "handoffd.log"
)

// Config is what a server needs to know. A plain value.
type Config struct {
	// Listen is the control port. With 0.0.0.0 every address of the host is a
	// server of its own, and each has its own table.
	Listen netip.AddrPort
	// StateDir holds table, control socket and, by default, the log.
	StateDir string
	// Log is a file, or "-" for Stdout. Stdout cannot be flushed to disk, so
	// with it only the table is durable.
	Log       string
	LogFormat string // text or json
	// MaxEntries is how many entries a NAT64 may have before old ones go.
	MaxEntries int
	Stdout     io.Writer
	// Version is shown by status.
	Version string

	// discardPort is where validation packets go: port 9 but in tests that may
	// not bind it.
	discardPort uint16
}

// DefaultConfig is what the command has without flags.
func DefaultConfig() Config {
	return Config{
		Listen:   netip.AddrPortFrom(netip.IPv4Unspecified(), wire.Port),
		StateDir: DefaultStateDir, LogFormat: "text", MaxEntries: 64000,
		discardPort: 9, // RFC 863
	}
}

// errConfig marks values that no server can work with.
var errConfig = errors.New("not usable")

// Check says what is wrong with a configuration.
func (c *Config) Check() error {
	switch {
	case !c.Listen.Addr().Is4():
		return fmt.Errorf("listen %v: the control channel is IPv4: %w", c.Listen, errConfig)
	case c.StateDir == "":
		return fmt.Errorf("state-dir is empty: %w", errConfig)
	case c.LogFormat != "text" && c.LogFormat != "json":
		return fmt.Errorf("log-format %q: %w", c.LogFormat, errLogFormat)
	case c.MaxEntries < 1 || c.MaxEntries > maxMapped:
		return fmt.Errorf("max-entries-per-nat64 %d: a NAT64 address has %d usable ports: %w", c.MaxEntries, maxMapped, errConfig)
	}
	return nil
}

// logPath is the log's absolute path, or "-".
func (c *Config) logPath() (string, error) {
	switch c.Log {
	case "-":
		return c.Log, nil
	case "":
		return filepath.Join(c.StateDir, logName), nil
	}
	path, err := filepath.Abs(c.Log)
	if err != nil {
		return "", fmt.Errorf("log %s: %w", c.Log, err)
	}
	return path, nil
}
