// Package forward is a bare forwarder on AF_XDP: what arrives on one of two
// interfaces leaves through the other, with new Ethernet addresses and nothing
// else done to it. It uses ring/xsk as nat64d does (one UMEM, a worker for each
// queue pair, the same bursts, wake-ups and sleeps), so that the difference
// between the two is what translation costs.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"handoff64/ring"
	"handoff64/ring/xsk"
)

// Config says what to forward and how. Zero values are the defaults of xsk.
type Config struct {
	Interfaces [2]string

	// NextHop is the station that gets what is sent on an interface. Without
	// one, a frame goes out with its two Ethernet addresses swapped.
	NextHop [2]*[6]byte

	Workers        int
	CPUs           []int // one for each worker, to pin it to; none: wherever
	Busy           bool  // spin instead of sleeping when nothing comes
	FramesPerQueue int
	RingSize       int
	Mode           xsk.Mode
	ZeroCopy       xsk.Switch
	BusyPoll       xsk.Switch
	Log            *slog.Logger
}

// Forwarder is two interfaces with their workers. Run it once; Counters may be
// asked for from any goroutine.
type Forwarder struct {
	cfg     Config
	device  *xsk.Device
	workers []*worker
}

// Open takes every IP packet that the interfaces receive from now on. It must
// run in the interfaces' network namespace, and so must Close.
func Open(cfg Config) (*Forwarder, error) {
	if cfg.Interfaces[0] == cfg.Interfaces[1] {
		return nil, fmt.Errorf("forward: two interfaces are needed, both are %q", cfg.Interfaces[0])
	}
	if len(cfg.CPUs) > 0 && len(cfg.CPUs) < cfg.Workers {
		return nil, fmt.Errorf("forward: %d CPUs for %d workers", len(cfg.CPUs), cfg.Workers)
	}
	device, err := xsk.Open(xsk.Config{
		IPv6: cfg.Interfaces[0], IPv4: cfg.Interfaces[1], Workers: cfg.Workers,
		FramesPerQueue: cfg.FramesPerQueue, RingSize: cfg.RingSize, Mode: cfg.Mode,
		ZeroCopy: cfg.ZeroCopy, BusyPoll: cfg.BusyPoll, Log: cfg.Log,
		Filter: xsk.FilterConfig{AllIP: true},
	})
	if err != nil {
		return nil, fmt.Errorf("forward: %w", err)
	}
	f := &Forwarder{cfg: cfg, device: device}
	var links [2]xsk.Interface
	links[0], links[1] = device.Info()
	for i, part := range device.Workers() {
		w := newWorker(device.UMEM(), part.Frames, [2][]ring.Port{part.IPv6, part.IPv4})
		for side := range 2 {
			if hop := cfg.NextHop[side]; hop != nil {
				w.setAddresses(side, *hop, links[side].MAC)
			}
		}
		w.cpu = -1
		if i < len(cfg.CPUs) {
			w.cpu = cfg.CPUs[i]
		}
		f.workers = append(f.workers, w)
	}
	return f, nil
}

// Run forwards until ctx ends.
func (f *Forwarder) Run(ctx context.Context) error {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), len(f.workers)+1))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(f.workers))
	var wg sync.WaitGroup
	for i, w := range f.workers {
		wg.Go(func() {
			if errs[i] = w.run(ctx, f.cfg.Busy); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Counters are the totals of all workers as of their last rounds.
func (f *Forwarder) Counters() (sum Counters) {
	for _, w := range f.workers {
		sum.Received += w.shown.received.Load()
		sum.Sent += w.shown.sent.Load()
		sum.TXFull += w.shown.txFull.Load()
	}
	return sum
}

// Device is what the forwarder works on, for its statistics and its census.
func (f *Forwarder) Device() *xsk.Device { return f.device }

// Close gives the interfaces back. Run has returned before.
func (f *Forwarder) Close() error { return f.device.Close() }

// pin ties the calling thread to a CPU. It is not undone: a locked thread ends
// with its goroutine.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("forward: pin to CPU %d: %w", cpu, err)
	}
	return nil
}
