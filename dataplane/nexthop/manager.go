package nexthop

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	roundInterval = 5 * time.Second
	resyncRetry   = time.Second // doubled with each failure in a row
	resyncMost    = 10 * time.Second
	warnInterval  = 10 * time.Second

	// A burst of changes is published together. The wait grows with what
	// publishing costs, which bounds the part of a CPU that a busy routing
	// protocol can take, and how fast generations go by.
	debounceLeast = time.Millisecond
	debounceMost  = 250 * time.Millisecond
	debounceShare = 8
)

// manager is the goroutine that owns the fib: it alone talks to the kernel.
type manager struct {
	table *Table
	fib   *fib
	k     *kernel
	log   *slog.Logger
	round time.Duration

	publishing *time.Timer
	due        time.Time     // when the timer fires; zero: it does not
	cost       time.Duration // of the last publication
	broken     bool          // the routes could not be read: keep the old snapshot until they can
	retryAt    time.Time     // no resynchronisation before
	retry      time.Duration
	warned     time.Time

	lostLinks, lostAddrs, lostNeighs bool // must be read anew
}

func (m *manager) run(done <-chan struct{}) {
	rounds := time.NewTicker(m.round)
	defer rounds.Stop()
	m.publishing = time.NewTimer(time.Hour)
	defer m.publishing.Stop()
	for {
		m.sendProbes()
		m.arm()
		select {
		case <-done:
			return
		case b := <-m.k.rest.out:
			m.takeRest(b)
		case b := <-m.k.routes.out:
			m.takeRoutes(b)
		case <-m.table.wake:
			now := time.Now()
			m.table.asks.take(func(q Question) { m.fib.ask(now, q) })
		case <-m.publishing.C:
			m.due = time.Time{}
			m.update()
		case <-rounds.C:
			m.fib.round(time.Now())
			m.update() // at once: a swept index must not be given out before
		}
	}
}

// arm sees to it that changes are published, and what was lost is read anew.
func (m *manager) arm() {
	var at time.Time
	switch {
	case m.broken: // nothing is published before
		at = m.retryAt
	case m.fib.pendingChanges():
		at = time.Now().Add(min(max(debounceLeast, m.cost*debounceShare), debounceMost))
	case m.lostLinks || m.lostAddrs || m.lostNeighs || m.fib.lost[IPv6] || m.fib.lost[IPv4]:
		at = m.retryAt
	default:
		return
	}
	if m.due.IsZero() || at.Before(m.due) {
		m.due = at
		m.publishing.Reset(time.Until(at))
	}
}

// update reads anew what was lost, and publishes.
func (m *manager) update() {
	start := time.Now()
	if !start.Before(m.retryAt) {
		if err := m.resync(); err != nil {
			m.warn("could not read the kernel's tables whole, will try again", err)
		}
	}
	if m.broken || !m.fib.pendingChanges() {
		return
	}
	m.table.current.Store(m.fib.publish())
	m.cost = time.Since(start)
}

// resync reads anew what was lost. What cannot be read stays lost, to be
// tried again at growing intervals.
func (m *manager) resync() error {
	var errs []error
	m.broken = false
	attempt := func(lost *bool, what string, read func() error) {
		if !*lost {
			return
		}
		*lost = false
		if err := read(); err != nil {
			*lost = true
			errs = append(errs, fmt.Errorf("read the %s: %w", what, err))
			// What an interrupted dump missed is little; packets go on.
			m.broken = m.broken || !errors.Is(err, netlink.ErrDumpInterrupted)
		}
	}
	attempt(&m.lostLinks, "links", m.syncLinks)
	attempt(&m.lostAddrs, "addresses", m.syncAddrs)
	attempt(&m.lostNeighs, "neighbours", m.syncNeighs)
	attempt(&m.fib.lost[IPv6], "IPv6 routes", func() error { return m.syncRoutes(unix.AF_INET6) })
	attempt(&m.fib.lost[IPv4], "IPv4 routes", func() error { return m.syncRoutes(unix.AF_INET) })
	if len(errs) == 0 {
		m.retry = resyncRetry
		return nil
	}
	m.retryAt = time.Now().Add(m.retry)
	m.retry = min(2*m.retry, resyncMost)
	return errors.Join(errs...)
}

// lose notes that links, addresses and neighbours must be read anew.
func (m *manager) lose() { m.lostLinks, m.lostAddrs, m.lostNeighs = true, true, true }

func (m *manager) warn(text string, err error) {
	if now := time.Now(); now.Sub(m.warned) >= warnInterval {
		m.warned = now
		m.log.Warn("next hops: "+text, "error", err)
	}
}

func (m *manager) takeRoutes(b batch) {
	defer m.k.routes.recycle(b)
	if b.lost {
		m.fib.lost[IPv6], m.fib.lost[IPv4] = true, true
	}
	for msg := range b.messages() {
		switch msg.kind {
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			r, ok, err := decodeRoute(msg.data)
			if err != nil {
				m.warn("a message was not understood", err)
			} else if ok {
				m.fib.apply(r, msg.kind == unix.RTM_DELROUTE, msg.flags)
			}
		case unix.RTM_DELNEXTHOP: // takes IPv4 routes along without a word
			m.fib.lost[IPv6], m.fib.lost[IPv4] = true, true
		}
	}
}

func (m *manager) takeRest(b batch) {
	defer m.k.rest.recycle(b)
	if b.lost {
		m.lose()
	}
	now := time.Now()
	for msg := range b.messages() {
		if err := m.fib.take(now, msg.kind, msg.data); err != nil {
			m.warn("a message was not understood", err)
		}
	}
}

// take takes a message about a neighbour, link or address.
func (f *fib) take(now time.Time, kind uint16, data []byte) error {
	switch kind {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, ok, err := decodeNeigh(data)
		switch {
		case err != nil || !ok:
			return err
		case kind == unix.RTM_NEWNEIGH:
			f.setNeigh(now, n)
		default:
			f.delNeigh(n.key)
		}
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		l, ok, err := decodeLink(data)
		switch {
		case err != nil || !ok:
			return err
		case kind == unix.RTM_NEWLINK:
			f.setLink(l)
		default:
			f.delLink(l)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a, ok, err := decodeAddr(data)
		switch {
		case err != nil || !ok:
			return err
		case kind == unix.RTM_NEWADDR:
			f.setAddr(a)
		default:
			f.delAddr(a)
		}
	}
	return nil
}

// syncLinks reads the links, and drops those that are no more; so do the
// other sync functions for what they read.
func (m *manager) syncLinks() error {
	links := make(map[int32]bool)
	err := m.k.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, unix.AF_UNSPEC, func(data []byte) error {
		l, ok, err := decodeLink(data)
		if ok && err == nil {
			links[l.ifindex] = true
			m.fib.setLink(l)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range m.fib.flags {
		if !links[i] {
			m.fib.delLink(linkMsg{ifindex: i})
		}
	}
	return nil
}

func (m *manager) syncAddrs() error {
	m.fib.addrs, m.fib.relinked = m.fib.addrs[:0], true
	return m.k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, unix.AF_UNSPEC, func(data []byte) error {
		return m.fib.take(time.Now(), unix.RTM_NEWADDR, data)
	})
}

func (m *manager) syncNeighs() error {
	f, now, known := m.fib, time.Now(), make(map[neighKey]bool)
	err := m.k.dump(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, unix.AF_UNSPEC, func(data []byte) error {
		n, ok, err := decodeNeigh(data)
		if ok && err == nil {
			known[n.key] = true
			f.setNeigh(now, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	for key, n := range f.neighs {
		if n.state != 0 && !known[key] {
			f.delNeigh(key)
		}
	}
	return nil
}

func (m *manager) syncRoutes(family uint8) error {
	m.fib.forget(family == unix.AF_INET6)
	return m.k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, family, func(data []byte) error {
		r, ok, err := decodeRoute(data)
		if ok && err == nil {
			m.fib.apply(r, false, unix.NLM_F_APPEND) // a dump is in the kernel's order
		}
		return err
	})
}

// sendProbes tells the kernel what the fib wants of it. After a request to
// resolve, the entry is read: the kernel says nothing about one that it
// already takes for good, as on a link without ARP.
func (m *manager) sendProbes() {
	for len(m.fib.probes) > 0 {
		probes := m.fib.probes
		m.fib.probes = nil
		for _, p := range probes {
			m.sendProbe(p)
		}
	}
}

func (m *manager) sendProbe(p probe) {
	err := m.k.probe(p)
	if p.state != 0 {
		// Gone or failed meanwhile: an event about that is on its way.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			m.warn("the kernel refused to verify a neighbour", err)
		}
		return
	}
	if err != nil {
		m.fib.refused(p.key, time.Now())
		m.warn("the kernel refused to resolve a neighbour", err)
		return
	}
	n, err := m.k.neighbour(p.key)
	if err == nil {
		m.fib.setNeigh(time.Now(), n)
	} else if !errors.Is(err, unix.ENOENT) {
		m.warn("a neighbour could not be read", err)
	}
}
