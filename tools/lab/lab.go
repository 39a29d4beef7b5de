package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netns"
)

// runDir holds a folder for every lab that is up.
const runDir = "/run/nat64lab"

// stateFile in a lab's folder says what it consists of.
const stateFile = "lab.json"

// Lab is one network. Its methods may be called from any number of
// goroutines, except for Down, which is the last one.
type Lab struct {
	Options Options
	Dir     string // configuration, log and socket of the translator lie here
	Owner   int    // process that made it

	topology topology
}

// state is what stateFile holds.
type state struct {
	Options Options
	Owner   int
}

// NeedRoot explains what is missing to those who may not build a lab.
func NeedRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root to make network namespaces and veth pairs: run it again with sudo or as root")
	}
	return nil
}

// Up builds the network. When it fails it leaves nothing behind.
func Up(options Options) (*Lab, error) {
	if err := NeedRoot(); err != nil {
		return nil, err
	}
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	l := newLab(options, os.Getpid())
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("folder for labs: %w", err)
	}
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("lab %s is up already (%s); take it down first", options.Name, l.Dir)
		}
		return nil, fmt.Errorf("lab %s: %w", options.Name, err)
	}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("lab %s: %w", options.Name, err), Down(options.Name))
	}
	return l, nil
}

func newLab(options Options, owner int) *Lab {
	return &Lab{Options: options, Dir: filepath.Join(runDir, options.Name), Owner: owner, topology: plan(options)}
}

// Open finds a lab that is up, made by this or another process.
func Open(name string) (*Lab, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	content, err := os.ReadFile(filepath.Join(runDir, name, stateFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no lab %s is up", name)
	}
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name, err)
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("lab %s: %s: %w", name, stateFile, err)
	}
	return newLab(s.Options, s.Owner), nil
}

// Names lists the labs that are up, whole or in part.
func Names() ([]string, error) {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list of labs: %w", err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

// Hosts are the names of the lab's hosts.
func (l *Lab) Hosts() []string { return slices.Clone(l.topology.hosts) }

// Host is the host of that name. An unknown name gives a host that cannot be
// entered, and says so then.
func (l *Lab) Host(name string) Host { return Host{Name: name, lab: l.Options.Name} }

// Address is the address of a host's interface, or the zero Addr if there is
// no such thing in this lab.
func (l *Lab) Address(host, ifname string) netip.Addr {
	for _, k := range l.topology.links {
		for _, e := range []end{k.a, k.b} {
			if e.host == host && e.ifname == ifname {
				return e.addr.Addr()
			}
		}
	}
	return netip.Addr{}
}

// Client and Server are the addresses of the first client and server.
func (l *Lab) Client() netip.Addr { return l.Address("client", "eth0") }
func (l *Lab) Server() netip.Addr { return l.Address("server", "eth0") }

// Disown says that the lab shall stay up when this process ends, until
// somebody takes it down by name.
func (l *Lab) Disown() error {
	l.Owner = 0
	return l.writeState()
}

// Reap takes down the labs with that prefix whose process has ended without
// doing so, except for those that were disowned.
func Reap(prefix string) error {
	names, err := Names()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if len(name) < len(prefix) || name[:len(prefix)] != prefix {
			continue
		}
		l, err := Open(name)
		if err == nil && (l.Owner == 0 || processExists(l.Owner)) {
			continue
		}
		errs = append(errs, Down(name))
	}
	return errors.Join(errs...)
}

// writeState makes the lab known to other processes.
func (l *Lab) writeState() error {
	content, err := json.MarshalIndent(state{Options: l.Options, Owner: l.Owner}, "", "  ")
	if err != nil {
		return fmt.Errorf("describe the lab: %w", err)
	}
	return os.WriteFile(filepath.Join(l.Dir, stateFile), append(content, '\n'), 0o644)
}

// namespaceOf opens the namespace of a host for a netlink request that names
// it by descriptor.
func (l *Lab) namespaceOf(host string) (netns.NsHandle, error) {
	h, err := netns.GetFromPath(l.Host(host).Path())
	if err != nil {
		return h, fmt.Errorf("host %s: open its namespace: %w", host, err)
	}
	return h, nil
}
