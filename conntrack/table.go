package conntrack

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Table is the session table: all shards, the pool of mapped ports and the
// BIB. Build it with New. Lookups, FindBIB, the walks, SetTimeouts, Flush and
// the static mappings are for any goroutine; a Shard's own methods are for the
// worker that owns the shard.
type Table struct {
	hash        hasher
	shards      []*Shard
	ports       *ports
	bib         *bib
	away        away
	timeout     [timeoutClasses]atomic.Uint32
	limits      atomic.Uint64 // of each client: sessions 32 | ports 32; 0 counts nothing
	clients     clients
	blocks      portBlocks
	logSessions atomic.Bool

	statics      atomic.Pointer[staticSet]
	staticMu     sync.Mutex    // held by whoever replaces statics; workers never take it
	sweepStatics atomic.Uint32 // counts removals of static mappings; see sweep
	sweepAll     atomic.Uint32 // counts calls of Flush

	free         atomic.Int64  // sessions that may still be created and no shard has taken for itself
	freeEntries  atomic.Int64  // entries of handoff servers that may still be cached
	sweepHandoff atomic.Uint32 // counts calls of FlushHandoff
	sweepLimits  atomic.Uint32 // counts how often limits of clients were set where there were none
	capacity     int
	entries      int
	batch        int64
	file         *sessionFile // nil without Config.Dir
}

// Recovery says what New took up of an earlier process's sessions. Problem is
// why there was nothing to take up, or why the file as a whole was discarded;
// nil when the file was good or there was none.
type Recovery struct {
	Restored int
	Dropped  int // expired, damaged, or of an address or prefix that is no longer ours
	Problem  error
}

// New builds a table, and with Config.Dir takes the sessions of the table that
// lay there before up again. An unreadable old table is no error: it is
// discarded, and Recovery says why.
func New(c Config) (*Table, Recovery, error) {
	t, err := build(&c)
	if err != nil {
		return nil, Recovery{}, err
	}
	if c.Dir == "" {
		return t, Recovery{}, nil
	}
	r, err := t.recoverFrom(&c)
	if err != nil {
		return nil, Recovery{}, errors.Join(err, t.Close())
	}
	return t, r, nil
}

func build(c *Config) (*Table, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var secret [32]byte
	if c.Secret != nil {
		secret = *c.Secret
	} else if _, err := rand.Read(secret[:]); err != nil {
		return nil, fmt.Errorf("draw the table's secret: %w", err)
	}
	t := &Table{hash: newHasher(seedFor(secret, 0), c.Shards).forBlocks(c.PortBlocks.Size), capacity: c.Sessions, entries: c.Entries}
	t.free.Store(int64(c.Sessions))
	t.freeEntries.Store(int64(c.Entries))
	t.batch = int64(min(max(c.Sessions/(c.Shards*256), 1), 32))
	if c.Timeouts == (Timeouts{}) {
		c.Timeouts = DefaultTimeouts()
	}
	t.SetTimeouts(c.Timeouts)
	t.limits.Store(c.PerClient.word())
	t.logSessions.Store(c.LogSessions)
	t.statics.Store(newStaticSet())
	if err := t.allocate(c, secret); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	for _, st := range c.Static {
		if err := t.AddStatic(st); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	return t, nil
}

// allocate gets the memory. What it got before it failed is Close's to free.
func (t *Table) allocate(c *Config, secret [32]byte) (err error) {
	if t.ports, err = newPorts(c.Pool4, c.Reserved, &t.hash); err != nil {
		return err
	}
	if t.bib, err = newBIB(len(t.ports.addrs)); err != nil {
		return err
	}
	if err = t.away.allocate(len(t.ports.addrs)); err != nil {
		return err
	}
	if t.clients, err = newClients(c.Sessions); err != nil {
		return err
	}
	if t.blocks, err = newPortBlocks(c.PortBlocks, t.ports); err != nil {
		return err
	}
	buckets := bucketsFor((c.Sessions + c.Entries + c.Shards - 1) / c.Shards)
	var slots []slot
	if c.Dir != "" {
		if t.file, err = createSessionFile(c, buckets*lanes); err != nil {
			return err
		}
		slots = t.file.slots
	}
	for i := range c.Shards {
		var mine []slot
		if slots != nil {
			mine = slots[i*buckets*lanes:][:buckets*lanes]
		}
		s, err := newShard(t, i, buckets, mine, seedFor(secret, uint64(i)+1))
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		t.shards = append(t.shards, s)
		if c.Entries > 0 {
			s.recent, s.recentEntries = newRecents(c.Sessions), newRecents(c.Entries)
		}
		if c.AddressDependent || c.Entries > 0 {
			if s.peers, err = newPeers(buckets * lanes); err != nil {
				return fmt.Errorf("shard %d: %w", i, err)
			}
		}
	}
	return nil
}

// Close gives the memory back. Nobody may use the table, or a view, any more.
// The session file stays for the next New.
func (t *Table) Close() error {
	var errs []error
	for _, s := range t.shards {
		errs = append(errs, s.close())
	}
	if t.ports != nil {
		errs = append(errs, t.ports.close())
	}
	if t.bib != nil {
		errs = append(errs, t.bib.mem.unmap())
	}
	errs = append(errs, t.clients.close(), t.away.mem.unmap(), t.blocks.close())
	if t.file != nil {
		errs = append(errs, t.file.close())
	}
	t.shards, t.ports, t.bib, t.file = nil, nil, nil, nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close session table: %w", err)
	}
	return nil
}

// Shard gives a worker the part of the table that it owns.
func (t *Table) Shard(i int) *Shard { return t.shards[i] }

// Shards counts them.
func (t *Table) Shards() int { return len(t.shards) }

// Capacity is the limit on sessions.
func (t *Table) Capacity() int { return t.capacity }

// SetTimeouts changes the lifetimes, of present sessions as well: they notice
// within recheckTicks. Any goroutine.
func (t *Table) SetTimeouts(to Timeouts) {
	t.timeout[timeoutUDP].Store(uint32(max(to.UDP, 1)))
	t.timeout[timeoutICMP].Store(uint32(max(to.ICMP, 1)))
	t.timeout[timeoutEstablished].Store(uint32(max(to.TCPEstablished, 1)))
	t.timeout[timeoutTransitory].Store(uint32(max(to.TCPTransitory, 1)))
	t.timeout[timeoutSYN].Store(uint32(max(to.TCPIncomingSYN, 1)))
	t.timeout[timeoutEntry].Store(uint32(max(to.Entry, 1)))
	t.timeout[timeoutRevoked].Store(0)
}

// IncomingSYN is how long an unsolicited SYN is stored. Any goroutine.
func (t *Table) IncomingSYN() Tick { return Tick(t.timeout[timeoutSYN].Load()) }

// lifetime is how long a session may stay idle.
func (t *Table) lifetime(p Proto, st TCPState) Tick {
	return Tick(t.timeout[timeoutOf(p, st)].Load())
}

// BIB is a mapping as FindBIB found it.
type BIB struct {
	Client     Addr6
	ClientPort uint16
	Owner      int // the shard that alone may insert sessions for this client
	Static     bool
	Serves     bool // sessions of the protocol asked about use it, or it is static
}

// FindBIB finds the mapping that an IPv4 packet is addressed to, if there is
// one. Any goroutine.
func (t *Table) FindBIB(p Proto, mapped uint32, port uint16) (BIB, bool) {
	if set := t.statics.Load(); len(set.byMapped) > 0 {
		if e := set.byMapped[mappedKey{mapped, port, p}]; e != nil {
			return BIB{e.Client, e.ClientPort, t.Owner(e.Client, e.ClientPort), true, true}, true
		}
	}
	set, ok := t.poolSet(kindOf(p), mapped)
	if !ok {
		return BIB{}, false
	}
	e := &t.bib.entries[bibIndex(set, port)]
	client, cport, _, ok := e.read()
	if !ok {
		return BIB{}, false
	}
	return BIB{client, cport, t.Owner(client, cport), false, e.serves(p)}, true
}

// Flush ends every session. The shards do it bit by bit in their next calls of
// Expire. Any goroutine.
func (t *Table) Flush() { t.sweepAll.Add(1) }

// CacheFull says that the next entry takes the place of another. Any
// goroutine.
func (t *Table) CacheFull() bool { return t.freeEntries.Load() <= 0 }

// FlushHandoff forgets everything that handoff servers gave: entries and the
// sessions over them. The servers have it, so nothing breaks. Any goroutine.
func (t *Table) FlushHandoff() { t.sweepHandoff.Add(1) }
