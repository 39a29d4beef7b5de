package handoff

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"handoff64/conntrack"
	"handoff64/ring"
)

// Config is what Open builds a Worker from.
type Config struct {
	Pool4 []uint32       // one control channel per server each
	Pool6 []netip.Prefix // in the order of conntrack.Key64.Pool6; entries exist for /96 prefixes alone

	ServerPort, ClientPort uint16

	KeyFile     string
	KeyRotation time.Duration // of tokens
	StateFile   string        // the capable servers; empty: beside the key file

	BatchDelay         time.Duration // how long a notification may wait for others
	StrangersPerSecond int           // packets sent because of senders that nobody has checked; 0 sends none

	Links      []*Link  // one for each packet worker
	WorkerWake []func() // wakes a packet worker after something was pushed to it; empty: they poll

	Owner   func(client conntrack.Addr6, port uint16) int // the packet worker that owns a client's mappings
	Servers *conntrack.Servers                            // what packet workers know of servers; the handoff worker writes it
	UMEM    *ring.UMEM                                    // that all frames lie in
	Walk    func(func(conntrack.SessionInfo) bool)        // all live sessions; for any goroutine

	// Mapped says whether a mapping of our own still is the client's. An entry is
	// not told again once it is gone: the port may be another client's by then.
	// nil: mappings last. For any goroutine.
	Mapped func(own uint32, port uint16, client conntrack.Addr6, clientPort uint16) bool

	Log *slog.Logger
}

// Tuning is what can be changed while a Worker runs; the fields are Config's.
type Tuning struct {
	BatchDelay         time.Duration
	StrangersPerSecond int
}

// Tune changes the tuning. The worker follows at its next round, before it
// sends anything else. Any goroutine.
func (w *Worker) Tune(t Tuning) {
	w.tuning.Store(&t)
	w.sleep.interrupt()
}

// check reports every problem at once.
func (c *Config) check() error {
	var errs []error
	say := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	say(len(c.Pool4) == 0, "pool4: at least one address is needed")
	say(c.ServerPort == 0, "server_port: 0 is no port")
	say(c.ClientPort == 0, "client_port: 0 is no port")
	say(c.KeyFile == "", "key_file: a path is needed")
	say(c.BatchDelay < 0, "batch_delay: %v is negative", c.BatchDelay)
	say(c.StrangersPerSecond < 0, "stranger_packets_per_second: %d is negative", c.StrangersPerSecond)
	say(len(c.Links) == 0, "links: at least one packet worker is needed")
	say(len(c.WorkerWake) != 0 && len(c.WorkerWake) != len(c.Links), "worker wake: %d functions for %d links", len(c.WorkerWake), len(c.Links))
	say(c.Owner == nil || c.Servers == nil || c.UMEM == nil || c.Walk == nil || c.Log == nil, "owner, servers, UMEM, walk and log are needed")
	for _, p := range c.Pool6 {
		ok := p.IsValid() && p.Addr().Is6() && slices.Contains([]int{32, 40, 48, 56, 64, 96}, p.Bits())
		say(!ok, "pool6: %s is no prefix as RFC 6052 §2.2 has them", p)
	}
	if len(errs) > 0 {
		return fmt.Errorf("handoff configuration: %w", errors.Join(errs...))
	}
	return nil
}

func (c *Config) stateFile() string {
	if c.StateFile != "" {
		return c.StateFile
	}
	return filepath.Join(filepath.Dir(c.KeyFile), "handoff.servers")
}
