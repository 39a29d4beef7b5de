package server

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"

	"handoff64/handoff/tundev"
	"handoff64/handoff/wire"
)

// DefaultDevice is the TUN device's name.
const DefaultDevice = "handoff0"

// DefaultStateDir is where the table lies unless configured otherwise.
const DefaultStateDir = "/var/lib/handoffd"

// Names of what lies in the state folder.
const (
	tableName  = "table.db"
	socketName = "handoffd.sock"
	logName    = "handoffd.log"
	lookupName = "lookup.sock"
)

// NoLookupSocket in place of a path: programs cannot ask.
const NoLookupSocket = "none"

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
	// LookupSocket is where programs ask who their clients are: a path,
	// NoLookupSocket, or empty for lookup.sock in the state folder.
	LookupSocket string
	// HTTP is a TCP address and port for the same; none if it is not valid.
	HTTP   netip.AddrPort
	Stdout io.Writer
	// Mode is how to begin; SetMode changes it.
	Mode Mode
	// Pool is what local-nat mode gives to clients.
	Pool netip.Prefix
	// Device is the name of the TUN device, and DeviceMTU its MTU: 0 is what
	// fits into a control datagram on the way to the default gateway.
	Device    string
	DeviceMTU int
	// ModeChanges makes the device in any mode, so that SetMode can choose any.
	ModeChanges bool
	// Version is shown by status.
	Version string

	// discardPort is where validation packets go: port 9 but in tests that may
	// not bind it.
	discardPort uint16
	// openDevice makes the TUN device, or what a test has in its place.
	openDevice func(tundev.Config) (device, error)
}

// DefaultConfig is what the command has without flags.
func DefaultConfig() Config {
	return Config{
		Listen:   netip.AddrPortFrom(netip.IPv4Unspecified(), wire.Port),
		StateDir: DefaultStateDir, LogFormat: "text", MaxEntries: 64000,
		Pool: DefaultPool, Device: DefaultDevice,
		discardPort: 9, // RFC 863
		openDevice:  func(c tundev.Config) (device, error) { return tundev.Open(c) },
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
	return c.checkDevice()
}

// needsDevice says whether the configuration has a TUN device, and needsPool
// whether that leads to the pool.
func (c *Config) needsDevice() bool { return c.Mode != Minimal || c.ModeChanges }
func (c *Config) needsPool() bool   { return c.Mode == LocalNAT || c.ModeChanges }

func (c *Config) checkDevice() error {
	switch {
	case !c.needsDevice():
		return nil
	case c.Device == "" || len(c.Device) > 15:
		return fmt.Errorf("device %q: a name has 1 to 15 octets: %w", c.Device, errConfig)
	case c.DeviceMTU != 0 && (c.DeviceMTU < leastMTU || c.DeviceMTU > jumbo):
		return fmt.Errorf("device-mtu %d: 0, or %d to %d: %w", c.DeviceMTU, leastMTU, jumbo, errConfig)
	}
	return CheckPool(c.Pool)
}

// lookupSocket is the path of the look-up socket; empty: there is none.
func (c *Config) lookupSocket() string {
	switch c.LookupSocket {
	case NoLookupSocket:
		return ""
	case "":
		return filepath.Join(c.StateDir, lookupName)
	}
	return c.LookupSocket
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
