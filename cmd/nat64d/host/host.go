// Package host makes the changes to the host that a running nat64d needs, and
// takes them back: pool4 addresses on the IPv4 interface, and the kernel's
// ephemeral ports kept out of the NAT's ranges.
//
// What is changed is written to a file before it is changed. An instance that
// was killed leaves that file behind; the next one finds in it what is ours,
// takes it over, and gives it back when it stops. The file is locked while its
// instance lives, so that nobody takes over from the living.
package host

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config says what the translator wants of the host.
type Config struct {
	UndoFile      string // where the changes are remembered
	IPv4Interface string
	Assign        []netip.Prefix // pool4 addresses to put on the interface; none if the operator routes them here
	Pool4         []netip.Prefix
	Ports         [][2]uint16 // the NAT's port ranges on those addresses
	Log           *slog.Logger
}

// Changes is what was done to the host. Not safe for concurrent use.
type Changes struct {
	file string
	held *os.File // the undo file, locked
	log  *slog.Logger
	undo undo
}

// undo is the file's content.
type undo struct {
	Interface string       `json:"interface"`
	Addresses []netip.Addr `json:"addresses"` // added by us
	Reserved  *string      `json:"reserved"`  // ip_local_reserved_ports as it was; null when not touched
}

// Apply makes the changes. Whatever it returns with an error is undone.
func Apply(c Config) (*Changes, error) {
	ch := &Changes{file: c.UndoFile, log: c.Log}
	before, err := ch.hold()
	if err != nil {
		return nil, err
	}
	if before != nil {
		c.Log.Info("taking over what a killed instance left behind", "file", c.UndoFile)
		ch.undo = *before
		if err := ch.dropStale(c); err != nil {
			return nil, errors.Join(err, ch.held.Close())
		}
	}
	ch.undo.Interface = c.IPv4Interface
	if err := ch.assign(c); err != nil {
		return nil, errors.Join(err, ch.Revert())
	}
	if err := ch.reserve(c); err != nil {
		return nil, errors.Join(err, ch.Revert())
	}
	return ch, nil
}

// Revert gives everything back. It goes on after an error, so that one thing
// that cannot be undone does not keep the others.
func (ch *Changes) Revert() error {
	var errs []error
	if ch.undo.Reserved != nil {
		errs = append(errs, writeReserved(*ch.undo.Reserved))
	}
	for _, a := range ch.undo.Addresses {
		errs = append(errs, removeAddress(ch.undo.Interface, a))
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, ch.held.Close()) // the file stays, for the next instance
	}
	if err := os.Remove(ch.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("undo file: %w", err), ch.held.Close())
	}
	return ch.held.Close()
}

// dropStale removes the addresses of the killed instance that this one does
// not want, or wants on another interface.
func (ch *Changes) dropStale(c Config) error {
	var kept []netip.Addr
	for _, a := range ch.undo.Addresses {
		if ch.undo.Interface == c.IPv4Interface && wanted(c.Assign, a) {
			kept = append(kept, a)
			continue
		}
		if err := removeAddress(ch.undo.Interface, a); err != nil {
			return err
		}
	}
	ch.undo.Addresses = kept
	return nil
}

func wanted(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// assign puts the pool4 addresses that the host does not have yet on the
// interface, each as a /32 without a route of its own.
func (ch *Changes) assign(c Config) error {
	link, err := netlink.LinkByName(c.IPv4Interface)
	if err != nil {
		return fmt.Errorf("interface %s: %w", c.IPv4Interface, err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", c.IPv4Interface, err)
	}
	present := make(map[netip.Addr]bool)
	for _, a := range have {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			present[ip] = true
		}
	}
	var missing []netip.Addr
	for _, p := range c.Assign {
		for a := p.Masked().Addr(); p.Contains(a); a = a.Next() {
			if !present[a] {
				missing = append(missing, a)
			}
		}
	}
	for _, a := range missing {
		if !slices.Contains(ch.undo.Addresses, a) {
			ch.undo.Addresses = append(ch.undo.Addresses, a)
		}
	}
	if err := ch.save(); err != nil {
		return err
	}
	for _, a := range missing {
		err := netlink.AddrAdd(link, address(a))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s to %s: %w", a, c.IPv4Interface, err)
		}
	}
	return nil
}

func address(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)},
		Flags: unix.IFA_F_NOPREFIXROUTE,
	}
}

// removeAddress takes an address away; one that is gone already, or whose
// interface is, needs nothing.
func removeAddress(name string, a netip.Addr) error {
	link, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	err = netlink.AddrDel(link, address(a))
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove %s from %s: %w", a, name, err)
	}
	return nil
}
