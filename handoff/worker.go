// Package handoff is the NAT64's end of the handoff protocol
// (draft-dupont-6man-nat64handoff-00): one goroutine between the packet workers
// and the UDP socket that all control channels share.
//
//	packet workers ─ Out ──→ notify ─→ batch.go: per channel, by client ─┐
//	               ─ Out ──→ tunnel ─→ strangers.go: limits ─────────────┤→ send.go ─→ socket
//	               ←─ Back ── frames whose packet was sent               │
//	                          retry.go: entries without an echo ─────────┤
//	                          tellall.go: walk of the sessions ──────────┘
//	               ←─ In ──── receive.go ←─ check.go ←─ wire.Decode ←─ socket
//	               ── Lend ─→ frames for what comes back
//	                          servers.go, statefile.go: who is capable
//
// A packet worker never waits for the handoff worker, nor that one for a packet
// worker: a full ring is a counted loss. What a server sends can affect only
// traffic between its own address and clients authenticated for it (check.go).
package handoff

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
	"handoff64/ring"
)

const (
	// burst is how many records of one ring a round takes.
	burst = 64
	// soon is when to look again at what nobody reports.
	soon = int64(time.Millisecond)
)

// Worker is the handoff worker. Run is its goroutine, and everything not said
// to be for others is that goroutine's alone. Made by Open.
type Worker struct {
	serverPort, clientPort uint16
	pool6                  []prefix6
	batchDelay             int64
	stateFile              string

	links      []*Link
	workerWake []func()
	owner      func(conntrack.Addr6, uint16) int
	umem       *ring.UMEM
	walk       func(func(conntrack.SessionInfo) bool)
	mapped     func(own uint32, port uint16, client conntrack.Addr6, clientPort uint16) bool
	log        *slog.Logger
	clock      func() time.Time
	seed       maphash.Seed

	keys  *wire.Keys
	sock  *socket
	sleep *sleeper
	own   map[uint32][]byte // pool4 address → control message that makes it the source

	start     time.Time
	wall      time.Time // now, as clock told it at the start of the round
	now       int64     // the same in nanoseconds since start
	records   [burst]conntrack.ToServer
	wakes     []bool // packet workers that something was pushed to
	out       *outbox
	batch     *batcher
	retries   *retries
	servers   *servers
	strangers strangers
	tuning    atomic.Pointer[Tuning] // set by Tune, taken up at the next round
	count     counters
	keysAt    int64 // when to look at the keys next
	saveAt    int64 // state file: not before
	wanted    map[uint32]bool

	background sync.WaitGroup // walks and writes of the state file
	found      chan conntrack.ToServer
	ended      chan struct{}
	closing    sync.Once
	walking    atomic.Bool
	saving     atomic.Bool
	saveFailed atomic.Bool
}

// Open reads keys and known servers and binds the socket. From then on datagrams
// are taken in; Run works on them.
func Open(c Config) (*Worker, error) { return open(c, time.Now) }

func open(c Config, clock func() time.Time) (*Worker, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	keys, err := wire.LoadKeys(c.KeyFile, clock(), c.KeyRotation, wire.AuthenticatorPeriod)
	if err != nil {
		return nil, fmt.Errorf("handoff: %w", err)
	}
	w := &Worker{
		serverPort: c.ServerPort, clientPort: c.ClientPort, batchDelay: int64(c.BatchDelay), stateFile: c.stateFile(),
		links: c.Links, workerWake: c.WorkerWake, owner: c.Owner, umem: c.UMEM, walk: c.Walk, mapped: c.Mapped, log: c.Log, clock: clock,
		seed: maphash.MakeSeed(), keys: keys, own: make(map[uint32][]byte), start: clock(),
		wakes: make([]bool, len(c.Links)), out: newOutbox(c.ServerPort), batch: newBatcher(), retries: newRetries(),
		strangers: newStrangers(c.StrangersPerSecond), wanted: make(map[uint32]bool),
		found: make(chan conntrack.ToServer, foundQueue), ended: make(chan struct{}),
	}
	w.wall = w.start
	w.servers = newServers(maxServers, c.Servers, &w.count)
	for _, p := range c.Pool6 {
		w.pool6 = append(w.pool6, newPrefix6(p))
	}
	for _, a := range c.Pool4 {
		w.own[a] = (&ipv4.ControlMessage{Src: ipv4Address(a).AsSlice()}).Marshal()
	}
	w.restore()
	if w.sleep, err = newSleeper(); err != nil {
		return nil, err
	}
	if w.sock, err = openSocket(c.ClientPort); err != nil {
		return nil, errors.Join(err, w.sleep.close())
	}
	return w, nil
}

// Run works until ctx ends, then writes the state file if it is out of date.
// Frames that are still in the Out rings stay there.
func (w *Worker) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, w.sleep.interrupt)()
	for ctx.Err() == nil {
		if w.round() {
			continue
		}
		if err := w.rest(ctx); err != nil {
			return err
		}
	}
	w.finish()
	if w.servers.dirty || w.saveFailed.Load() {
		return writeState(w.stateFile, w.servers.capable())
	}
	return nil
}

// finish ends what runs in the background.
func (w *Worker) finish() {
	w.closing.Do(func() { close(w.ended) })
	w.background.Wait()
}

// Close gives the socket back. Only after Run has returned; packet workers may
// still push to their rings and call Wake, which does nothing any more.
func (w *Worker) Close() error {
	w.finish()
	return errors.Join(w.sock.close(), w.sleep.close())
}

// round does everything that is due, a bounded amount of each, and says whether
// there was anything.
func (w *Worker) round() (worked bool) {
	w.wall = w.clock()
	w.now = int64(w.wall.Sub(w.start))
	if t := w.tuning.Swap(nil); t != nil {
		w.batchDelay = int64(t.BatchDelay)
		w.strangers.perSecond = int64(t.StrangersPerSecond)
	}
	w.rotate()
	for i := range w.links {
		worked = w.takeFrom(i) || worked
	}
	datagrams, failures := w.sock.poll()
	if failures {
		worked = w.readErrors() || worked
	}
	if datagrams {
		worked = w.receive() || worked
	}
	w.startWalk()
	worked = w.takeFound() || worked
	worked = w.resend() || worked
	worked = w.ripen() || worked
	w.flush()
	w.checkSave()
	w.save()
	w.wakeWorkers()
	return worked
}

// takeFrom works on a burst from one packet worker: no more than its Back ring
// has room for, as each may hold a frame.
func (w *Worker) takeFrom(from int) bool {
	l := w.links[from]
	n := l.Out.PopBatch(w.records[:min(burst, room(l.Back))])
	for i := range w.records[:n] {
		t := &w.records[i]
		if t.Kind == conntrack.Notify {
			w.notify(t)
		} else {
			w.tunnel(from, t)
		}
	}
	if n > 0 {
		w.flush() // so that the frames are back before the next burst
	}
	return n > 0
}

// notify has a server told of an entry. It goes on whether or not somebody
// answers: that is how a capture on the server shows the client, and how a
// server that begins to speak handoff is found.
func (w *Worker) notify(n *conntrack.ToServer) {
	if !w.pool6[n.Pool6].entries() {
		w.count.noEntry.Add(1)
		return
	}
	k := channelKey{n.Own, n.Server}
	if w.servers.stateAt(w.servers.touch(n.Server)) == conntrack.ServerHandoff {
		isNew, crowdedOut := w.retries.add(retryKey{k, n.Client, n.ClientPort, n.Pool6}, n.MappedPort, w.now)
		if crowdedOut {
			w.count.crowded.Add(1)
		}
		if !isNew {
			return // told already, not echoed yet
		}
	}
	w.tell(k, note{client: n.Client, clientPort: n.ClientPort, mappedPort: n.MappedPort, pool6: n.Pool6})
}

// rotate looks at the keys once a second.
func (w *Worker) rotate() {
	if w.now < w.keysAt {
		return
	}
	w.keysAt = w.now + second
	rotated, err := w.keys.Rotate(w.wall)
	if err != nil {
		w.count.keyFailures.Add(1)
		w.log.Error("handoff keys", "error", err)
	}
	if rotated {
		w.log.Info("handoff keys rotated", "token_epoch", w.keys.TokenEpoch())
	}
}

func (w *Worker) wakeWorkers() {
	for i, wake := range w.wakes {
		if !wake {
			continue
		}
		w.wakes[i] = false
		if len(w.workerWake) > 0 {
			w.workerWake[i]()
		}
	}
}

// deadline is when something is due next, whatever comes in.
func (w *Worker) deadline() int64 {
	at := w.keysAt
	if due, ok := w.batch.due(); ok {
		at = min(at, due)
	}
	if due, ok := w.retries.due(); ok {
		at = min(at, due)
	}
	if w.servers.dirty {
		at = min(at, max(w.saveAt, w.now+soon))
	}
	for _, l := range w.links {
		if l.Out.Len() > 0 && room(l.Back) == 0 {
			at = min(at, w.now+soon) // nobody says when Back has room again
		}
	}
	return at
}
