package xsk

import (
	"errors"
	"fmt"
	"time"

	"handoff64/ring"
)

// releaseTimeout is how long Open waits for the queues of a predecessor that
// was closed or killed: the kernel frees them after an RCU grace period.
const releaseTimeout = 3 * time.Second

// side is one interface of a Device.
type side struct {
	link    *link
	lock    int // descriptor of lockLink
	filter  *filter
	mode    Mode // where the filter is attached; empty if it is not
	sockets []*Socket
}

// Open attaches the filter to both interfaces, opens a socket for each of
// their receive queues and deals the queues to workers: queue k is worker
// k mod W's. What fails is undone. Open and Close must run in the interfaces'
// network namespace.
func Open(cfg Config) (*Device, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := checkCapabilities(); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, log: cfg.Log}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Device) open() error {
	if err := d.openSides(); err != nil {
		return err
	}
	for _, s := range d.sides {
		if err := d.attachSide(s); err != nil {
			return err
		}
	}
	if err := d.openAllSockets(); err != nil {
		return err
	}
	if err := d.startBusyPoll(); err != nil {
		return err
	}
	for _, s := range d.sides {
		for _, sock := range s.sockets {
			if err := s.filter.xdp.Register(sock.queue, sock.fd); err != nil {
				return fmt.Errorf("xsk: give %s queue %d to the filter: %w", s.link.name, sock.queue, err)
			}
		}
	}
	return nil
}

// openSides finds and locks the interfaces: one side each, or one for both.
func (d *Device) openSides() error {
	names := []string{d.cfg.IPv6, d.cfg.IPv4}
	if d.cfg.IPv6 == d.cfg.IPv4 {
		names = names[:1]
	}
	for _, name := range names {
		l, err := findLink(name)
		if err != nil {
			return err
		}
		lock, err := lockLink(l)
		if err != nil {
			return err
		}
		d.sides = append(d.sides, &side{link: l, lock: lock})
	}
	d.v6, d.v4 = d.sides[0], d.sides[len(d.sides)-1]
	return nil
}

// attachSide loads the filter and attaches it, native before generic.
func (d *Device) attachSide(s *side) error {
	left, err := findLeftOver(s.link, d.cfg.StateDir)
	if err != nil {
		return err
	}
	if s.filter, err = d.loadProgram(s); err != nil {
		return err
	}
	if left != nil {
		if s.mode, err = s.filter.takeOver(s.link, left, d.cfg.Mode); err != nil {
			return err
		}
		d.log.Info("took over the XDP program that an earlier instance left", "interface", s.link.name, "mode", string(s.mode))
		if s.mode != "" {
			return s.filter.note(s.link, d.cfg.StateDir)
		}
	}
	return d.attachFresh(s)
}

// loadProgram loads the filter of one side, or what Config.Program makes.
func (d *Device) loadProgram(s *side) (*filter, error) {
	if d.cfg.Program == nil {
		return loadFilterProgram(d.cfg.Filter, s.link.rxQueues, s.link.mac, s == d.v6, s == d.v4)
	}
	p, err := d.cfg.Program(s.link.rxQueues)
	if err != nil {
		return nil, fmt.Errorf("xsk: program for %q: %w", s.link.name, err)
	}
	return &filter{xdp: p, foreign: true}, nil
}

// attachFresh attaches the filter to an interface without a program.
func (d *Device) attachFresh(s *side) error {
	modes := []Mode{d.cfg.Mode}
	if d.cfg.Mode == ModeAuto {
		modes = []Mode{ModeNative, ModeGeneric}
	}
	var errs []error
	for _, mode := range modes {
		err := s.filter.attach(s.link, mode)
		if err == nil {
			s.mode = mode
			d.log.Info("XDP filter attached", "interface", s.link.name, "mode", string(mode))
			return s.filter.note(s.link, d.cfg.StateDir)
		}
		errs = append(errs, err)
		if mode == ModeNative && len(modes) > 1 {
			d.log.Warn("no native XDP, falling back to generic", "interface", s.link.name, "reason", err)
		}
	}
	return errors.Join(errs...)
}

// openAllSockets opens the sockets of both interfaces with zero copy, else
// with copying: all sockets of one UMEM are of one kind.
func (d *Device) openAllSockets() error {
	d.warnOfWorkers()
	zc := d.cfg.ZeroCopy != Off
	for _, s := range d.sides {
		if s.mode == ModeGeneric && zc {
			if d.cfg.ZeroCopy == On {
				return fmt.Errorf("xsk: zero copy is required, and %q has XDP in generic mode only", s.link.name)
			}
			d.log.Info("no zero copy", "interface", s.link.name, "reason", "the filter runs in generic mode")
			zc = false
		}
	}
	if zc {
		err := d.openSockets(true)
		if err == nil {
			return nil
		}
		err = errors.Join(err, d.closeSockets())
		if d.cfg.ZeroCopy == On {
			return fmt.Errorf("xsk: zero copy is required: %w", err)
		}
		d.log.Warn("no zero copy, falling back to copying", "reason", err)
	}
	return d.openSockets(false)
}

// openSockets maps the UMEM, deals its frames and opens all sockets over it.
func (d *Device) openSockets(zc bool) error {
	raiseMemlock()
	workers := d.workerCount()
	total := 0
	for _, s := range d.sides {
		total += s.link.rxQueues
	}
	var err error
	d.umem, err = ring.NewUMEM(total*d.cfg.FramesPerQueue, d.cfg.FrameSize)
	if err != nil {
		return err
	}
	d.workers = make([]Worker, workers)
	for i := range d.workers {
		d.workers[i].Frames = ring.NewFrameStack(d.umem.Frames(), d.cfg.FrameSize)
	}
	d.dealFrames()
	var first *Socket
	for _, s := range d.sides {
		for q := range s.link.rxQueues {
			w := &d.workers[q%workers]
			sock, err := newSocket(socketSpec{
				link: s.link, queue: q, umem: d.umem, free: w.Frames, size: d.cfg.RingSize,
				frames: d.cfg.FramesPerQueue, first: first, zc: zc, timeout: releaseTimeout,
			})
			if err != nil {
				return err
			}
			s.sockets = append(s.sockets, sock)
			if first == nil {
				first = sock
			}
			if s == d.v6 {
				w.IPv6 = append(w.IPv6, sock)
			}
			if s == d.v4 {
				w.IPv4 = append(w.IPv4, sock)
			}
		}
	}
	d.log.Info("AF_XDP sockets bound", "sockets", total, "workers", workers, "zero_copy", first.zeroCopy,
		"frames", d.umem.Frames(), "pages", string(d.umem.Pages()))
	return nil
}

// workerCount is the number of workers that have a queue to receive from and
// one to send to on either interface.
func (d *Device) workerCount() int {
	n := d.cfg.Workers
	for _, s := range d.sides {
		n = min(n, s.link.rxQueues, s.link.txQueues)
	}
	return n
}

// warnOfWorkers names the interfaces that keep the configured workers from
// running.
func (d *Device) warnOfWorkers() {
	for _, s := range d.sides {
		if min(s.link.rxQueues, s.link.txQueues) < d.cfg.Workers {
			d.log.Warn("fewer workers than configured: each needs a queue of its own on both interfaces",
				"interface", s.link.name, "rx_queues", s.link.rxQueues, "tx_queues", s.link.txQueues,
				"configured", d.cfg.Workers, "workers", d.workerCount())
		}
	}
}

// dealFrames gives each worker the frames of its queues.
func (d *Device) dealFrames() {
	next := uint64(0)
	for _, s := range d.sides {
		for q := range s.link.rxQueues {
			stack := d.workers[q%len(d.workers)].Frames
			for range d.cfg.FramesPerQueue {
				stack.Push(next)
				next += uint64(d.cfg.FrameSize)
			}
		}
	}
}

// startBusyPoll turns busy polling on where it is wanted and possible.
func (d *Device) startBusyPoll() error {
	if d.cfg.BusyPoll == Off || (d.cfg.BusyPoll == Auto && !d.sides[0].sockets[0].zeroCopy) {
		return nil
	}
	for _, s := range d.sides {
		for _, sock := range s.sockets {
			err := sock.enableBusyPoll()
			if err == nil {
				continue
			}
			if d.cfg.BusyPoll == On {
				return err
			}
			d.log.Warn("no busy polling", "interface", s.link.name, "queue", sock.queue, "reason", err)
		}
	}
	return nil
}
