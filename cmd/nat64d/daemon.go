package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"handoff64/cmd/nat64d/config"
	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/host"
	"handoff64/cmd/nat64d/natlog"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/nexthop"
	"handoff64/handoff"
	"handoff64/ring"
	"handoff64/ring/tunport"
	"handoff64/ring/xsk"
)

// daemon is a running translator. Its control.Daemon methods (view.go) may be
// called from any goroutine as soon as it exists; before it is ready they show
// an empty translator.
type daemon struct {
	cfg      *config.Config // what nat64d started with
	file     string         // that it was read from
	settings settings       // what is in force now
	log      *slog.Logger
	tables   string
	start    time.Time
	clock    func() conntrack.Tick
	run      atomic.Pointer[translator] // nil until ready
}

// translator is everything that exists once packets flow.
type translator struct {
	device  *xsk.Device
	table   *conntrack.Table
	hops    *nexthop.Table
	tun     *tunport.Device // nil when there is none
	workers []*dataplane.Worker
	taps    *dataplane.Taps
	handoff *handoff.Worker    // nil when handoff is off
	servers *conntrack.Servers // the same
	links   []*handoff.Link    // of each worker
	cpus    []int              // of each worker, -1 where it is not pinned
	rules   *dataplane.Rules
	logs    []*dataplane.Log // of each worker
	writer  *natlog.Writer   // of what happens to sessions and port blocks
}

// serve translates until ctx ends. ready is called once packets flow. Steps
// are undone in the reverse order, whatever happened.
func (d *daemon) serve(ctx context.Context, ready func()) (err error) {
	undo := func(what string, f func() error) {
		if e := f(); e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", what, e))
		}
	}
	t := &translator{}
	if t.device, err = xsk.Open(d.deviceConfig()); err != nil {
		return err
	}
	defer undo("detach", t.device.Close)
	d.warnOfVLANs()
	// Only behind the filter: the kernel would answer for connections of an
	// instance before this one as soon as it has their address.
	changes, err := host.Apply(d.hostConfig())
	if err != nil {
		return err
	}
	defer undo("give back what was changed on the host", changes.Revert)
	if t.hops, err = d.openHops(t.device); err != nil {
		return err
	}
	defer undo("close the view of the kernel's routes", t.hops.Close)
	if t.table, err = d.openTable(len(t.device.Workers())); err != nil {
		return err
	}
	defer undo("close the session tables", t.table.Close)
	if t.tun, err = d.openTUN(t); err != nil {
		return err
	}
	if t.tun != nil {
		defer undo("close the TUN device", t.tun.Close)
	}
	if err := d.makeWorkers(t); err != nil {
		return err
	}
	if t.handoff, err = d.openHandoff(t); err != nil {
		return err
	}
	if t.handoff != nil {
		defer undo("close the control channel", t.handoff.Close)
	}

	server, err := control.Start(d.cfg.ControlSocket, d.cfg.Metrics, d, d.log)
	if err != nil {
		return err
	}
	defer undo("close the control socket", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return server.Close(ctx)
	})
	return d.poll(ctx, t, ready)
}

// poll runs the workers until ctx ends or one of them fails.
func (d *daemon) poll(ctx context.Context, t *translator, ready func()) error {
	// A polling worker keeps its processor of the Go scheduler for itself: the
	// handoff worker and the rest need some beside them.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), len(t.workers)+2))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopWriter := d.startWriter(t)
	defer stopWriter() // after the workers
	var wg sync.WaitGroup
	for i, w := range t.workers {
		wg.Go(func() {
			c := dataplane.RunConfig{CPU: t.cpus[i], Busy: d.cfg.Poll == "busy", Clock: d.clock}
			if err := w.Run(ctx, c); err != nil {
				cancel(err)
			}
		})
	}
	wg.Go(func() {
		if err := d.followLinks(ctx, t); err != nil {
			cancel(err)
		}
	})
	if t.handoff != nil {
		wg.Go(func() {
			if err := t.handoff.Run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	d.run.Store(t)
	ready()
	<-ctx.Done()
	d.settings.mu.Lock() // no change is under way when the workers stop, and none begins
	d.settings.stopped = true
	d.settings.mu.Unlock()
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (d *daemon) hostConfig() host.Config {
	c := host.Config{
		UndoFile: d.cfg.ControlSocket + ".undo", IPv4Interface: d.cfg.IPv4Interface,
		Pool4: pool4Prefixes(d.cfg), Log: d.log,
	}
	if d.cfg.AssignPool4 {
		c.Assign = c.Pool4
	}
	for _, p := range d.cfg.Pool4 {
		c.Ports = append(c.Ports, p.Ports...)
	}
	return c
}

func (d *daemon) deviceConfig() xsk.Config {
	c := d.cfg
	return xsk.Config{
		IPv6: c.IPv6Interface, IPv4: c.IPv4Interface, Workers: c.Workers.Count,
		FrameSize: c.XDP.FrameSize, FramesPerQueue: c.XDP.FramesPerQueue, RingSize: c.XDP.RingSize,
		Mode: xsk.Mode(c.XDP.Mode), ZeroCopy: xsk.Switch(c.XDP.ZeroCopy), BusyPoll: xsk.Switch(c.XDP.BusyPoll),
		Filter: filterFrom(c), StateDir: filepath.Dir(c.ControlSocket), Log: d.log,
	}
}

func (d *daemon) openHops(dev *xsk.Device) (*nexthop.Table, error) {
	ipv6, ipv4 := dev.Info()
	return nexthop.Open(nexthop.Config{IPv6Index: ipv6.Index, IPv4Index: ipv4.Index, Log: d.log})
}

// openTable takes up the sessions of an instance before this one, if there are
// any.
func (d *daemon) openTable(shards int) (*conntrack.Table, error) {
	c := tableFrom(d.cfg, shards)
	c.Dir, c.Now = d.tables, d.clock()
	t, recovery, err := conntrack.New(c)
	if err != nil {
		return nil, err
	}
	if recovery.Problem != nil {
		d.log.Warn("earlier sessions are not taken up", "dir", d.tables, "problem", recovery.Problem)
	}
	if recovery.Restored+recovery.Dropped > 0 {
		d.log.Info("took up earlier sessions", "restored", recovery.Restored, "dropped", recovery.Dropped)
	}
	return t, nil
}

func (d *daemon) makeWorkers(t *translator) error {
	rules, err := rulesFrom(d.cfg)
	if err != nil {
		return err
	}
	t.rules = rules
	parts := t.device.Workers()
	if d.cfg.Handoff.Enabled {
		if t.servers, err = conntrack.NewServers(maxServers, rand32()); err != nil {
			return err
		}
	}
	if t.writer, err = d.newWriter(t, len(parts)); err != nil {
		return err
	}
	group := dataplane.NewGroup(len(parts))
	for i, part := range parts {
		var link *dataplane.Handoff
		if t.servers != nil {
			l := handoff.NewLink(linkSize)
			t.links = append(t.links, l)
			link = &dataplane.Handoff{
				Out: l.Out, In: l.In, Back: l.Back, Lend: l.Lend, Servers: t.servers, Wake: func() { t.handoff.Wake() },
			}
		}
		w, err := dataplane.NewWorker(dataplane.Config{
			ID: i, Table: t.table, Shard: t.table.Shard(i), Hops: t.hops, UMEM: t.device.UMEM(), Frames: part.Frames,
			Ports: [2][]ring.Port{part.IPv6, part.IPv4}, Group: group, Rules: rules, Fragments: d.cfg.Limits.Fragments, Seed: mathrand.Uint64(),
			Handoff: link, Kernel: t.kernelPort(i), LocalTraffic: d.cfg.LocalTraffic, Log: t.logs[i],
		})
		if err != nil {
			return err
		}
		t.workers = append(t.workers, w)
		cpu := -1
		if i < len(d.cfg.Workers.CPUs) {
			cpu = d.cfg.Workers.CPUs[i]
		}
		t.cpus = append(t.cpus, cpu)
	}
	t.taps = dataplane.NewTaps(t.workers)
	return nil
}

// maxServers is how many handoff servers are known at one time, and linkSize
// how many records may be underway between a worker and the handoff worker.
const (
	maxServers = 1 << 16
	linkSize   = 4096
)

func rand32() (secret [32]byte) {
	rand.Read(secret[:]) // never fails (crypto/rand)
	return secret
}

// openHandoff opens the control channels; nil when handoff is off.
func (d *daemon) openHandoff(t *translator) (*handoff.Worker, error) {
	h := d.cfg.Handoff
	if !h.Enabled {
		return nil, nil
	}
	c := handoff.Config{
		Pool6: d.cfg.Pool6, ServerPort: uint16(h.ServerPort), ClientPort: uint16(h.ClientPort),
		KeyFile: h.KeyFile, KeyRotation: h.KeyRotation, BatchDelay: h.BatchDelay,
		StrangersPerSecond: h.StrangerPacketsPerSecond, Links: t.links, Owner: t.table.Owner, Servers: t.servers,
		UMEM: t.device.UMEM(), Walk: t.table.Sessions, Mapped: t.mapped, Log: d.log,
	}
	for _, p := range d.cfg.Pool4 {
		for a := p.Prefix.Addr(); p.Prefix.Contains(a); a = a.Next() {
			c.Pool4 = append(c.Pool4, addr4(a))
		}
	}
	for _, w := range t.workers {
		c.WorkerWake = append(c.WorkerWake, w.Wake)
	}
	return handoff.Open(c)
}

// mapped says whether a mapping still is the client's, for either protocol.
func (t *translator) mapped(own uint32, port uint16, client conntrack.Addr6, clientPort uint16) bool {
	for _, p := range [2]conntrack.Proto{conntrack.UDP, conntrack.TCP} {
		if b, ok := t.table.FindBIB(p, own, port); ok && b.Client == client && b.ClientPort == clientPort {
			return true
		}
	}
	return false
}

// defaultTables is where the sessions lie that a restart takes up again: in
// memory, but outside the process. The name follows the control socket, of
// which there is one for each instance.
func defaultTables(controlSocket string) string {
	abs, err := filepath.Abs(controlSocket)
	if err != nil {
		abs = controlSocket
	}
	return filepath.Join("/dev/shm", "nat64d"+filepath.ToSlash(filepath.Clean(abs)))
}

var _ control.Daemon = (*daemon)(nil)
