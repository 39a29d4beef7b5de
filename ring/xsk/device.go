package xsk

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// Device is the pair of interfaces with the filter on them and a socket on
// each queue. The workers' parts belong to the workers; the other methods may
// be called from any goroutine, Close only after the workers stopped.
type Device struct {
	cfg     Config
	log     *slog.Logger
	sides   []*side // one or two
	v6, v4  *side   // which may be the same
	umem    *ring.UMEM
	workers []Worker

	mu sync.Mutex // serialises changes of the filters and Close
}

// UMEM is the memory that all packets lie in.
func (d *Device) UMEM() *ring.UMEM { return d.umem }

// Workers are the parts that each worker owns, in order of the workers.
func (d *Device) Workers() []Worker { return d.workers }

// Sockets are all sockets, for their statistics.
func (d *Device) Sockets() []*Socket {
	var all []*Socket
	for _, s := range d.sides {
		all = append(all, s.sockets...)
	}
	return all
}

// Info says how the two interfaces are used.
func (d *Device) Info() (ipv6, ipv4 Interface) { return d.v6.info(), d.v4.info() }

func (s *side) info() Interface {
	first := s.sockets[0]
	return Interface{
		Name: s.link.name, Index: s.link.index, MAC: s.link.mac, Mode: s.mode,
		ZeroCopy: first.zeroCopy, BusyPoll: first.busyPoll, Queues: len(s.sockets),
	}
}

// SetFilter makes the running filter follow cfg: a reload.
func (d *Device) SetFilter(cfg FilterConfig) error {
	return d.eachFilter(func(f *filter) error { return f.update(cfg) })
}

// AddStatic makes packets for a static mapping the translator's. Adding one
// twice is no error.
func (d *Device) AddStatic(s Static) error {
	return d.eachFilter(func(f *filter) error { return f.addStatic(s) })
}

// RemoveStatic undoes AddStatic. Removing what is not there is no error.
func (d *Device) RemoveStatic(s Static) error {
	return d.eachFilter(func(f *filter) error { return f.removeStatic(s) })
}

// SetMAC follows a change of an interface's address: frames to other addresses
// are not ours.
func (d *Device) SetMAC(ifindex int, mac [6]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sides {
		if s.link.index != ifindex {
			continue
		}
		s.filter.mac = mac
		if err := s.filter.writeSettings(); err != nil {
			return fmt.Errorf("xsk: follow the new address of %q: %w", s.link.name, err)
		}
	}
	return nil
}

func (d *Device) eachFilter(change func(*filter) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.sides {
		if err := change(s.filter); err != nil {
			return fmt.Errorf("xsk: filter of %q: %w", s.link.name, err)
		}
	}
	return nil
}

// Census checks that every frame is in exactly one place. The workers must be
// at rest, with no frames in their hands, and so must the kernel.
func (d *Device) Census() error {
	var places []ring.Place
	for i, w := range d.workers {
		places = append(places, ring.Place{Name: fmt.Sprintf("worker %d's stack", i), Frames: w.Frames.Frames()})
	}
	for _, s := range d.Sockets() {
		places = append(places, s.Places()...)
	}
	return ring.Census(d.umem, places...)
}

// Close takes the filters off the interfaces, closes the sockets and frees the
// memory. It undoes what a failed Open did as well, and may be called twice.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, s := range d.sides {
		errs = append(errs, s.detach(d.cfg.StateDir))
	}
	errs = append(errs, d.closeSockets())
	for _, s := range d.sides {
		if s.filter != nil {
			errs = append(errs, s.filter.close())
		}
		if err := unix.Close(s.lock); err != nil {
			errs = append(errs, fmt.Errorf("xsk: unlock %q: %w", s.link.name, err))
		}
	}
	d.sides = nil
	return errors.Join(errs...)
}

func (s *side) detach(stateDir string) error {
	if s.filter == nil || s.mode == "" {
		return nil
	}
	if err := s.filter.detachOwn(s.link); err != nil {
		return err
	}
	s.mode = ""
	return removeNote(s.link, stateDir)
}

// closeSockets closes all sockets and frees the UMEM.
func (d *Device) closeSockets() error {
	var errs []error
	for _, s := range d.sides {
		for _, sock := range s.sockets {
			errs = append(errs, sock.close())
		}
		s.sockets = nil
	}
	d.workers = nil
	if d.umem != nil {
		errs = append(errs, d.umem.Close())
		d.umem = nil
	}
	return errors.Join(errs...)
}
