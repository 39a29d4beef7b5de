package nexthop

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config says which interfaces to follow.
type Config struct {
	IPv6Index, IPv4Index int          // interface indices; they may be the same
	Log                  *slog.Logger // nil: silent

	round  time.Duration // for tests; 0: roundInterval
	buffer int           // for tests; 0: recvBuffer
}

// Table is the live view of the kernel's next hops. All methods are safe for
// concurrent use; Load and Ask neither lock nor wait.
type Table struct {
	current atomic.Pointer[Snapshot]
	_       [120]byte // current is read with every burst: keep it off the lines that Ask writes to
	asks    askTable
	wake    chan struct{} // capacity 1: asks has something
	done    chan struct{}
	stop    func() error // ends the goroutines; once
}

// Open follows the next hops of the network namespace that the calling thread
// is in, and has the first snapshot ready.
func Open(c Config) (*Table, error) {
	m, err := prepare(c)
	if err != nil {
		return nil, fmt.Errorf("next hops: %w", err)
	}
	m.launch()
	return m.table, nil
}

// prepare opens the sockets and reads everything once. What changes meanwhile
// waits in the sockets.
func prepare(c Config) (*manager, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.round == 0 {
		c.round = roundInterval
	}
	if c.buffer == 0 {
		c.buffer = recvBuffer
	}
	k, err := openKernel(c.buffer)
	if err != nil {
		return nil, err
	}
	m := &manager{
		table: newTable(),
		fib:   newFIB(c.IPv6Index, c.IPv4Index, rand.Uint64()),
		k:     k,
		log:   c.Log,
		round: c.round,
		retry: resyncRetry,
	}
	if err := m.readAll(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return m, nil
}

func (m *manager) readAll() error {
	m.lose()
	m.fib.lost = [2]bool{true, true}
	if err := m.resync(); m.broken {
		return err
	}
	for side, l := range m.fib.links {
		if l.name == "" {
			return fmt.Errorf("there is no interface with index %d for the %v side", m.fib.ifindex[side], Side(side))
		}
	}
	m.table.current.Store(m.fib.publish())
	return nil
}

// launch starts the goroutines.
func (m *manager) launch() {
	t, k := m.table, m.k
	var running sync.WaitGroup
	running.Go(func() { m.run(t.done) })
	running.Go(func() { k.routes.run(t.done) })
	running.Go(func() { k.rest.run(t.done) })
	t.stop = sync.OnceValue(func() error {
		close(t.done)
		err := k.close()
		running.Wait()
		return err
	})
}

func newTable() *Table {
	return &Table{wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// Load returns the current snapshot. A worker that has packets parked
// compares it with the one it knows to see whether anything changed.
func (t *Table) Load() *Snapshot { return t.current.Load() }

// Ask says that a packet waits for the neighbour of a destination whose hop
// is Unresolved or Connected; the kernel is made to resolve it, and the answer
// comes in a later snapshot: the hop is Resolved, or Unresolved and Failed. It
// may be called for every such packet: questions that stand already are not
// taken twice, and no neighbour is tried more than once a second. It returns
// false when there are too many questions; the caller may ask again later.
// Of an IPv4 destination, lo holds the address and hi is 0.
func (t *Table) Ask(side Side, hi, lo uint64) bool {
	ok := t.asks.put(Question{side, hi, lo})
	select {
	case t.wake <- struct{}{}:
	default: // the manager is about to look anyway
	}
	return ok
}

// Close stops following. Snapshots that were loaded stay valid.
func (t *Table) Close() error { return t.stop() }
