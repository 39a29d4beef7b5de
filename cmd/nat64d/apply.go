package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"handoff64/cmd/nat64d/config"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/handoff"
	"handoff64/ring/xsk"
)

// This file changes the configuration of a translator while packets flow.

// settings is the configuration in force, and what its file said when it was
// last read. daemon.cfg stays what nat64d started with: keys that take a restart
// hold what they hold there.
type settings struct {
	mu      sync.Mutex      // held by whoever changes anything: one change at a time
	text    config.Document // in force; under mu
	stopped bool            // nothing may be changed any more; under mu

	now   atomic.Pointer[config.Config] // in force
	file  atomic.Pointer[config.Config] // what the file said
	level slog.LevelVar
}

// begin takes a configuration as what the file says and as what is in force.
func (s *settings) begin(text config.Document, c *config.Config) {
	s.text = text
	s.now.Store(c)
	s.file.Store(c)
	s.level.Set(c.Log.Level)
}

var errStopping = errors.New("nat64d is stopping")

// translator is what changes are made to. Under settings.mu.
func (d *daemon) translator() (*translator, error) {
	t := d.run.Load()
	switch {
	case t == nil:
		return nil, errNotReady
	case d.settings.stopped:
		return nil, errStopping
	}
	return t, nil
}

// followTimeout is far more than a worker needs for a round.
const followTimeout = 5 * time.Second

// apply makes the translator follow c. Whatever may fail comes first; when it
// does, everything is as it was. When apply returns, every worker follows.
// Under settings.mu.
func (d *daemon) apply(t *translator, c *config.Config, statics staticChange) error {
	rules, err := rulesFrom(c)
	if err != nil {
		return err
	}
	undo, err := statics.apply(t)
	if err != nil {
		return err
	}
	if err := t.setFilter(c); err != nil {
		return errors.Join(err, undo(), t.setFilter(d.settings.now.Load()))
	}
	tables := tableFrom(c, 1)
	t.table.SetTimeouts(tables.Timeouts)
	t.table.SetClientLimits(tables.PerClient)
	t.table.LogSessions(c.Log.Sessions)
	t.writer.Destinations(c.Log.Destinations)
	if t.handoff != nil {
		t.handoff.Tune(handoff.Tuning{BatchDelay: c.Handoff.BatchDelay, StrangersPerSecond: c.Handoff.StrangerPacketsPerSecond})
	}
	d.settings.level.Set(c.Log.Level)
	d.settings.now.Store(c)
	return t.follow(rules)
}

// setFilter makes the filter follow c, with the static mappings that there are
// now, wherever they come from.
func (t *translator) setFilter(c *config.Config) error {
	f := filterFrom(c)
	f.Statics = nil
	for _, s := range t.table.Statics() {
		f.Statics = append(f.Statics, xsk.Static{Proto: xsk.Proto(s.Proto), Addr: mappedPort(s.Mapped, s.MappedPort)})
	}
	return t.device.SetFilter(f)
}

// follow publishes rules and waits until every worker works by them, so that
// whoever asked for a change can count on it.
func (t *translator) follow(r *dataplane.Rules) error {
	for _, w := range t.workers {
		w.SetRules(r)
		w.Wake()
	}
	for deadline := time.Now().Add(followTimeout); ; runtime.Gosched() {
		behind := slices.IndexFunc(t.workers, func(w *dataplane.Worker) bool { return !w.Follows(r) })
		if behind < 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("worker %d does not take up the change within %v", behind, followTimeout)
		}
		time.Sleep(time.Millisecond)
	}
}

// staticChange is what a reload does to the static mappings: those that the file
// had and has no longer go, those that it has come. What bib add made is not in
// it, and stays.
type staticChange struct{ remove, add []conntrack.Static }

// changeOfStatics compares two readings of the file with the mappings there are.
// A mapping of the file that bib remove took away comes back.
func changeOfStatics(before, after *config.Config, present []conntrack.Static) (c staticChange) {
	old, wanted := staticsFrom(before), staticsFrom(after)
	for _, s := range old {
		if !slices.Contains(wanted, s) && slices.Contains(present, s) {
			c.remove = append(c.remove, s)
		}
	}
	for _, s := range wanted {
		if !slices.Contains(present, s) {
			c.add = append(c.add, s)
		}
	}
	return c
}

// apply changes the table. What does not stand in the way of anything goes last,
// so that little has to be undone when a mapping cannot be made. undo puts back
// what was there; sessions over removed mappings have ended.
func (c staticChange) apply(t *translator) (undo func() error, err error) {
	var removed, added []conntrack.Static
	undo = func() error {
		var errs []error
		for _, s := range added {
			errs = append(errs, t.table.RemoveStatic(s.Proto, s.Mapped, s.MappedPort))
		}
		if len(added) > 0 {
			errs = append(errs, t.sweep())
		}
		for _, s := range removed {
			errs = append(errs, t.table.AddStatic(s))
		}
		return errors.Join(errs...)
	}
	inTheWay := func(s conntrack.Static) bool { return slices.ContainsFunc(c.add, s.Excludes) }
	remove := func(which func(conntrack.Static) bool) error {
		for _, s := range c.remove {
			if !which(s) {
				continue
			}
			if err := t.table.RemoveStatic(s.Proto, s.Mapped, s.MappedPort); err != nil {
				return err
			}
			removed = append(removed, s)
		}
		return nil
	}
	if err = remove(inTheWay); err == nil && len(removed) > 0 {
		err = t.sweep() // their ports are free only when their sessions have ended
	}
	for _, s := range c.add {
		if err != nil {
			break
		}
		if err = t.table.AddStatic(s); err == nil {
			added = append(added, s)
		}
	}
	if err == nil {
		err = remove(func(s conntrack.Static) bool { return !inTheWay(s) })
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

func staticsFrom(c *config.Config) (out []conntrack.Static) {
	for _, s := range c.StaticBIB {
		out = append(out, conntrack.Static{
			Proto: protoFrom(s.Protocol), Client: addr6(s.Client.Addr()), ClientPort: s.Client.Port(),
			Mapped: addr4(s.Mapped.Addr()), MappedPort: s.Mapped.Port(),
		})
	}
	return out
}

func mappedPort(a uint32, p uint16) netip.AddrPort { return netip.AddrPortFrom(netip4(a), p) }
